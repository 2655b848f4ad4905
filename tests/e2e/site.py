"""A whole portal to look at: real PostgreSQL, web and gateway processes, the real manager on simulated hosts."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import urllib3

from agent.consoles import Consoles
from backend.clock import WallClock
from backend.db import Tx, new_sessions
from backend.directory import internal
from backend.hosts.loop import Screens
from backend.hosts.models import Host
from backend.secrets import Keyring
from backend.vms.models import Vm
from broker.loop import TicketsLoop
from hostapi.tls import server_context
from hostapi.types import Protocol, Screen
from hostapi.verbs import HostRefused
from pools.models import Pool
from sim import make
from sim.display import PictureDisplay, webp
from sim.installation import Installation
from sim.postgres import Cluster
from tests.broker.processes import ROOT, GatewayProcess, free_port, wait_until
from tests.pki import Pki

PASSWORD = "correct horse battery"


class Site:
    """Start, look with a browser at `url`, stop. `world` is the data center behind it."""

    def __init__(self, folder: Path, cluster: Cluster, *, boot_s: float = 1.5) -> None:
        self.folder, self.cluster = folder, cluster
        self.database = cluster.new_database()
        self.sessions = new_sessions(cluster.url(self.database))
        self.pki = Pki(folder / "pki")
        key = secrets.token_bytes(32)
        self.key_file = folder / "key"
        self.key_file.touch(0o600)
        self.key_file.write_bytes(key)
        self.clock, self.keyring = WallClock(), Keyring(key)
        self.world = Installation(self.sessions, self.clock, boot_s=boot_s, shutdown_s=0.3, keyring=self.keyring)
        self.world.loops += [TicketsLoop(self.clock), Screens(self.world.door, self.clock)]
        self.displays: dict[UUID, PictureDisplay] = {}
        self.agent = Consoles(self._display_port, "127.0.0.1", 0, server_context(*self.pki.issue("host", "localhost")))
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.gateway = GatewayProcess(folder, self.pki, cluster.url(self.database), self.key_file)
        self.gateway.environ["LEASEHOLD_PUBLIC_URL"] = self.url
        self.log = folder / "web.log"
        self.web: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._manager = threading.Thread(target=self._manage, daemon=True)
        self._hash = internal.hash_password(PASSWORD)

    # -- what is there ---------------------------------------------------------------------------------
    def add_host(self, name: str = "alpha", address: str = "localhost") -> UUID:
        """A simulated host whose consoles are this site's; the gateway reaches them at the address."""
        host_id = self.world.add_host(address)
        with self.sessions.begin() as tx:
            host = tx.get_one(Host, host_id)
            host.name, host.console_port = name, self.agent.port
        return host_id

    def add_user(self, name: str, display_name: str = "", *, on: Any = (), role: str = "", **fields: Any) -> UUID:
        """An internal user with the password; entitled to these pools, or with a role on everything."""
        with self.sessions.begin() as tx:
            user = make.a_user(tx, name, display_name=display_name or name.capitalize(), password_hash=self._hash, **fields)
            for pool_id in on:
                make.a_permission(tx, user, tx.get_one(Pool, pool_id))
            if role:
                make.a_permission(tx, user, None, role)
            return user.id

    def add_vm(self, name: str, owner: UUID) -> UUID:
        """A VM of somebody's own, switched off."""
        with self.sessions.begin() as tx:
            from backend.directory.models import User

            pool = tx.scalars(sa.select(Pool)).first()
            vm = make.a_vm(
                tx,
                name,
                boot={"kernel": "/srv/vmlinuz", "initrd": "/srv/initrd", "cmdline": "quiet"},
                boot_timeout_s=30,
                template_id=pool.template_id if pool else None,
            )
            make.a_permission(tx, tx.get_one(User, owner), vm)
            return vm.id

    def display(self, vm_id: UUID) -> PictureDisplay:
        """The display of a VM; made when it is first asked for."""
        if vm_id not in self.displays:
            with self.sessions() as tx:
                name = tx.get_one(Vm, vm_id).name
            self.displays[vm_id] = PictureDisplay(name, lambda: self._password(vm_id))
        return self.displays[vm_id]

    def display_of(self, name: str) -> PictureDisplay:
        """The display of the VM of this name."""
        return self.display(self.read(lambda tx: tx.scalar(sa.select(Vm.id).where(Vm.name == name))))

    def _password(self, vm_id: UUID) -> str | None:
        return next((p for m in self.world.sim.machines.values() if (p := m.host.password(vm_id, "vnc"))), None)

    def _display_port(self, vm_id: UUID, protocol: Protocol) -> int | None:
        if protocol != "vnc":
            raise HostRefused("no_display", "This host is a simulation: it has VNC alone.")
        return self.display(vm_id).port

    # -- looking -----------------------------------------------------------------------------------------
    def read(self, question: Callable[[Tx], Any]) -> Any:
        """What the database says."""
        with self.sessions() as tx:
            return question(tx)

    def until(self, question: Callable[[Tx], Any], what: str, limit_s: float = 60) -> Any:
        """What the database says as soon as it is anything true."""
        return wait_until(lambda: self.read(question), what, limit_s)

    # -- life ---------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Everything but the rows."""
        self.agent.start()
        self._manager.start()
        self.gateway.start()
        shown = self.pki.issue("web", "localhost")
        settings = {
            "database_url": self.cluster.url(self.database),
            "secret_key_file": self.key_file,
            "public_url": self.url,
            "web_listen": f"127.0.0.1:{self.port}",
            "gateway_public": self.gateway.public,
            "tls_cert_file": shown.cert_file,
            "tls_key_file": shown.key_file,
            "ca_file": self.pki.ca_file,
            "hosts_ca_file": self.pki.ca_file,
        }
        with self.log.open("wb") as log:
            self.web = subprocess.Popen(
                [sys.executable, "-c", "import wsgi; wsgi.main()"],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, **{f"LEASEHOLD_{k.upper()}": str(v) for k, v in settings.items()}},
            )
        wait_until(self._answers, "the portal answers")

    def _answers(self) -> bool:
        assert self.web is not None and self.web.poll() is None, self.log.read_text()
        try:
            pool = urllib3.PoolManager(ca_certs=str(self.pki.ca_file), retries=False)
            return bool(pool.request("GET", f"{self.url}/sign-in", timeout=5).status == 200)
        except urllib3.exceptions.HTTPError:
            return False

    def _manage(self) -> None:
        while not self._stopping.is_set():
            try:
                self.world.tick(0.1)
            except sa.exc.DBAPIError:
                if not self._stopping.is_set():
                    raise

    def stop(self) -> None:
        """End everything and drop the database."""
        self._stopping.set()
        self._manager.join(30)
        for display in self.displays.values():
            display.stop()
        self.agent.stop()
        if self.gateway.process is not None:
            self.gateway.stop()
        if self.web is not None:
            self.web.terminate()
            self.web.wait(30)
        self.sessions.kw["bind"].dispose()
        self.cluster.drop(self.database)


def paint_screens(site: Site) -> None:
    """Let the simulated hosts' small pictures be those of the displays."""
    names: dict[UUID, str] = {}

    def screens(host: Any) -> Callable[[tuple[UUID, ...]], tuple[Screen, ...]]:
        def shown(vm_ids: tuple[UUID, ...]) -> tuple[Screen, ...]:
            running = {run_id: run.spec.name for run_id, run in host.runs.items()}
            names.update(running)
            return tuple(Screen(vm_id, 480, 300, webp(names[vm_id])) for vm_id in vm_ids if vm_id in running)

        return shown

    for machine in site.world.sim.machines.values():
        machine.host.screens = screens(machine.host)  # type: ignore[method-assign]
