"""What the rounds of the pools' loops have in common: one loop at a pool, one thing that fails alone, a desktop reset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend.db import Tx, get
from backend.errors import Refused
from backend.tasks.command import SYSTEM
from backend.tasks.submit import cancel, submit
from backend.vms.commands.power import StartVm
from backend.vms.models import Vm
from pools import members, troubles, versions
from pools.member_commands import ResetMember
from pools.models import Pool, PoolMember
from pools.remake import RemakeMember
from pools.room import room
from pools.trouble_rules import NO_BOOT

log = structlog.get_logger("pools")
NO_RESET = ("wait_for_launch", "unknown", "image_locked")  # VM states in which nothing can be asked of it yet


@contextmanager
def alone(tx: Tx, **what: Any) -> Iterator[None]:
    """One thing of a round: a refusal undoes it alone, and the next round looks again."""
    try:
        with tx.begin_nested():
            yield
            tx.flush()
    except (Refused, sa.exc.IntegrityError) as no:
        log.info("left for the next round", why=str(no).splitlines()[0], **what)


def my_turn(tx: Tx, pool_id: UUID) -> bool:
    """Whether this round may work on the pool: one loop of one manager at a time, so that none waits for another."""
    key = sa.func.hashtextextended(f"pool-round:{pool_id}", 0)
    return bool(tx.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key))))


def status(task_state: str | None) -> str:
    """How a task stands, as the rules see it: none, live, done or failed."""
    if task_state is None:
        return "none"
    return {"succeeded": "done", "failed": "failed", "cancelled": "failed"}.get(task_state, "live")


def may_start(tx: Tx, pool: Pool, now: datetime) -> bool:
    """Whether one more desktop can be started, as far as one can see; what is in the way is told."""
    if (obstacle := room(tx, pool).obstacle) is not None:
        troubles.see(tx, pool, obstacle, now)
        return False
    return not troubles.holding(pool) or pool.trouble_code == NO_BOOT or troubles.trying(pool, now)


def reset(tx: Tx, member: PoolMember, now: datetime) -> bool:
    """Have the member switched off and made as new; False while something else is at its VM. A start is cancelled."""
    vm = get(tx, Vm, member.vm_id)
    task = members.task_of(tx, member)
    if task is not None and task.command == StartVm.name and members.is_live(task):
        cancel(tx, task, now)
        return False
    if members.locked(tx, member) or vm.state in NO_RESET:
        return False
    version = versions.due(tx, member, now)
    if version is not None and version[1] and not may_start(tx, get(tx, Pool, member.pool_id), now):
        version = None  # it cannot be seen now whether the version boots
    command = ResetMember(member.id) if version is None else RemakeMember(member.id, *version)
    member.task_id = submit(tx, command, SYSTEM, now).id
    return True
