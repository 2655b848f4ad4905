"""VMs arrive at this host: let in, and at the end either all here or not at all."""

from __future__ import annotations

import os
import time
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from agent.moves import Moves
from agent.peers import Gates
from agent.virt import HypervisorDown
from hostapi.verbs import HostRefused, Steering

LOOK_S = 0.2
ARRIVE_S = 20.0  # what has not arrived so long after its streams were cut never will
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")


class Arriving:
    """The destination's side of migrations."""

    def __init__(self, moves: Moves, libvirt_uri: str) -> None:
        self.moves, self.gates = moves, Gates(_socket(libvirt_uri))

    def let_in(self, vm_id: UUID, migration_id: UUID, source_id: UUID) -> None:
        """Expect this VM from that host; refuses when it runs here."""
        how = self.moves.arrival(vm_id)
        if how == "running":
            raise HostRefused("runs_here", "The VM runs on this host already.", vm_id=str(vm_id))
        if how in ("arriving", "torn"):
            self.moves.throw_away(vm_id)
        self.gates.open(migration_id, vm_id, source_id)

    def settle(self, vm_id: UUID, migration_id: UUID, steering: Steering) -> bool:
        """Whether the VM is here and goes on; if not, nothing of it is. Waits for libvirt as long as that takes: nothing
        else knows."""
        self.gates.close(migration_id)
        end = time.monotonic() + ARRIVE_S
        while True:
            try:
                how = self.moves.arrival(vm_id)
                if how in (None, "running"):
                    return how is not None
                if how == "waiting":
                    self.moves.go_on(vm_id)
                elif how == "torn" or time.monotonic() > end:
                    self.moves.throw_away(vm_id)
            except HypervisorDown:
                steering.progress(50, "Waiting for libvirt")
            time.sleep(LOOK_S)

    def hides(self, vm_id: UUID, state: str) -> bool:
        """Whether what libvirt shows of the VM is only its arrival: it does not run here yet."""
        return state == "paused" and vm_id in self.gates.awaited()


def _socket(uri: str) -> str:
    """Where the libvirt of this URI listens."""
    given = parse_qs(urlsplit(uri).query).get("socket")
    return given[0] if given else next((path for path in SOCKETS if os.path.exists(path)), SOCKETS[0])
