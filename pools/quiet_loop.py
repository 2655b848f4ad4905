"""Lock, log out, suspend, shut down or give back desktops that nobody uses, as their pool's policy says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx, get
from backend.events import record
from backend.loops import FromRows
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from backend.vms.commands.guest import LockGuest, LogOutGuest
from backend.vms.commands.power import ShutdownVm
from backend.vms.commands.suspend import SuspendVm
from backend.vms.models import Vm
from pools import facts, leases, members, times
from pools.models import Lease, Pool
from pools.quiet import Due, Quietness, Watched, due
from pools.rounds import alone

WATCHED = ("active", "expiring")
WHAT = {
    "lock": "its screen is locked", "log_out": "whoever is logged in is logged out", "suspend": "it is suspended",
    "shutdown": "it is shut down", "end": "the lease ends",
}  # fmt: skip


class QuietLoop(FromRows):
    """Looks for desktops without input or without a console. `watched` answers how each lease's desktop is watched."""

    name, every_s = "quiet", 2.0

    def __init__(self, clock: Clock, watched: Callable[[Tx, UUID], Mapping[UUID, Watched]]) -> None:
        self.clock, self.watched = clock, watched

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        somehow = sa.or_(sa.and_(Pool.idle_s > 0, Pool.idle_action != "nothing"), Pool.disconnect_action != "nothing")
        for pool in tx.scalars(sa.select(Pool).where(somehow).order_by(Pool.name)).all():
            watched = self.watched(tx, pool.id)
            running = tx.scalars(
                sa.select(Lease)
                .join(Vm, Vm.id == Lease.vm_id)
                .where(Lease.pool_id == pool.id, Lease.state.in_(WATCHED), Vm.state == "up")
            )
            for lease in running.all():
                seen = watched.get(lease.id, Watched())
                if _due(lease, pool, seen, now) is not None or _back(lease, seen):
                    with alone(tx, lease=str(lease.id)):
                        self._look(tx, lease.id, pool, seen, now)

    def _look(self, tx: Tx, lease_id: UUID, pool: Pool, seen: Watched, now: datetime) -> None:
        lease = get(tx, Lease, lease_id, lock=True)  # it was due on a snapshot; decided under its lock
        if lease.state not in WATCHED:
            return
        if _back(lease, seen):
            lease.idle_warned_at, lease.why = None, ""
            touch(tx, "lease", lease.id, user_id=lease.user_id, pool_id=lease.pool_id)
        if (what := _due(lease, pool, seen, now)) is not None:
            (_warn if what.warn else _act)(tx, lease, pool, what, now)


def _due(lease: Lease, pool: Pool, seen: Watched, now: datetime) -> Due | None:
    quietness = Quietness(pool.idle_s, pool.idle_action, pool.disconnect_s, pool.disconnect_action)
    assert lease.starts_at is not None
    return due(
        quietness, lease.starts_at, seen, now, idle_done_at=lease.idle_done_at,
        disconnect_done_at=lease.disconnect_done_at, warned_at=lease.idle_warned_at,
    )  # fmt: skip


def _back(lease: Lease, seen: Watched) -> bool:
    """Whether somebody who was warned has done something since."""
    return lease.idle_warned_at is not None and seen.input_at is not None and seen.input_at > lease.idle_warned_at


def _warn(tx: Tx, lease: Lease, pool: Pool, what: Due, now: datetime) -> None:
    at = times.for_people(tx, pool.id, what.at, now)
    lease.idle_warned_at = now
    lease.why = f"Nothing has been done here for a while: at {at} {WHAT[what.action]}. Press a key to go on."
    record(tx, "lease.quiet_soon", lease, **facts.words(tx, lease), at=at, what=WHAT[what.action])
    touch(tx, "lease", lease.id, user_id=lease.user_id, pool_id=lease.pool_id)
    members.tell_guest(tx, get(tx, Vm, lease.vm_id), lease.why, now)


def _act(tx: Tx, lease: Lease, pool: Pool, what: Due, now: datetime) -> None:
    idle, vm = what.cause == "idle", get(tx, Vm, lease.vm_id)
    why = "Nothing was done for a while" if idle else "No console was open for a while"
    record(tx, "lease.quiet", lease, **facts.words(tx, lease), why=why, what=WHAT[what.action])
    if idle:
        lease.idle_done_at = now
    else:
        lease.disconnect_done_at = now
    if what.action == "end":
        leases.give_back(tx, lease, "idle" if idle else "disconnected", f"{why}, so the desktop went back to its pool.", now)
        return
    commands: dict[str, Any] = {
        "lock": LockGuest(vm.id), "log_out": LogOutGuest(vm.id), "suspend": SuspendVm(vm.id),
        "shutdown": ShutdownVm(vm.id, pool.shutdown_s),
    }  # fmt: skip
    if what.action in ("lock", "log_out") and not vm.guest_agent:
        return  # nobody inside to ask; the event tells that it was due
    lease.off_wanted = what.action in ("suspend", "shutdown")
    submit(tx, commands[what.action], SYSTEM, now)
    touch(tx, "lease", lease.id, user_id=lease.user_id, pool_id=lease.pool_id)
