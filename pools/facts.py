"""From rows to the plain facts that pools' and broker's rules are about. Reads only, on Core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.db import Tx
from backend.directory.models import Directory, User
from backend.directory.names import full_name
from backend.directory.rights import grants_of_many
from backend.directory.rules import Path
from backend.hosts.models import Host
from backend.tasks.models import Task
from backend.vms.models import Vm
from pools import capacity
from pools.capacity import Boots
from pools.choice import FREE, Candidate
from pools.estimate import Turn, estimate_s
from pools.models import LIVE, Assignment, Lease, Pool, PoolMember
from pools.policy import Policy
from pools.rules import HOLDING, entitled

BOOT_S = 45.0  # what a start is thought to take in a pool that has not started anything yet
RESUME_S = 10.0  # … and a resume
BURST = 64  # of the latest starts tell how many boot beside each other


def policy_of(pool: Pool) -> Policy:
    """The pool's policy as plain data."""
    values: dict[str, Any] = {field.name: getattr(pool, field.name) for field in fields(Policy)}
    return Policy(**values | {"rights": tuple(pool.rights), "protocols": tuple(pool.protocols)})


def extensions_left(pool: Pool, lease: Lease) -> int:
    """How often its holder may still extend it; a lease without an end needs none."""
    return max(0, pool.extensions - lease.extensions_used) if lease.ends_at else 0


_WITH_CENTER = (
    sa.select(Pool, Cluster.data_center_id)
    .join(Cluster, Cluster.id == Pool.cluster_id)
    .where(Pool.id == sa.bindparam("pool_id"))
    .execution_options(populate_existing=True)
)


def with_center(tx: Tx, pool_id: UUID) -> tuple[Pool | None, UUID | None]:
    """The pool, and the data center that it is in."""
    row = tx.execute(_WITH_CENTER, {"pool_id": pool_id}).first()
    return (row[0], row[1]) if row else (None, None)


def pool_path(tx: Tx, pool: Pool, center: UUID | None = None) -> Path:
    """The pool and everything above it, for the rules of rights."""
    center = center or tx.scalar(sa.select(Cluster.data_center_id).where(Cluster.id == pool.cluster_id))
    return (("pool", pool.id), ("cluster", pool.cluster_id), ("datacenter", center), ("system", None))


# Statements of connecting are made once: to make one takes longer than to ask it.
_OWNER, _OWNERS = User.__table__.alias("owner"), Directory.__table__.alias("owners")
_CURRENT = Vm.template_id.is_not_distinct_from(Pool.template_id)
_CANDIDATES = (
    sa.select(
        PoolMember.id,
        PoolMember.vm_id,
        Vm.name,
        PoolMember.state,
        Vm.state,
        sa.func.coalesce(Host.name, ""),
        sa.func.coalesce(Host.state, ""),
        PoolMember.why,
        User.name,
        Directory.name,
        Assignment.user_id,
        _OWNER.c.name,
        _OWNERS.c.name,
        _CURRENT,
    )
    .join(Vm, Vm.id == PoolMember.vm_id)
    .join(Pool, Pool.id == PoolMember.pool_id)
    .outerjoin(Host, Host.id == Vm.host_id)
    .outerjoin(Lease, sa.and_(Lease.vm_id == PoolMember.vm_id, Lease.state.in_(HOLDING)))
    .outerjoin(User, User.id == Lease.user_id)
    .outerjoin(Directory, Directory.id == User.directory_id)
    .outerjoin(Assignment, Assignment.vm_id == PoolMember.vm_id)
    .outerjoin(_OWNER, _OWNER.c.id == Assignment.user_id)
    .outerjoin(_OWNERS, _OWNERS.c.id == _OWNER.c.directory_id)
    .where(PoolMember.pool_id == sa.bindparam("pool_id"))
)
_BY_NAME = (sa.func.length(Vm.name), Vm.name)
_RANK = sa.case({state: n for n, state in enumerate(FREE)}, value=PoolMember.state, else_=len(FREE))
_BEST = (
    _CANDIDATES.where(sa.func.coalesce(Assignment.user_id == sa.bindparam("user_id"), sa.true()))
    .order_by(Assignment.user_id.is_(None), sa.func.coalesce(Host.state, "up") != "up", _RANK, _CURRENT.desc(), *_BY_NAME)
    .limit(sa.bindparam("best", type_=sa.Integer))
)


def candidates(tx: Tx, pool_id: UUID, best: int | None = None, user_id: UUID | None = None) -> list[Candidate]:
    """Every member of the pool as one sees it who looks for a desktop, by name; or so many, those that may be given first
    (to this person: desktops that belong to others are left out then)."""
    wanted = _CANDIDATES.order_by(*_BY_NAME) if best is None else _BEST
    rows = tx.execute(wanted, {"pool_id": pool_id, "user_id": user_id, "best": best})
    return [
        Candidate(
            member_id=member_id,
            vm_id=vm_id,
            name=name,
            state=state,
            vm_state=vm_state,
            host=host,
            host_state=host_state,
            leased_by=full_name(user, directory) if user else "",
            why=why,
            belongs_to=owner_id,
            owner=full_name(owner_name, owner_directory) if owner_name else "",
            current=current,
        )
        for (member_id, vm_id, name, state, vm_state, host, host_state, why, user, directory,
             owner_id, owner_name, owner_directory, current) in rows
    ]


_KEPT = sa.and_(PoolMember.state.in_(FREE), sa.exists().where(Assignment.vm_id == PoolMember.vm_id))
_STATE = sa.case((_KEPT, "kept"), else_=PoolMember.state)
_COUNTS = sa.select(_STATE, sa.func.count()).where(PoolMember.pool_id == sa.bindparam("pool_id")).group_by(_STATE)


def counts(tx: Tx, pool_id: UUID) -> dict[str, int]:
    """How many members of the pool are in each state; those that wait for the one person they belong to are `kept`."""
    return {name: count for name, count in tx.execute(_COUNTS, {"pool_id": pool_id})}


def queued(tx: Tx, pool_id: UUID, priority: int | None = None, place: int | None = None) -> int:
    """How many people wait for the pool; with a `priority`, only those who go before somebody who has it and asks now,
    or who asked at this `place`."""
    wanted = sa.select(sa.func.count()).where(Lease.pool_id == pool_id, Lease.state == "queued")
    if priority is not None:
        before = Lease.queue_place < place if place is not None else sa.true()
        wanted = wanted.where(sa.or_(Lease.priority > priority, sa.and_(Lease.priority == priority, before)))
    return tx.scalar(wanted) or 0


def queue_places(tx: Tx, pool_id: UUID) -> list[int]:
    """When those asked who wait for the pool, in the order in which they are served."""
    waiting = sa.select(Lease.queue_place).where(Lease.pool_id == pool_id, Lease.state == "queued")
    return list(tx.scalars(waiting.order_by(Lease.priority.desc(), Lease.queue_place)))


def position(tx: Tx, lease: Lease) -> int:
    """The place of a queued lease: 1 is next."""
    return queued(tx, lease.pool_id, lease.priority, lease.queue_place) + 1


def boot_s(tx: Tx, pool_id: UUID) -> float:
    """Seconds from asking a desktop of this pool to start until its guest has booted: the mean of the latest ones."""
    return _took_s(tx, pool_id, "vm.start") or BOOT_S


def boots(tx: Tx, pool_id: UUID) -> Boots:
    """How quickly desktops of this pool boot, by the latest starts."""
    began = sa.func.coalesce(Task.started_at, Task.created_at)
    rows = tx.execute(_latest(pool_id, "vm.start", BURST).add_columns(began, Task.ended_at))
    return capacity.boots([(start, end) for _, start, end in rows], BOOT_S)


def resume_s(tx: Tx, pool_id: UUID) -> float:
    """Seconds from asking a suspended desktop of this pool to go on until it does: the mean of the latest ones."""
    return _took_s(tx, pool_id, "vm.resume") or RESUME_S


def _took_s(tx: Tx, pool_id: UUID, command: str) -> float | None:
    took = _latest(pool_id, command, 20).subquery()
    mean = tx.scalar(sa.select(sa.func.avg(took.c.s)))
    return float(mean) if mean is not None else None


def _latest(pool_id: UUID, command: str, count: int) -> sa.Select[Any]:
    """What the pool's latest tasks of this kind took."""
    return (
        sa.select(sa.func.extract("epoch", Task.ended_at - Task.created_at).label("s"))
        .join(Vm, sa.and_(Task.object_kind == "vm", Task.object_id == Vm.id))
        .where(Vm.pool_id == pool_id, Task.command == command, Task.state == "succeeded")
        .order_by(Task.id.desc())
        .limit(count)
    )


def wait_s(tx: Tx, pool: Pool, place: int, now: datetime) -> int | None:
    """An honest estimate of the seconds until the person at this place of the queue (1 is next) has a desktop; None when
    nobody knows."""
    if pool.state == "paused":
        return None
    rows = tx.execute(
        sa.select(PoolMember.state, Lease.ends_at, Task.created_at, sa.func.coalesce(Lease.state == "starting", sa.false()))
        .outerjoin(Lease, sa.and_(Lease.vm_id == PoolMember.vm_id, sa.text(f"lease.{LIVE}")))
        .outerjoin(Task, sa.and_(Task.id == PoolMember.task_id, Task.state.in_(("queued", "running"))))
        .where(PoolMember.pool_id == pool.id)
    )
    turns = [Turn(*row) for row in rows]
    to_make = pool.size - len(turns)
    return estimate_s(place, turns, policy_of(pool), to_make, boot_s(tx, pool.id), resume_s(tx, pool.id), now)


def entitlements(tx: Tx, now: datetime) -> Mapping[UUID, tuple[bool, datetime | None]]:
    """For every live lease: whether its holder is still entitled to the pool, and until when (None: no end in sight)."""
    rows = tx.execute(
        sa.select(Lease.id, Lease.user_id, User.enabled, Pool.id, Pool.cluster_id, Cluster.data_center_id)
        .join(Pool, Pool.id == Lease.pool_id)
        .join(Cluster, Cluster.id == Pool.cluster_id)
        .join(User, User.id == Lease.user_id)
        .where(sa.text(f"lease.{LIVE}"))
    ).all()
    grants = grants_of_many(tx, (row[1] for row in rows), "user")
    known: dict[tuple[UUID, UUID], tuple[bool, datetime | None]] = {}
    found: dict[UUID, tuple[bool, datetime | None]] = {}
    for lease_id, user_id, enabled, pool_id, cluster_id, center_id in rows:
        if (user_id, pool_id) not in known:
            path: Path = (("pool", pool_id), ("cluster", cluster_id), ("datacenter", center_id), ("system", None))
            known[user_id, pool_id] = entitled(grants[user_id], path, now) if enabled else (False, None)
        found[lease_id] = known[user_id, pool_id]
    return found


def person(tx: Tx, user_id: UUID) -> str:
    """alice, or alice@corp.example."""
    row = tx.execute(
        sa.select(User.name, Directory.name).join(Directory, Directory.id == User.directory_id).where(User.id == user_id)
    ).one()
    return full_name(row[0], row[1])


_WORDS = (
    sa.select(User.name, Directory.name, Pool.name, Vm.name)
    .select_from(User)
    .join(Directory, Directory.id == User.directory_id)
    .join(Pool, Pool.id == sa.bindparam("pool_id"))
    .outerjoin(Vm, Vm.id == sa.bindparam("vm_id"))
    .where(User.id == sa.bindparam("user_id"))
)


def words(tx: Tx, lease: Lease, vm_id: UUID | None = None) -> dict[str, Any]:
    """The names that sentences about this lease are filled with; `vm_id` where it is about to get this VM."""
    row = tx.execute(_WORDS, {"user_id": lease.user_id, "pool_id": lease.pool_id, "vm_id": vm_id or lease.vm_id}).one()
    return {"user": full_name(row[0], row[1]), "pool": row[2], "vm": row[3] or "none"}
