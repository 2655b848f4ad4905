"""Which version of its template a desktop is to be made of, while a rollout is under way. From rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.events import record
from backend.tasks.models import Task
from backend.vms.models import Template, Vm
from pools import booked, capacity, troubles
from pools.models import OPEN, Pool, PoolMember, Rollout
from pools.rollout_rules import Rolling, may_move

REMAKE = "member.remake"
REMAKE_S = 60.0  # what it is thought to take in a pool where none has been made anew yet


def label(tx: Tx, template_id: UUID | None) -> str:
    """The version in words: Debian, version 2."""
    template = tx.get(Template, template_id) if template_id else None
    return f"{template.name}, version {template.version}" if template else "a version that is gone"


def open_one(tx: Tx, pool_id: UUID) -> Rollout | None:
    """The pool's rollout that has not ended."""
    wanted = sa.select(Rollout).where(Rollout.pool_id == pool_id, sa.text(OPEN))
    return tx.scalars(wanted.execution_options(populate_existing=True)).first()


def target(rollout: Rollout) -> UUID | None:
    """The version that desktops are moved to; None while none is."""
    return {"running": rollout.to_template_id, "rolling_back": rollout.from_template_id}.get(rollout.state)


def rolling(tx: Tx, rollout: Rollout, pool: Pool, now: datetime) -> Rolling:
    """The rollout as its rules see it."""
    making = sa.select(sa.func.count()).where(
        Task.command == "pool.add_member", Task.object_id == pool.id, Task.state.in_(("queued", "running")),
        Task.args["template_id"].astext == str(rollout.to_template_id),
    )  # fmt: skip
    return Rolling(
        mode=rollout.mode,
        batch=rollout.batch,
        proved=rollout.proved,
        failures=rollout.failures,
        halt_at=rollout.halt_at,
        size=pool.size,
        making=tx.scalar(making) or 0,
        backwards=rollout.state == "rolling_back",
        promised=promised(tx, pool, now),
    )


def promised(tx: Tx, pool: Pool, now: datetime) -> int:
    """How many desktops bookings need by the time at which one that is made anew from now on is there again."""
    if not booked.any_open(tx, pool.id):
        return 0
    here = sa.select(PoolMember.id).where(PoolMember.pool_id == pool.id)
    done = sa.and_(Task.command == REMAKE, Task.state == "succeeded", Task.object_id.in_(here))
    latest = sa.select(sa.func.extract("epoch", Task.ended_at - Task.created_at).label("s")).where(done)
    took = latest.order_by(Task.id.desc()).limit(20).subquery()
    mean = tx.scalar(sa.select(sa.func.avg(took.c.s)))
    return booked.reserved(tx, pool, now, capacity.margin(REMAKE_S if mean is None else float(mean)))


def moving(tx: Tx, pool_id: UUID) -> int:
    """How many desktops of the pool are being made of another version now."""
    live = sa.and_(Task.id == PoolMember.task_id, Task.command == REMAKE, Task.state.in_(("queued", "running")))
    count = sa.select(sa.func.count()).select_from(PoolMember).join(Task, live).where(PoolMember.pool_id == pool_id)
    return tx.scalar(count) or 0


def due(tx: Tx, member: PoolMember, now: datetime) -> tuple[UUID, bool] | None:
    """The version that a desktop is to be made of which is reset now, and whether it must prove it; None: its own. While
    bookings need desktops nothing is tried on one that they may be given."""
    rollout = open_one(tx, member.pool_id)
    wanted = target(rollout) if rollout else None
    if rollout is None or wanted is None:
        return None
    if rollout.proved and get(tx, Vm, member.vm_id).template_id == wanted:
        return None
    how = rolling(tx, rollout, get(tx, Pool, member.pool_id), now)
    if not rollout.proved and how.promised and how.mode != "at_once":
        return None
    return (wanted, not rollout.proved) if may_move(how, moving(tx, member.pool_id)) else None


def broke(tx: Tx, member: PoolMember, why: str) -> None:
    """A desktop is being set aside: if it is of the version that is rolled out, or was to become one, that counts."""
    rollout = open_one(tx, member.pool_id)
    if rollout is None or rollout.state != "running":
        return
    task = tx.get(Task, member.task_id) if member.task_id else None
    if get(tx, Vm, member.vm_id).template_id == rollout.to_template_id or (task is not None and task.command == REMAKE):
        one_more = {"failures": Rollout.failures + 1, "why": why}
        tx.execute(sa.update(Rollout).where(Rollout.id == rollout.id).values(one_more))
        touch(tx, "rollout", rollout.id, pool_id=rollout.pool_id)


def use(tx: Tx, pool: Pool, template_id: UUID) -> None:
    """New desktops of the pool are made of this version from now on; that those of the last one did not boot counts no more."""
    pool.template_id = template_id
    troubles.another_template(tx, pool)


def prove(tx: Tx, pool_id: UUID, template_id: UUID) -> None:
    """A desktop of this version has booted: if it is the one that is rolled out, the others may follow, and new ones are
    made of it."""
    rollout = open_one(tx, pool_id)
    if rollout is not None and not rollout.proved and target(rollout) == template_id:
        rollout.proved, rollout.why = True, ""
        pool = get(tx, Pool, pool_id)
        use(tx, pool, template_id)
        names: dict[str, Any] = {"pool": pool.name, "to": label(tx, template_id)}
        record(tx, "rollout.proved", rollout, **names)
        touch(tx, "rollout", rollout.id, pool_id=pool_id)
