"""What libvirt's events tell of VMs and nothing else remembers: reboots, why the storage failed them, how they ended."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from uuid import UUID

from hostapi.types import EndedBy, VmEnd

ONE_BOOT_S = 0.5
REMEMBERED = 1000  # ends of VMs that were never started here again


class Runs:
    """Written by libvirt's event thread, read by everybody. It is lost with the agent, and nobody depends on it."""

    def __init__(self) -> None:
        self._boots: dict[UUID, int] = {}
        self._booted_at: dict[UUID, float] = {}
        self._full: set[UUID] = set()
        self._ends: OrderedDict[UUID, EndedBy] = OrderedDict()
        self._lock = threading.Lock()

    def boots(self, vm_id: UUID) -> int:
        """How often this VM was seen to begin anew, by its own reboot or by the reset button."""
        return self._boots.get(vm_id, 0)

    def booted_anew(self, vm_id: UUID) -> None:
        """Its guest rebooted, or its reset button was pressed. libvirt tells of a guest's own reboot twice."""
        with self._lock:
            now = time.monotonic()
            if now - self._booted_at.get(vm_id, -ONE_BOOT_S) >= ONE_BOOT_S:
                self._boots[vm_id] = self._boots.get(vm_id, 0) + 1
            self._booted_at[vm_id] = now

    def storage_full(self, vm_id: UUID) -> bool:
        """Whether its last I/O error was for want of room."""
        return vm_id in self._full

    def io_error(self, vm_id: UUID, full: bool) -> None:
        """The storage failed it."""
        with self._lock:
            (self._full.add if full else self._full.discard)(vm_id)

    def began(self, vm_id: UUID) -> None:
        """It was started: how its last run ended is no news any more."""
        with self._lock:
            self._ends.pop(vm_id, None)
            self._full.discard(vm_id)

    def ended(self, vm_id: UUID, by: EndedBy) -> None:
        """It went off. A crash that was told of first is what it was, whatever is told after it."""
        with self._lock:
            if self._ends.get(vm_id) != "crashed":
                self._ends[vm_id] = by
            while len(self._ends) > REMEMBERED:
                self._ends.popitem(last=False)

    def end_of(self, vm_id: UUID) -> EndedBy | None:
        """How its last run ended; None when it runs, or when nobody was here to see it."""
        return self._ends.get(vm_id)

    def ends(self) -> tuple[VmEnd, ...]:
        """How the VMs ended that were not started again since."""
        with self._lock:
            return tuple(VmEnd(vm_id, by) for vm_id, by in self._ends.items())
