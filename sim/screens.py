"""Consoles of simulated VMs: their painted displays, the small pictures of them, and how their hosts show themselves."""

from __future__ import annotations

import ssl
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import UUID

from backend.ca import Authority
from backend.clock import Clock
from hostapi.tls import DOMAIN, server_context
from hostapi.types import Protocol
from hostapi.verbs import HostRefused
from sim.display import SMALL, PictureDisplay, webp
from sim.world import World


class Displays:
    """The painted display of every VM of a world, made when it is first looked at."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made: dict[UUID, PictureDisplay] = {}
        world.picture = cache(lambda name: (*SMALL, webp(name)))

    def port(self, vm_id: UUID, protocol: Protocol) -> int | None:
        """Where it listens; None when the VM does not run."""
        if protocol != "vnc":
            raise HostRefused("no_display", "This host is a simulation: it has VNC alone.")
        runs = (machine.host.runs.get(vm_id) for machine in list(self._world.machines.values()))
        if (run := next(filter(None, runs), None)) is None:
            return None
        if vm_id not in self._made:
            self._made[vm_id] = PictureDisplay(run.spec.name, partial(self._password, vm_id))
        return self._made[vm_id].port

    def _password(self, vm_id: UUID) -> str | None:
        hosts = [machine.host for machine in list(self._world.machines.values()) if vm_id in machine.host.runs]
        return next((told for host in hosts if (told := host.password(vm_id, "vnc"))), None)


def any_host(authority: Authority, clock: Clock, folder: Path) -> ssl.SSLContext:
    """Shows the certificate of whichever host is asked for by name: all simulated hosts live in one process."""
    ca_file = folder / "hosts-ca-seen.pem"
    ca_file.write_text(authority.pem())

    def issue(name: str) -> ssl.SSLContext:
        key, certificate = authority.issue(name[:64], "host", [name], clock.now())
        with tempfile.TemporaryDirectory() as briefly:
            key_file, cert_file = Path(briefly) / "key.pem", Path(briefly) / "cert.pem"
            key_file.write_text(key)
            cert_file.write_text(certificate)
            return server_context(ca_file, cert_file, key_file)

    issued = cache(issue)

    def choose(sock: Any, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None and name.endswith(f".host.{DOMAIN}"):
            sock.context = issued(name)

    context = issue(f"nobody.host.{DOMAIN}")
    context.sni_callback = choose
    return context
