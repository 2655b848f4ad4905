"""Free desktops on hosts that are being emptied: nobody misses them, so they are shut down instead of being migrated."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.clock import Clock
from backend.db import Tx
from backend.errors import Refused
from backend.hosts.evacuation import LEAVING, reason_of
from backend.hosts.models import Host
from backend.loops import FromRows
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.submit import submit
from backend.vms.commands.power import ShutdownVm, StopVm
from backend.vms.machine import NOT_RUNNING
from backend.vms.models import Vm
from pools.models import PoolMember

FREE = ("ready", "warming", "spare", "resetting", "broken", "removing")  # what nobody holds
PATIENCE_S = 60


def free(tx: Tx) -> list[UUID]:
    """The VMs of desktops that nobody holds."""
    return list(tx.scalars(sa.select(PoolMember.vm_id).where(PoolMember.state.in_(FREE))))


class LeaveLoop(FromRows):
    """Shuts them down; a guest that will not is powered off."""

    name, every_s = "leave", 2.0

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def apply(self, tx: Tx, found: Any) -> None:
        for vm, host in tx.execute(
            sa.select(Vm, Host).join(Host, Host.id == Vm.host_id).join(PoolMember, PoolMember.vm_id == Vm.id)
            .where(Host.state.in_(LEAVING), PoolMember.state.in_(("spare", "broken")), Vm.state.not_in(NOT_RUNNING))
            .order_by(Vm.name)
        ):  # fmt: skip
            actor = Actor(SYSTEM.user_id, SYSTEM.name, reason_of(host))
            would_not = vm.why.startswith("The guest did not shut down")
            command = StopVm(vm.id) if would_not or vm.state != "up" else ShutdownVm(vm.id, PATIENCE_S)
            try:
                with tx.begin_nested():
                    submit(tx, command, actor, self.clock.now())
            except Refused:
                continue  # something else is done with it just now
