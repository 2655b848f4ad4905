"""What rows tell of the load on hosts and storage, of plans for spares, and of how many people came at this time before."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.calendars.rules import Hours
from backend.db import Tx, get
from backend.hosts.models import Host
from backend.storage.models import StorageDomain
from backend.tasks.models import Task
from backend.vms.commands.power import StartVm
from backend.vms.commands.suspend import SuspendVm
from backend.vms.models import Template, Vm
from pools.member_commands import AddMember
from pools.models import Lease, Pool, SparePlan
from pools.spares import WEEKS, at_once, window

_TOOK = sa.func.extract("epoch", Task.ended_at - Task.started_at)
SAVE_AGAIN = timedelta(minutes=5)  # a pool whose spare could not be suspended keeps them running for so long
_KNOWN = 200  # the latest so many tell how long one takes in quiet times


def plans(tx: Tx, pool_id: UUID) -> list[tuple[Hours, int]]:
    """The pool's other numbers of spares, with their hours."""
    rows = tx.execute(
        sa.select(Calendar, SparePlan.spares).join(SparePlan, SparePlan.calendar_id == Calendar.id)
        .where(SparePlan.pool_id == pool_id)
    )  # fmt: skip
    return [(calendar.hours, spares) for calendar, spares in rows]


def asked_before(tx: Tx, pool_id: UUID, now: datetime, ahead: timedelta) -> list[int]:
    """How many asked for a desktop of the pool in the time ahead, a week ago, two weeks ago and so on."""
    counts = [
        sa.func.count().filter(Lease.asked_at >= then, Lease.asked_at < then + ahead)
        for then in (now - timedelta(weeks=week) for week in range(1, WEEKS + 1))
    ]
    oldest = now - timedelta(weeks=WEEKS)
    row = tx.execute(sa.select(*counts).where(Lease.pool_id == pool_id, Lease.asked_at >= oldest, Lease.asked_at < now)).one()
    return list(row)


def starts(tx: Tx, pool: Pool, now: datetime) -> int:
    """How many more VMs may be started now on the hosts of the pool's cluster."""
    hosts = tx.scalar(sa.select(sa.func.count()).where(Host.cluster_id == pool.cluster_id, Host.state == "up")) or 0
    here = sa.select(Vm.id).where(Vm.cluster_id == pool.cluster_id)
    of = sa.and_(Task.command == StartVm.name, Task.object_id.in_(here))
    under_way = sa.select(sa.func.count()).where(of, Task.state.in_(("queued", "running")))
    return max(0, _at_once(tx, hosts, of, now) - (tx.scalar(under_way) or 0))


def makes(tx: Tx, pool: Pool, now: datetime) -> int:
    """How many desktops of the pool may be under construction at once on its storage domain."""
    same = sa.select(Pool.id).where(Pool.domain_id == pool.domain_id)
    return _at_once(tx, 1, sa.and_(Task.command == AddMember.name, Task.object_id.in_(same)), now)


def no_room_to_save(tx: Tx, pool: Pool) -> str:
    """Why spares of the pool cannot be suspended, when there is no room for a desktop's memory beside its disk; else empty."""
    domain = get(tx, StorageDomain, pool.domain_id)
    room = domain.free_mib > get(tx, Template, pool.template_id).memory_mib
    return "" if room else f"Storage domain {domain.name} has no room for the memory of a desktop."


def save_refused(tx: Tx, pool: Pool, now: datetime) -> bool:
    """Whether a spare of the pool could not be suspended just now."""
    of = sa.and_(Task.command == SuspendVm.name, Task.object_id.in_(sa.select(Vm.id).where(Vm.pool_id == pool.id)))
    return bool(tx.scalar(sa.select(sa.exists().where(of, Task.state == "failed", Task.ended_at > now - SAVE_AGAIN))))


def _at_once(tx: Tx, places: int, of: Any, now: datetime) -> int:
    done = sa.and_(of, Task.state == "succeeded", Task.started_at.is_not(None))
    known = sa.select(_TOOK.label("s")).where(done).order_by(Task.ended_at.desc()).limit(_KNOWN).subquery()
    alone = tx.scalar(sa.select(sa.func.percentile_cont(0.2).within_group(known.c.s)))
    since = now - window(alone)
    lately = tx.execute(sa.select(_TOOK, Task.started_at).where(done, Task.ended_at > since)).all()
    if not lately:
        return at_once(places, (), None, 0)
    first = min((started for _, started in lately if started is not None), default=since)
    span = now - max(since, first)  # less, when nothing was started before
    return at_once(places, [float(s) for s, _ in lately], float(alone) if alone else None, span.total_seconds())
