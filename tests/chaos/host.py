"""A host whose VMs live on when its agent is killed: `python -m tests.chaos.host FOLDER NAME PORT CONSOLE_PORT DOMAIN`.

The agent's desk, journal, TLS server and console port are the real ones; the VMs below them are the simulator's, kept in a
file, for what a hypervisor holds does not go with the agent. A verb's effect is in the file before the verb has ended.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from agent.consoles import Consoles
from backend.clock import WallClock
from hostapi.desk import Desk
from hostapi.journal import Journal
from hostapi.server import HostServer
from hostapi.tls import server_context
from hostapi.types import HostReport, Protocol, VolumeSpec
from hostapi.verbs import STEPS, HostRefused
from sim.host import SimHost
from sim.world import SimStorage, World
from tests.broker.browser import Display

LAUNCH_S, BOOT_S, SHUTDOWN_S = 0.2, 1.0, 0.5


class KeptHost(SimHost):
    """As `SimHost`; what it remembers is in a file."""

    def __init__(self, world: World, name: str, file: Path) -> None:
        super().__init__(world, name, cpus=64, memory_mib=262_144)
        self._file = file
        if file.exists():
            self.boot_id, self.runs, self.tickets, self.domains, world.storage = pickle.loads(file.read_bytes())

    def keep(self) -> None:
        """Write down what is, in one piece."""
        with self.world.lock:
            state = pickle.dumps((self.boot_id, self.runs, self.tickets, self.domains, self.world.storage))
            new = self._file.with_suffix(".new")
            new.write_bytes(state)
            os.replace(new, self._file)

    def report(self) -> HostReport:
        with self.world.lock:
            self.keep()  # nobody is told of what a kill could still undo
            return super().report()

    def display_passwords(self) -> Iterator[str]:
        """All that are accepted now."""
        with self.world.lock:
            found = [self.password(vm_id, protocol) for vm_id, protocol in self.tickets]
        yield from (password for password in found if password is not None)


def _kept(verb: str) -> Any:
    def do(self: KeptHost, *args: Any, **named: Any) -> Any:
        try:
            return getattr(SimHost, verb)(self, *args, **named)
        finally:
            self.keep()

    return do


for _verb in STEPS:
    setattr(KeptHost, _verb, _kept(_verb))


def left(file: Path) -> tuple[dict[UUID, str], dict[UUID, VolumeSpec]]:
    """What a host's file holds: the names of the VMs that run, and all volumes."""
    _, runs, _, _, storage = pickle.loads(file.read_bytes())
    folders: list[SimStorage] = list(storage.values())
    return {vm_id: run.spec.name for vm_id, run in runs.items()}, {k: v for one in folders for k, v in one.volumes.items()}


def lose_power(file: Path) -> None:
    """What is left of a host, whose process is dead, when it comes back from a power failure: its volumes alone."""
    _, _, _, domains, storage = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps((str(uuid4()), {}, {}, domains, storage)))


class _Passwords:
    def __init__(self, host: KeptHost) -> None:
        self._host = host

    def __iter__(self) -> Iterator[str]:
        return self._host.display_passwords()


def main() -> None:
    """Serve until killed."""
    folder, name, port, console_port, domain = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    files = [folder / "hosts-ca.pem", folder / f"{name}.pem", folder / f"{name}-key.pem"]
    world = World(WallClock(), launch_s=LAUNCH_S, boot_s=BOOT_S, shutdown_s=SHUTDOWN_S)
    host = KeptHost(world, name, folder / f"{name}.state")
    host.domains.add(domain)
    world.folder(domain)
    host.keep()
    display = Display()
    display.passwords = _Passwords(host)  # type: ignore[assignment]

    def display_port(vm_id: UUID, protocol: Protocol) -> int:
        if vm_id not in host.runs:
            raise HostRefused("vm_not_running", f"The VM does not run on host {name}.")
        return display.port

    Consoles(display_port, "127.0.0.1", console_port, server_context(*files)).start()
    HostServer(Desk(host, Journal(folder / f"{name}.journal")), "127.0.0.1", port, server_context(*files)).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
