"""What happens in the life of a simulated run besides beginning and ending: pauses, storage that fails it, its own reboots."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from hostapi.types import EndedBy, PausedFor, VmSpec
from hostapi.verbs import HostRefused, Steering

if TYPE_CHECKING:
    from sim.world import World


@dataclass
class Run:
    """A VM that runs here."""

    spec: VmSpec
    since: datetime
    boots_at: datetime | None  # None: its guest agent will never answer
    off_at: datetime | None = None
    reboots_at: datetime | None = None
    paused_for: PausedFor = ""
    boots: int = 0


class Lives:
    """The part of `SimHost` that pauses and disturbs what runs."""

    world: World
    runs: dict[UUID, Run]
    ends: dict[UUID, EndedBy]
    _changed: threading.Condition

    # -- steps -----------------------------------------------------------------------------------
    def pause_vm(self, vm_id: UUID, steering: Steering) -> None:
        """It stands still."""
        with self._changed:
            run = self._run(vm_id)
            run.paused_for = run.paused_for or "asked"

    def unpause_vm(self, vm_id: UUID, steering: Steering) -> None:
        """It goes on, unless its storage fails it still."""
        with self._changed:
            run = self._run(vm_id)
            folders = [self.world.folder_of(disk.path) for disk in run.spec.disks]
            if run.paused_for in ("ioerror", "enospc") and any(f is not None and (f.broken or f.full) for f in folders):
                raise HostRefused("stalled", "The VM is paused again: its storage fails it still.", vm_id=str(vm_id))
            run.paused_for = ""

    # -- what the world does to it ----------------------------------------------------------------
    def disturb(self, name: str, what: str) -> None:
        """The storage fails the VM of this name, or its guest reboots, crashes or shuts down by itself."""
        with self._changed:
            for vm_id in [vm_id for vm_id, run in self.runs.items() if run.spec.name == name]:
                if what in ("io_error", "no_space"):
                    self.runs[vm_id].paused_for = "ioerror" if what == "io_error" else "enospc"
                elif what == "reboots":
                    self.runs[vm_id].boots += 1
                    self._boot_anew(self.runs[vm_id])
                else:
                    self._end(vm_id)
                    self.ends[vm_id] = "crashed" if what == "panics" else "guest" if what == "shutdown" else "failed"

    # -- of the host ------------------------------------------------------------------------------
    def _run(self, vm_id: UUID) -> Run:
        raise NotImplementedError

    def _end(self, vm_id: UUID) -> None:
        raise NotImplementedError

    def _boot_anew(self, run: Run) -> None:
        raise NotImplementedError
