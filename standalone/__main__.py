"""A whole Leasehold on this machine with real desktops: `python -m standalone`, which `make run` calls."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import urllib3

from agent import config as agent_config
from agent.probe import kvm_works
from backend.ca import HOSTS_CA, HOSTS_CA_KEY, Authority, keep_hosts_authority, write_private
from backend.clock import WallClock
from standalone import guest, postgres, seed
from standalone.guest import GuestImage
from standalone.libvirt import Libvirt
from standalone.place import Place, free_pair, is_free, loopbacks, prepare
from standalone.processes import Processes, Stopped
from standalone.trouble import Trouble

STARTED = time.monotonic()


def say(part: str, text: str) -> None:
    """One line of progress."""
    print(f"{time.monotonic() - STARTED:6.1f} s  {part:<9} {text}", flush=True)


def main() -> None:
    """Start everything, say READY, and run until Ctrl-C or SIGTERM; 1 with one sentence when something is missing."""
    parser = argparse.ArgumentParser("standalone", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path("var/standalone"), help="where everything is kept")
    parser.add_argument("--port", type=int, default=8443, help="of the portal; the gateway's is one more")
    given = parser.parse_args()
    try:
        place, lock = prepare(given.state, given.port)
    except Trouble as trouble:
        sys.exit(f"\n{trouble}")
    processes = Processes(place.state / "log", say)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: processes.stopping.set())
    libvirt: list[Libvirt] = []
    sentence = None
    try:
        _start(place, processes, libvirt)
        processes.watch()
    except Stopped:
        pass
    except Trouble as trouble:
        sentence = str(trouble)
    finally:
        _stop(place, processes, libvirt)
        lock.close()
    sys.exit(f"\n{sentence}" if sentence else 0)


def _start(place: Place, processes: Processes, libvirt: list[Libvirt]) -> None:
    image = _guest(place)
    passwords = place.passwords((seed.ADMIN, *(person.name for person in seed.PEOPLE)))
    _certificates(place)

    say("postgres", "starts")
    database = postgres.start(processes, place)
    settings = _settings(place, database)
    file = place.run / "admin-password"
    write_private(file, passwords[seed.ADMIN].encode())
    _run_once(processes, "init", "managerd", "init", "--admin-password-file", str(file), env=settings["manager"])
    file.unlink()
    libvirt.append(Libvirt(processes, place))

    for name, module in (("manager", "managerd"), ("gateway", "broker.gateway"), ("web", "wsgi")):
        say(name, "starts")
        part = processes.python(name, module, env=settings[name])
    processes.until(lambda: _answers(place), part, "The portal's start")

    rest = seed.Rest(place.url, place.tls / "ca.pem", passwords[seed.ADMIN], processes.stopping) if _is_new(place) else None
    if rest is not None and not (place.agent / agent_config.FILE).exists():
        _enroll(place, processes, libvirt[0].uri, str(seed.infrastructure(rest).get("token", "")))
    _start_agent(place, processes, libvirt[0].uri, image)
    if rest is not None:
        say("seed", "storage, template, pool and people are made")
        seed.desktops(rest, image, place.storage, passwords)
        (place.state / "seeded").touch()
    _tell(place, passwords)


def _stop(place: Place, processes: Processes, libvirt: list[Libvirt]) -> None:
    """Everything, in the order in which nothing misses what it needs; a second Ctrl-C changes nothing."""
    say("stop", "desktops and processes are stopped")
    place.ready.unlink(missing_ok=True)
    processes.stop("web", "gateway", "manager")
    kept = {row[0] for row in postgres.ask(place, "SELECT id::text FROM vm WHERE pool_id IS NULL")}
    for one in libvirt:
        one.stop(kept)
    processes.stop()
    subprocess.run(["rm", "-rf", place.run], check=False)
    say("stop", f"done; the data stay in {place.state}")


# -- the parts ---------------------------------------------------------------------------------------------------------
def _guest(place: Place) -> GuestImage:
    """The guest's files of this state folder. Never built anew: disks are overlays of it."""
    folder = place.storage / "guest"
    if not (folder / "stamp").exists():
        say("guest", "is built from Debian's kernel, busybox and guest agent")
        return guest.build(folder)
    return guest.image_in(folder)


def _certificates(place: Place) -> None:
    """Both CAs and the manager's key, kept; everybody's own certificate, new at each start."""
    now, ca_file, ca_key = WallClock().now(), place.tls / "ca.pem", place.tls / "ca-key.pem"
    if not ca_key.exists():
        Authority.create(now).save(ca_file, ca_key)
    authority = Authority.load(ca_file, ca_key)
    names = sorted({"localhost", "127.0.0.1", "::1", socket.gethostname()})
    key, certificate = authority.issue("web", "web", names, now)
    write_private(place.tls / "web-key.pem", key.encode())
    (place.tls / "web.pem").write_text(certificate)
    keep_hosts_authority(place.tls, now)
    if not (secret := place.tls / "secret.key").exists():
        write_private(secret, secrets.token_bytes(32))


def _settings(place: Place, database: str) -> dict[str, dict[str, str]]:
    """Write each process's settings file and answer its environment; only the manager is told of the CAs' keys."""
    tls = place.tls
    common = {
        "database_url": database,
        "secret_key_file": str(tls / "secret.key"),
        "public_url": place.url,
        "web_listen": f"127.0.0.1:{place.port}",
        "gateway_public": f"localhost:{place.gateway_port}",
        "gateway_listen": ",".join(f"{address}:{place.gateway_port}" for address in loopbacks()),
        "ca_file": str(tls / "ca.pem"),
        "hosts_ca_file": str(tls / HOSTS_CA),
        "tls_cert_file": str(tls / "web.pem"),  # the face that portal and gateway share
        "tls_key_file": str(tls / "web-key.pem"),
    }
    environments = {}
    for role in ("manager", "gateway", "web"):
        shown = "portal" if role == "web" else role  # web.pem is the face that it shows to people
        own = {"client_cert_file": str(tls / f"{shown}.pem"), "client_key_file": str(tls / f"{shown}-key.pem")}
        if role == "manager":  # the first for agents of a folder that is older than its hosts' CA
            own |= {"ca_key_file": str(tls / "ca-key.pem"), "hosts_ca_key_file": str(tls / HOSTS_CA_KEY)}
        file = place.state / f"{role}.toml"
        # TOML's strings are written as JSON's are
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in (common | own).items()))
        environments[role] = {"LEASEHOLD_CONFIG": str(file)}
    return environments


def _run_once(processes: Processes, name: str, module: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    """A program that ends by itself; `Trouble` with its last words when it fails."""
    part = processes.python(name, module, *arguments, env=env)
    while part.popen.poll() is None:
        if processes.stopping.wait(0.1):
            raise Stopped
    processes.parts.remove(part)
    if part.popen.returncode:
        raise Trouble(f"{name} failed: {part.last_words()}. All of it is in {part.log}.")


def _answers(place: Place) -> bool:
    http = urllib3.PoolManager(ca_certs=str(place.tls / "ca.pem"), retries=False, timeout=5)
    try:
        return http.request("GET", f"{place.url}/readyz").status == 200
    except urllib3.exceptions.HTTPError:
        return False


def _enroll(place: Place, processes: Processes, uri: str, token: str) -> None:
    """The agent enrolls as on any other host: with its one-time token."""
    say("agent", "enrolls this machine with a one-time token")
    port, console_port = free_pair()
    _run_once(
        processes, "enroll", "agent", "enroll", "--manager", place.url, "--token", token, "--ca-file", str(place.tls / "ca.pem"),
        "--state", str(place.agent), "--name", seed.HOST, "--address", "127.0.0.1", "--listen", "127.0.0.1",
        "--port", str(port), "--console-port", str(console_port), "--libvirt-uri", uri,
        "--storage-root", str(place.storage), "--virt-type", "qemu", "--wait", "120",
    )  # fmt: skip


def _start_agent(place: Place, processes: Processes, uri: str, image: GuestImage) -> None:
    """The agent, with KVM when a guest really boots under it."""
    config = agent_config.load(place.agent)
    for port in (config.port, config.console_port):
        if not is_free(port):
            raise Trouble(f"Port {port}, which this machine's agent was enrolled with, is taken by another program: stop that.")
    proof = kvm_works(image.kernel, image.initrd)
    say("agent", f"Desktops run with {'KVM' if proof.works else 'emulation (TCG)'}: {proof.why.splitlines()[0]}")
    changed = {"libvirt_uri": uri, "virt_type": "kvm" if proof.works else "qemu"}
    agent_config.save(place.agent, agent_config.AgentConfig(**{**vars(config), **changed}))
    part = processes.python("agent", "agent", "run", "--state", str(place.agent))
    processes.until(lambda: "READY" in part.said(), part, "The agent's start")


def _is_new(place: Place) -> bool:
    """Whether this folder was never filled to the end. Later what an administrator removed stays removed."""
    return not (place.state / "seeded").exists()


def _tell(place: Place, passwords: dict[str, str]) -> None:
    roles = {seed.ADMIN: "administrator", **{person.name: person.role for person in seed.PEOPLE}}
    users = [{"name": name, "password": passwords[name], "role": role} for name, role in roles.items()]
    ready = {"url": place.url, "ca_file": str(place.tls / "ca.pem"), "users": users}
    write_private(place.ready, json.dumps(ready, indent=1).encode())
    if owner := os.environ.get("SUDO_UID"):
        os.chown(place.ready, int(owner), int(os.environ.get("SUDO_GID", owner)))
    print(f"\nREADY {place.url}\n")
    for user in users:
        print(f"  {user['name']:<6} {user['password']:<18} {user['role']}")
    print(f"\nThe same is in {place.ready}. Browsers trust it with {place.tls / 'ca.pem'}. Ctrl-C stops everything.", flush=True)


if __name__ == "__main__":
    main()
