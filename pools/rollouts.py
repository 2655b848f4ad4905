"""Move a pool's desktops to a new version of its template, or back: one round after the other, from rows alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx, get
from backend.events import move
from backend.loops import FromRows
from backend.tasks.command import SYSTEM
from backend.tasks.models import ResourceLock, Task
from backend.tasks.submit import submit
from backend.vms.models import Vm
from pools import booked, leases, versions
from pools.member_commands import AddMember
from pools.member_rules import member_name
from pools.models import LIVE, OPEN, Lease, Pool, PoolMember, Rollout
from pools.remake import RemakeMember
from pools.rollout_rules import IDLE, Desktop, next_round
from pools.rounds import NO_RESET, alone, may_start, my_turn, status

KEPT = "Waits:"


class RolloutLoop(FromRows):
    """Takes every rollout that is under way one round further."""

    name, every_s = "rollouts", 1.0

    def __init__(self, clock: Clock, every_s: float = 1.0) -> None:
        self.clock, self.every_s = clock, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        for pool in tx.scalars(sa.select(Pool).join(Rollout, Rollout.pool_id == Pool.id).where(sa.text(f"rollout.{OPEN}"))).all():
            if my_turn(tx, pool.id):
                with alone(tx, rollout=pool.name):
                    _round(tx, pool, now)


def words(tx: Tx, rollout: Rollout, **more: str) -> dict[str, Any]:
    """The names that sentences about this rollout are filled with."""
    return {
        "pool": get(tx, Pool, rollout.pool_id).name,
        "to": versions.label(tx, rollout.to_template_id),
        "old": versions.label(tx, rollout.from_template_id),
        **more,
    }


def _round(tx: Tx, pool: Pool, now: datetime) -> None:
    rollout = versions.open_one(tx, pool.id)
    if rollout is None:
        return
    if pool.state == "removing":
        move(tx, rollout, "cancel", words=words(tx, rollout, actor="Leasehold"), why="The pool is being removed.", ended_at=now)
        return
    wanted = versions.target(rollout) or rollout.to_template_id
    if wanted is None:
        return
    desktops = desktops_of(tx, pool.id, wanted)
    if versions.target(rollout) is not None:
        _go_on(tx, rollout, pool, wanted, desktops, now)
    counted = [d for d in desktops if d.state != "removing"]
    done = sum(d.wanted for d in counted)
    if (rollout.done, rollout.total) != (done, len(counted)):
        rollout.done, rollout.total = done, len(counted)
        touch(tx, "rollout", rollout.id, pool_id=pool.id)


def _go_on(tx: Tx, rollout: Rollout, pool: Pool, wanted: UUID, desktops: list[Desktop], now: datetime) -> None:
    todo = next_round(versions.rolling(tx, rollout, pool, now), desktops)
    if todo.halt:
        halt(tx, rollout, halted_why(tx, rollout), "Leasehold")
        return
    if todo.done:
        _end(tx, rollout, pool, sum(d.state == "broken" for d in desktops), now)
        return
    _say_kept(tx, rollout, todo.kept)
    if todo.proved:
        versions.prove(tx, pool.id, wanted)
    if (todo.prove or todo.make) and not may_start(tx, pool, now):
        return  # it cannot be seen now whether the version boots
    for member_id in todo.move:
        with alone(tx, member=str(member_id)):
            _remake(tx, member_id, RemakeMember(member_id, wanted, todo.prove), now)
    if todo.make:
        number, pool.next_member = pool.next_member, pool.next_member + 1
        with alone(tx, pool=pool.name):
            submit(tx, AddMember(pool.id, member_name(pool.name, number), wanted), SYSTEM, now)
    for lease_id in todo.recall:
        with alone(tx, lease=str(lease_id)):
            why = rollout.message or "Your administrator is giving this pool a new version of its desktop."
            leases.recall(tx, get(tx, Lease, lease_id, lock=True), pool, why, now)


def _say_kept(tx: Tx, rollout: Rollout, kept: int) -> None:
    """What it waits for, where bookings keep desktops from moving; what failed last is told before that."""
    why = f"{KEPT} {booked.many(kept)} stay for who has booked." if kept else ""
    if rollout.why != why and (not rollout.why or rollout.why.startswith(KEPT)):
        rollout.why = why
        touch(tx, "rollout", rollout.id, pool_id=rollout.pool_id)


def _remake(tx: Tx, member_id: UUID, command: RemakeMember, now: datetime) -> None:
    """Take the desktop out of service at once, so that nobody is given it before the task begins."""
    idle = sa.select(PoolMember).where(PoolMember.id == member_id, PoolMember.state.in_(IDLE))
    fresh = {"populate_existing": True}
    member = tx.scalars(idle.with_for_update(skip_locked=True).execution_options(**fresh)).first()
    if member is None:
        return
    task = submit(tx, command, SYSTEM, now)
    event = {"ready": "reset", "spare": "fell", "suspended": "fell", "broken": "repair"}[member.state]
    names = {"vm": get(tx, Vm, member.vm_id).name, "pool": get(tx, Pool, member.pool_id).name}
    move(tx, member, event, words=names, task_id=task.id, why="")


def halted_why(tx: Tx, rollout: Rollout) -> str:
    """Why it halts by itself, and what one can do."""
    many = "1 desktop" if rollout.failures == 1 else f"{rollout.failures} desktops"
    last = f" The last one said: {rollout.why.rstrip('.')}." if rollout.why and not rollout.why.startswith(KEPT) else ""
    return f"{many} of {versions.label(tx, rollout.to_template_id)} failed.{last} Roll back, or resume."


def halt(tx: Tx, rollout: Rollout, why: str, actor: str) -> None:
    """No further desktop moves; those made meanwhile are of the old version, which worked."""
    pool = get(tx, Pool, rollout.pool_id)
    move(tx, rollout, "halt", words=words(tx, rollout, actor=actor, why=why), why=why)
    if rollout.from_template_id is not None:
        versions.use(tx, pool, rollout.from_template_id)
    touch(tx, "pool", pool.id, pool_id=pool.id)


def _end(tx: Tx, rollout: Rollout, pool: Pool, broken: int, now: datetime) -> None:
    few = {0: "", 1: " 1 desktop is set aside."}.get(broken, f" {broken} desktops are set aside.")
    back = rollout.state == "rolling_back"
    why = f"All desktops are of {versions.label(tx, versions.target(rollout))}.{few}" if not broken else few.strip()
    move(tx, rollout, "rolled_back" if back else "succeed", words=words(tx, rollout, few=few), why=why, ended_at=now)
    touch(tx, "pool", pool.id, pool_id=pool.id)


def desktops_of(tx: Tx, pool_id: UUID, wanted: UUID) -> list[Desktop]:
    """The pool's members as a rollout to this version sees them, by name."""
    busy = sa.exists().where(ResourceLock.resource == sa.func.concat("vm:", sa.cast(PoolMember.vm_id, sa.Text)))
    rows = tx.execute(
        sa.select(
            PoolMember.id, PoolMember.state, Vm.template_id, Vm.state, Task.command, Task.state,
            Task.args["template_id"].astext, busy, Lease.id, Lease.state,
        )
        .join(Vm, Vm.id == PoolMember.vm_id)
        .outerjoin(Task, Task.id == PoolMember.task_id)
        .outerjoin(Lease, sa.and_(Lease.vm_id == PoolMember.vm_id, sa.text(f"lease.{LIVE}")))
        .where(PoolMember.pool_id == pool_id)
        .order_by(sa.func.length(Vm.name), Vm.name)
    )  # fmt: skip
    found = []
    for id, state, template_id, vm_state, command, task_state, to, locked, lease_id, lease in rows:
        how = status(task_state) if command == versions.REMAKE and to == str(wanted) else "none"
        found.append(
            Desktop(
                member_id=id,
                state=state,
                wanted=template_id == wanted,
                up=vm_state == "up",
                moving=how == "live",
                tried=how == "failed" and state == "broken",
                busy=locked or vm_state in NO_RESET,
                lease_id=lease_id,
                lease=lease or "",
            )
        )
    return found


def retry(tx: Tx, pool_id: UUID) -> None:
    """Desktops that were set aside when they were made anew may be tried again."""
    failed = sa.select(Task.id).where(Task.command == versions.REMAKE, Task.state.in_(("failed", "cancelled")))
    tx.execute(
        sa.update(PoolMember)
        .where(PoolMember.pool_id == pool_id, PoolMember.state == "broken", PoolMember.task_id.in_(failed))
        .values(task_id=None)
        .execution_options(synchronize_session=False)
    )
