"""Evacuate (a loop): hosts that go into maintenance are emptied by live migration; what cannot leave, and why, in rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clock import Clock
from backend.clusters.models import Cluster
from backend.db import Tx
from backend.errors import Busy, Refused
from backend.events import record
from backend.hosts.models import Evacuation, Host
from backend.loops import FromRows
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.models import Task
from backend.tasks.submit import cancel, submit
from backend.vms.commands.migrate import MigrateVm
from backend.vms.machine import NOT_RUNNING
from backend.vms.models import Vm

LEAVING = ("preparing_for_maintenance", "maintenance")  # what arrives late at a host in maintenance leaves it, too
AGAIN_AFTER = timedelta(seconds=15)
AHEAD = 2  # so many times what a host may be at: the next ones wait already when a place becomes free
LIVE = ("queued", "running")


def obstacle(vm_state: str) -> str:
    """Why a VM in this state cannot be migrated; empty when it can. One that only goes through a state is waited for."""
    return {
        "up": "",
        "paused": "It is paused: let it go on, or power it off.",
        "unknown": "Its host does not say whether it runs.",
        "not_responding": "It does not respond.",
    }.get(vm_state, f"It is {vm_state.replace('_', ' ')}; waiting until that is over.")


class Evacuate(FromRows):
    """Empty hosts. `others` answers the VMs that somebody else takes care of: free desktops are shut down instead."""

    name, every_s = "evacuate", 2.0

    def __init__(self, clock: Clock, others: Callable[[Tx], Iterable[UUID]]) -> None:
        self.clock, self.others = clock, others

    def apply(self, tx: Tx, found: Any) -> None:
        hosts = tx.scalars(sa.select(Host).where(Host.state.in_(LEAVING)).order_by(Host.name)).all()
        _forget(tx)
        if not hosts:
            return
        free = set(self.others(tx))
        for host in hosts:
            self._empty(tx, host, free)

    def _empty(self, tx: Tx, host: Host, free: set[UUID]) -> None:
        now, actor = self.clock.now(), Actor(SYSTEM.user_id, SYSTEM.name, reason_of(host))
        known = {row.vm_id: row for row in tx.scalars(sa.select(Evacuation).where(Evacuation.host_id == host.id))}
        places = AHEAD * tx.scalar(sa.select(Cluster.migrations_per_host).where(Cluster.id == host.cluster_id))  # type: ignore[operator]
        for vm in tx.scalars(
            sa.select(Vm).where(Vm.host_id == host.id, Vm.state.not_in(NOT_RUNNING)).order_by(sa.func.length(Vm.name), Vm.name)
        ):
            row = known.get(vm.id) or _new(tx, host, vm, now)
            task = tx.get(Task, row.task_id) if row.task_id is not None else None
            if vm.id in free:
                _say(tx, row, vm, host, "It is a free desktop: it is shut down.", quiet=True)
            elif task is not None and task.state in LIVE:
                places -= 1
            elif vm.state == "migrating":
                _say(tx, row, vm, host, "", quiet=True)
            elif why := obstacle(vm.state):
                _say(tx, row, vm, host, why, quiet=vm.state not in ("paused", "unknown", "not_responding"))
            else:
                if task is not None and task.error:
                    _say(tx, row, vm, host, task.error["message"])
                if places > 0 and (row.tried_at is None or now - row.tried_at >= AGAIN_AFTER):
                    places -= self._send(tx, row, vm, host, actor, now)

    def _send(self, tx: Tx, row: Evacuation, vm: Vm, host: Host, actor: Actor, now: datetime) -> int:
        """Ask for its migration; why an earlier one failed stands until this one is of use."""
        try:
            with tx.begin_nested():
                row.task_id = submit(tx, MigrateVm(vm.id), actor, now).id
                row.tried_at = now
                return 1
        except Busy as busy:
            _say(tx, row, vm, host, busy.message, quiet=True)
        except Refused as no:
            row.tried_at = now
            _say(tx, row, vm, host, no.message)
        return 0


def call_off(tx: Tx, host: Host, now: datetime) -> None:
    """The host is not to be emptied any more: migrations that were asked for to that end are cancelled."""
    rows = tx.scalars(sa.select(Evacuation).where(Evacuation.host_id == host.id)).all()
    for row in rows:
        task = tx.get(Task, row.task_id, with_for_update=True, populate_existing=True) if row.task_id is not None else None
        if task is not None and task.state in LIVE:
            cancel(tx, task, now)
        touch(tx, "evacuation", row.id)
        tx.delete(row)
    tx.flush()


def turn_away(tx: Tx, host: Host, now: datetime) -> None:
    """Nothing is to arrive at the host any more: migrations on their way to it are cancelled."""
    coming = sa.select(Vm.id).where(Vm.destination_id == host.id)
    for task in tx.scalars(
        sa.select(Task).where(Task.command == MigrateVm.name, Task.object_id.in_(coming), Task.state.in_(LIVE)).with_for_update()
    ):
        cancel(tx, task, now)


def reason_of(host: Host) -> str:
    """Why a VM leaves, as its task and events have it."""
    return f"Maintenance of host {host.name}"


def _new(tx: Tx, host: Host, vm: Vm, now: datetime) -> Evacuation:
    row = Evacuation(host_id=host.id, vm_id=vm.id, began_at=now)
    tx.add(row)
    tx.flush()
    touch(tx, "evacuation", row.id)
    return row


def _say(tx: Tx, row: Evacuation, vm: Vm, host: Host, why: str, *, quiet: bool = False) -> None:
    if row.why == why:
        return
    row.why = why
    touch(tx, "evacuation", row.id)
    if why and not quiet:
        record(tx, "vm.cannot_leave", vm, host=host.name, why=why)


def _forget(tx: Tx) -> None:
    """Rows of VMs that have left, and of hosts that are not to be emptied any more."""
    here = sa.select(Vm.id).join(Host, Host.id == Vm.host_id).where(
        Vm.id == Evacuation.vm_id, Vm.host_id == Evacuation.host_id, Vm.state.not_in(NOT_RUNNING), Host.state.in_(LEAVING)
    )
    gone = tx.execute(sa.delete(Evacuation).where(~here.exists()).returning(Evacuation.id)).scalars().all()
    for id in gone:
        touch(tx, "evacuation", id)
