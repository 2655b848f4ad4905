"""Where chaos takes place: PostgreSQL, certificates, rows, and the product's processes, killed and started again."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from uuid import UUID

import assembly  # noqa: F401 -- every table must be known before the first flush
from backend.ca import HOSTS_CA, HOSTS_CA_KEY, Authority, keep_hosts_authority, write_private
from backend.clock import WallClock
from backend.db import Sessions, new_sessions
from backend.directory.internal import hash_password
from bench.processes import free_port, listens
from hostapi.tls import host_name
from sim import make
from sim.postgres import Cluster
from standalone.processes import Process
from tests.chaos.host import lose_power
from tests.chaos.options import Options

ROOT = Path(__file__).parents[2]
PASSWORD = "a good long password"
PATIENCE_S = 120  # for a process to listen, on however busy a machine


class Place:
    """Everything that runs. `close` stops it and, when all was well, removes its folder."""

    def __init__(self, options: Options) -> None:
        self.options, self.folder = options, Path(tempfile.mkdtemp(prefix="lh-chaos-"))
        self.cluster = Cluster(durable=True)
        self.cluster.start()
        self.postgres_runs = True
        self.url = self.cluster.url(self.cluster.new_database())
        self.sessions: Sessions = new_sessions(self.url)
        self.web, self.gateway = free_port(), free_port()
        self.public = f"https://localhost:{self.web}"
        self.hosts = {f"host{n + 1}": (free_port(), free_port()) for n in range(options.hosts)}
        self.pools: list[UUID] = []
        self.own: list[UUID] = []  # pools whose desktops belong to people, each for `options.own` of them
        self.ended: Counter[str] = Counter()  # processes that ended by themselves
        self._set_up()
        self.parts: dict[str, Process] = {}

    # -- processes ---------------------------------------------------------------------------------
    def start(self) -> None:
        """Start every process, and wait until all of them listen."""
        gateway = {"CLIENT_CERT_FILE": f"{self.folder}/gateway.pem", "CLIENT_KEY_FILE": f"{self.folder}/gateway-key.pem"}
        for name, (port, console_port) in self.hosts.items():
            self._add(name, {}, "-m", "tests.chaos.host", str(self.folder), name, str(port), str(console_port), f"/srv/{name}")
        for n in range(self.options.managers):
            self._add(f"manager{n + 1}", {}, "managerd.py")
        self._add("web", {}, "wsgi.py")
        self._add("gateway", gateway, "-m", "broker.gateway")
        ports = [self.web, self.gateway, *(port for host in self.hosts.values() for port in host)]
        self.until(lambda: all(listens(port) for port in ports), "all processes listen", PATIENCE_S)

    def _add(self, name: str, more: dict[str, str], *argv: str) -> None:
        environ = {"PYTHONPATH": str(ROOT)} | {f"LEASEHOLD_{key}": value for key, value in (self._settings() | more).items()}
        command = [sys.executable, *(str(ROOT / word) if word in ("wsgi.py", "managerd.py") else word for word in argv)]
        self.parts[name] = Process(name, command, self.folder / f"{name}.log", environ, SIGTERM)

    def kill(self, name: str, mode: str, *, power: bool = False) -> None:
        """SIGKILL; PostgreSQL is stopped in this mode; a host whose `power` fails loses its VMs too."""
        if name == "postgres":
            self.cluster.halt(mode)
            self.postgres_runs = False
        else:
            self.parts[name].popen.kill()
            self.parts[name].popen.wait()
            if power:
                lose_power(self.folder / f"{name}.state")

    def revive(self, name: str) -> None:
        """Start it again."""
        if name == "postgres":
            self.cluster.serve()
            self.postgres_runs = True
        else:
            self.parts[name].start()

    def watch(self, seconds: float, dead: frozenset[str] = frozenset()) -> None:
        """Let time pass; start again what ends without having been killed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.1)
            for name, part in self.parts.items():
                if name not in dead and part.popen.poll() is not None:
                    self.ended[f"{name} ended with {part.popen.returncode}: {part.last_words()}"] += 1
                    part.start()

    def until(self, true: Callable[[], bool], what: str, limit_s: float) -> None:
        """Watch until this is so; AssertionError with the ends of all logs otherwise."""
        end = time.monotonic() + limit_s
        while not true():
            words = "\n".join(f"{part.name}: {part.last_words()}" for part in self.parts.values())
            assert time.monotonic() < end, f"never: {what}.\n{words}"
            self.watch(0.2)

    def close(self, keep: bool) -> None:
        for part in reversed(self.parts.values()):
            part.stop()
        self.sessions.kw["bind"].dispose()
        if not self.postgres_runs:
            self.cluster.serve()
        self.cluster.stop()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def pools_of(self, n: int) -> list[UUID]:
        """The pools of the n-th person."""
        return self.pools + self.own[n // self.options.own:][:1]

    def logs(self) -> dict[str, str]:
        """What every process has written since the beginning."""
        return {name: part.log.read_text(errors="replace") for name, part in self.parts.items()}

    # -- what is there -----------------------------------------------------------------------------
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=f"{self.folder}/ca.pem")

    def _settings(self) -> dict[str, str]:
        at = self.folder
        return {
            "DATABASE_URL": self.url, "SECRET_KEY_FILE": f"{at}/key", "PUBLIC_URL": self.public,
            "WEB_LISTEN": f"127.0.0.1:{self.web}", "GATEWAY_PUBLIC": f"localhost:{self.gateway}",
            "GATEWAY_LISTEN": f"127.0.0.1:{self.gateway}", "TLS_CERT_FILE": f"{at}/web.pem", "TLS_KEY_FILE": f"{at}/web-key.pem",
            "CA_FILE": f"{at}/ca.pem", "HOSTS_CA_FILE": f"{at}/{HOSTS_CA}", "HOSTS_CA_KEY_FILE": f"{at}/{HOSTS_CA_KEY}",
            "CLIENT_CERT_FILE": f"{at}/manager.pem", "CLIENT_KEY_FILE": f"{at}/manager-key.pem",
        }

    def _set_up(self) -> None:
        now, options = WallClock().now(), self.options
        ours = Authority.create(now)
        ours.save(self.folder / "ca.pem", self.folder / "ca-key.pem")
        hosts_ca = keep_hosts_authority(self.folder, now)
        self._certificate(ours, "web", "web", ["localhost", "127.0.0.1"])
        write_private(self.folder / "key", os.urandom(32))
        with self.sessions.begin() as tx:
            people = [make.a_user(tx, person(n), password_hash=hash_password(PASSWORD)) for n in range(options.people)]
            for name, (port, console_port) in self.hosts.items():
                host = make.a_host(
                    tx, name, address="127.0.0.1", port=port, console_port=console_port, reported_at=now, boot_id="",
                )  # fmt: skip
                self._certificate(hosts_ca, name, "host", [host_name(host.id)])
                domain = make.a_domain(tx, host, name=f"{name}-disks", path=f"/srv/{name}")
                template = make.a_template(tx, f"{name} template", domain=domain, boot_timeout_s=60)
                pool = make.a_pool(
                    tx, f"Desktops {name}", host=host, domain=domain, template=template, size=options.desktops, spares=1,
                    lease_s=options.lease_s, warn_s=2, grace_s=2, extend_s=options.lease_s // 2, extensions=2, shutdown_s=10,
                    book_desktops=1, book_open=1, book_hold_s=0,
                )  # fmt: skip
                self.pools.append(pool.id)
                for one in people:
                    make.a_permission(tx, one, pool)
                own = make.a_pool(
                    tx, f"Own {name}", host=host, domain=domain, template=template, size=options.own, spares=0, type="dedicated",
                    stateless=False, lease_s=options.lease_s, warn_s=2, grace_s=2, shutdown_s=10, extend_s=options.lease_s // 2,
                )  # fmt: skip
                for one in people[len(self.own) * options.own:][:options.own]:  # as many as there are desktops
                    make.a_permission(tx, one, own)
                self.own.append(own.id)

    def _certificate(self, authority: Authority, name: str, role: str, names: list[str]) -> None:
        key, certificate = authority.issue(name, role, names, WallClock().now())
        (self.folder / f"{name}.pem").write_text(certificate)
        write_private(self.folder / f"{name}-key.pem", key.encode())


def person(n: int) -> str:
    """The name of the n-th person."""
    return f"person{n + 1}"
