"""`Center`: a whole Leasehold on simulated hosts, for people to click through: PostgreSQL, manager, web and gateway."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import urllib3

import assembly  # noqa: F401 -- every table must be known before the first row
from backend.ca import HOSTS_CA, HOSTS_CA_KEY, Authority, keep_hosts_authority, write_private
from backend.clock import WallClock
from backend.db import new_sessions
from sim.furnish import PEOPLE, Wanted, furnish
from sim.postgres import Cluster

MOST_OVER_THE_WIRE = 300  # with more of them the manager speaks to them within its own process
VMS_ON_A_HOST = 10
START_S, STOP_S = 120.0, 20.0
ROOT = Path(__file__).parent.parent


class Failed(Exception):
    """It did not start; `str()` says why."""


@dataclass
class Center:
    """Start it, tell it sentences, stop it. Everything is in a temporary folder that goes with it."""

    hosts: int = 200
    vms: int | None = None
    managers: int = 1
    port: int = 8443
    wire: bool | None = None
    boot_s: float = 5.0
    say: Callable[[str], None] = print
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="lh-sim-")))
    _parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.url = f"https://localhost:{self.port}"
        self.over_wire = self.hosts <= MOST_OVER_THE_WIRE if self.wire is None else self.wire
        self.passwords = {name: _password() for name in PEOPLE}
        self.cluster = Cluster()
        self._has_database = False
        if self.managers > 1 and not self.over_wire:
            raise Failed("Several managers reach their hosts over the wire: leave --in-process out, or ask for fewer hosts.")

    def start(self) -> None:
        """Everything, until the portal answers."""
        for number in (self.port, self.port + 1):
            if not _is_free(number):
                raise Failed(f"Port {number} is taken by another program: stop that, or choose another one with --port.")
        self.cluster.start()
        self._has_database = True
        database = self.cluster.url(self.cluster.new_database())
        environ = self._settings(database)
        agents = _free_port()
        vms = VMS_ON_A_HOST * self.hosts if self.vms is None else self.vms
        self.say(f"{self.hosts:,} hosts and {vms:,} VMs are written down")
        self._rows(database, vms, agents)
        arguments = ["--boot-s", str(self.boot_s)]
        if self.over_wire:
            self._start("hosts", "-m", "sim.hosts", *arguments, environ=environ, ready=True)
            for n in range(self.managers):
                self._start(f"manager-{n + 1}", "managerd.py", environ=environ)
        else:
            more = ["--console-port", str(agents + 1), "--lively"]
            self._start("hosts", "-m", "sim.manager", *arguments, *more, environ=environ, ready=True)
        self._start("gateway", "-m", "broker.gateway", environ=environ)
        self._start("web", "wsgi.py", environ=environ)
        self._until(self._answers, "web", "the portal")
        self._tell()

    def do(self, sentence: str) -> None:
        """Let something happen in the simulated data center."""
        told = self._parts["hosts"].stdin
        assert told is not None
        told.write(sentence.encode() + b"\n")
        told.flush()

    def ended(self) -> str | None:
        """The name of a part that has ended by itself, if there is one."""
        return next((name for name, part in self._parts.items() if part.poll() is not None), None)

    def stop(self) -> None:
        """End everything and remove the folder."""
        for part in reversed(self._parts.values()):
            if part.poll() is None:
                part.terminate()
        for part in self._parts.values():
            try:
                part.wait(STOP_S)
            except subprocess.TimeoutExpired:
                part.kill()
                part.wait()
        if self._has_database:
            self.cluster.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def last_words(self, name: str) -> str:
        """The end of a part's log."""
        return "\n".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-15:])

    # -- inside --------------------------------------------------------------------------------------
    def _settings(self, database: str) -> dict[str, str]:
        now, tls = WallClock().now(), self.folder
        authority = Authority.create(now)
        authority.save(tls / "ca.pem", tls / "ca-key.pem")
        keep_hosts_authority(tls, now)
        key, certificate = authority.issue("web", "web", ["localhost", "127.0.0.1"], now)
        (tls / "web.pem").write_text(certificate)
        write_private(tls / "web-key.pem", key.encode())
        write_private(tls / "key", secrets.token_bytes(32))
        return {
            "database_url": database, "secret_key_file": f"{tls}/key", "public_url": self.url,
            "web_listen": f"127.0.0.1:{self.port}", "gateway_public": f"localhost:{self.port + 1}",
            "gateway_listen": f"127.0.0.1:{self.port + 1}", "ca_file": f"{tls}/ca.pem", "tls_cert_file": f"{tls}/web.pem",
            "tls_key_file": f"{tls}/web-key.pem", "hosts_ca_file": f"{tls}/{HOSTS_CA}",
            "hosts_ca_key_file": f"{tls}/{HOSTS_CA_KEY}",
        }  # fmt: skip

    def _rows(self, database: str, vms: int, agents: int) -> None:
        clock = WallClock()
        authority = Authority.load(self.folder / HOSTS_CA, self.folder / HOSTS_CA_KEY)

        def sign(host_id: UUID, name: str) -> str:
            return authority.sign_host(authority.key.public_key(), host_id, name, clock.now())

        def address(n: int) -> tuple[str, int, int]:
            return (f"127.1.{n // 250}.{n % 250 + 1}" if self.over_wire else "127.0.0.1"), agents, agents + 1

        sessions = new_sessions(database)
        with sessions.begin() as tx:
            furnish(tx, Wanted(self.hosts, vms, address, sign), self.passwords, clock.now())
        sessions.kw["bind"].dispose()

    def _start(self, name: str, *argv: str, environ: dict[str, str], ready: bool = False) -> None:
        role = {"gateway": "gateway", "web": "portal"}.get(name, "manager")
        own = {**environ, "client_cert_file": f"{self.folder}/{role}.pem", "client_key_file": f"{self.folder}/{role}-key.pem"}
        log = (self.folder / f"{name}.log").open("wb")
        self._parts[name] = subprocess.Popen(
            [sys.executable, *argv], cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **{f"LEASEHOLD_{key.upper()}": value for key, value in own.items()}},
        )  # fmt: skip
        log.close()
        self.say(f"{name} starts")
        if ready:
            self._until(lambda: "READY" in self.last_words(name), name, f"the part {name}")

    def _until(self, true: Callable[[], bool], name: str, what: str) -> None:
        end = time.monotonic() + START_S
        while not true():
            if (dead := self.ended()) is not None:
                raise Failed(f"{dead} has ended:\n{self.last_words(dead)}")
            if time.monotonic() > end:
                raise Failed(f"{what} did not answer within {START_S:g} s:\n{self.last_words(name)}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        http = urllib3.PoolManager(ca_certs=str(self.folder / "ca.pem"), retries=False, timeout=5)
        try:
            return http.request("GET", f"{self.url}/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _tell(self) -> None:
        users = [{"name": name, "password": self.passwords[name], "role": told} for name, (_, _, told) in PEOPLE.items()]
        ready = {"url": self.url, "ca_file": str(self.folder / "ca.pem"), "users": users}
        write_private(self.folder / "ready.json", json.dumps(ready, indent=1).encode())


def run(center: Center) -> int:
    """Start it, tell where it is, hand on what is typed, and run until Ctrl-C; 1 when it did not start, or a part died."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        center.start()
        print(f"\nREADY {center.url}\n")
        for name, (_, _, told) in PEOPLE.items():
            print(f"  {name:<6} {center.passwords[name]:<18} {told}")
        print(f"\nThe same is in {center.folder}/ready.json. What happens there is told by sentences: power host-007 off;"
              " network host-008 off; vm office-3 crash. Ctrl-C stops everything.", flush=True)
        threading.Thread(target=_listen, args=(center,), daemon=True).start()
        while not stopping.wait(0.5):
            if (dead := center.ended()) is not None:
                raise Failed(f"{dead} has ended:\n{center.last_words(dead)}")
    except Failed as no:
        print(no, file=sys.stderr)
        return 1
    finally:
        center.stop()
    return 0


def _listen(center: Center) -> None:
    for sentence in sys.stdin:
        if sentence.strip():
            center.do(sentence.strip())


def _password() -> str:
    return "-".join("".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(5)) for _ in range(3))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _free_port() -> int:
    """A port of the loopback below those that outgoing connections take, with a free one after it."""
    for port in range(20_000 + 2 * (os.getpid() % 5000), 32_000, 2):
        if _is_free(port) and _is_free(port + 1):
            return port
    raise Failed("There is no free port for the simulated agents.")
