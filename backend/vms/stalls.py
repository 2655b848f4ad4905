"""What becomes of VMs that their storage has paused, once it is back: a pure rule, and the loop that follows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from backend.clock import Clock
from backend.db import Tx
from backend.errors import Busy, Refused
from backend.events import record
from backend.hosts.models import Host
from backend.hosts.rules import STALLS
from backend.loops import FromRows
from backend.storage.models import Disk, StorageDomain
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from backend.vms.commands.pause import UnpauseVm
from backend.vms.commands.power import StopVm
from backend.vms.models import Vm

WAIT = timedelta(seconds=10)  # after the pause: what flickers is given time to come to rest
AGAIN = timedelta(seconds=60)  # after an attempt that came to nothing
ROOM_MIB = 256  # a storage domain with less is full still


@dataclass(frozen=True)
class Stall:
    """A VM that its storage has paused; `well` when every storage domain of its disks is usable and has room."""

    pause: str
    behaviour: str
    paused_at: datetime
    tried_at: datetime | None
    well: bool


def due(stall: Stall, now: datetime) -> str | None:
    """What to do now: `unpause`, `stop`, or nothing."""
    if stall.pause not in STALLS or stall.behaviour == "leave_paused" or not stall.well or now - stall.paused_at < WAIT:
        return None
    if stall.tried_at is not None and timedelta(0) <= now - stall.tried_at < AGAIN:
        return None
    return "stop" if stall.behaviour == "kill" else "unpause"


class StallsLoop(FromRows):
    """Lets VMs go on, or powers them off, when the storage that had paused them is back."""

    name = "stalls"

    def __init__(self, clock: Clock, every_s: float = 5.0) -> None:
        self.clock, self.every_s = clock, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        paused = sa.select(Vm).join(Host, Host.id == Vm.host_id).where(
            Vm.state == "paused", Vm.pause.in_(STALLS), Vm.paused_at.is_not(None), Host.state == "up")  # fmt: skip
        for vm in tx.scalars(paused.order_by(Vm.name)).all():
            assert vm.paused_at is not None
            todo = due(Stall(vm.pause, vm.resume_behaviour, vm.paused_at, vm.unpaused_at, self._well(tx, vm)), now)
            if todo is None:
                continue
            try:
                with tx.begin_nested():
                    submit(tx, UnpauseVm(vm.id) if todo == "unpause" else StopVm(vm.id), SYSTEM, now)
            except Busy:
                continue  # somebody is at it; the next round looks again
            except Refused as no:
                vm.why = no.message
                continue
            vm.unpaused_at = now
            what = "goes on by itself" if todo == "unpause" else "is powered off, as it is set to be"
            record(tx, "vm.goes_on_by_itself", vm, what=what)

    def _well(self, tx: Tx, vm: Vm) -> bool:
        domains = tx.execute(
            sa.select(StorageDomain.state, StorageDomain.free_mib)
            .join(Disk, Disk.domain_id == StorageDomain.id)
            .where(Disk.vm_id == vm.id)
        ).all()
        return all(state == "active" and (vm.pause != "enospc" or free >= ROOM_MIB) for state, free in domains)
