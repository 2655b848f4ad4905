"""From rows to the plain facts that pools' and broker's rules are about. Reads only, on Core."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.db import Tx
from backend.directory.models import Directory, Membership, Permission, User
from backend.directory.names import full_name
from backend.directory.rules import Path
from backend.hosts.models import Host
from backend.tasks.models import Task
from backend.vms.models import Vm
from pools.models import LIVE, Lease, Pool, PoolMember
from pools.rules import FREE, HOLDING, Candidate, Policy, Turn, estimate_s

BOOT_S = 45.0  # what a start is thought to take in a pool that has not started anything yet


def policy_of(pool: Pool) -> Policy:
    """The pool's policy as plain data."""
    return Policy(
        size=pool.size,
        spares=pool.spares,
        lease_s=pool.lease_s,
        extend_s=pool.extend_s,
        extensions=pool.extensions,
        warn_s=pool.warn_s,
        grace_s=pool.grace_s,
        shutdown_s=pool.shutdown_s,
        per_user=pool.per_user,
        rights=tuple(pool.rights),
        protocols=tuple(pool.protocols),
    )


def with_center(tx: Tx, pool_id: UUID) -> tuple[Pool | None, UUID | None]:
    """The pool, and the data center that it is in."""
    row = tx.execute(
        sa.select(Pool, Cluster.data_center_id)
        .join(Cluster, Cluster.id == Pool.cluster_id)
        .where(Pool.id == pool_id)
        .execution_options(populate_existing=True)
    ).first()
    return (row[0], row[1]) if row else (None, None)


def pool_path(tx: Tx, pool: Pool, center: UUID | None = None) -> Path:
    """The pool and everything above it, for the rules of rights."""
    center = center or tx.scalar(sa.select(Cluster.data_center_id).where(Cluster.id == pool.cluster_id))
    return (("pool", pool.id), ("cluster", pool.cluster_id), ("datacenter", center), ("system", None))


def candidates(tx: Tx, pool_id: UUID, best: int | None = None) -> list[Candidate]:
    """Every member of the pool as one sees it who looks for a desktop, by name; or so many, those that may be given first."""
    order: list[Any] = [sa.func.length(Vm.name), Vm.name]
    if best is not None:
        rank = sa.case({state: n for n, state in enumerate(FREE)}, value=PoolMember.state, else_=len(FREE))
        order = [sa.func.coalesce(Host.state, "up") != "up", rank, *order]
    rows = tx.execute(
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
        )
        .join(Vm, Vm.id == PoolMember.vm_id)
        .outerjoin(Host, Host.id == Vm.host_id)
        .outerjoin(Lease, sa.and_(Lease.vm_id == PoolMember.vm_id, Lease.state.in_(HOLDING)))
        .outerjoin(User, User.id == Lease.user_id)
        .outerjoin(Directory, Directory.id == User.directory_id)
        .where(PoolMember.pool_id == pool_id)
        .order_by(*order)
        .limit(best)
    )
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
        )
        for member_id, vm_id, name, state, vm_state, host, host_state, why, user, directory in rows
    ]


def counts(tx: Tx, pool_id: UUID) -> dict[str, int]:
    """How many members of the pool are in each state."""
    rows = tx.execute(
        sa.select(PoolMember.state, sa.func.count()).where(PoolMember.pool_id == pool_id).group_by(PoolMember.state)
    )
    return {state: count for state, count in rows}


def queued(tx: Tx, pool_id: UUID, before: int | None = None) -> int:
    """How many people wait for the pool; with `before`, only those who asked before that place."""
    wanted = sa.select(sa.func.count()).where(Lease.pool_id == pool_id, Lease.state == "queued")
    if before is not None:
        wanted = wanted.where(Lease.queue_place < before)
    return tx.scalar(wanted) or 0


def position(tx: Tx, lease: Lease) -> int:
    """The place of a queued lease: 1 is next."""
    return queued(tx, lease.pool_id, before=lease.queue_place) + 1


def boot_s(tx: Tx, pool_id: UUID) -> float:
    """Seconds from asking a desktop of this pool to start until its guest has booted: the mean of the latest ones."""
    took = (
        sa.select(sa.func.extract("epoch", Task.ended_at - Task.created_at).label("s"))
        .join(Vm, sa.and_(Task.object_kind == "vm", Task.object_id == Vm.id))
        .where(Vm.pool_id == pool_id, Task.command == "vm.start", Task.state == "succeeded")
        .order_by(Task.id.desc())
        .limit(20)
        .subquery()
    )
    mean = tx.scalar(sa.select(sa.func.avg(took.c.s)))
    return float(mean) if mean is not None else BOOT_S


def wait_s(tx: Tx, pool: Pool, place: int, now: datetime) -> int | None:
    """An honest estimate of the seconds until the person at this place of the queue (1 is next) has a desktop."""
    rows = tx.execute(
        sa.select(PoolMember.state, Lease.ends_at, Task.created_at)
        .outerjoin(Lease, sa.and_(Lease.vm_id == PoolMember.vm_id, sa.text(f"lease.{LIVE}")))
        .outerjoin(Task, sa.and_(Task.id == PoolMember.task_id, Task.state.in_(("queued", "running"))))
        .where(PoolMember.pool_id == pool.id)
    )
    turns = [Turn(*row) for row in rows]
    to_make = pool.size - len(turns)
    return estimate_s(place, turns, policy_of(pool), to_make, boot_s(tx, pool.id), now)


def entitlements(tx: Tx, now: datetime) -> Mapping[UUID, tuple[bool, datetime | None]]:
    """For every live lease: whether its holder is still entitled to the pool, and until when (None: no end).

    The same as `rules.entitled` over `rights.grants_of`, for all leases in one question."""
    mine = sa.select(Membership.group_id).where(Membership.user_id == Lease.user_id)
    here = [
        sa.and_(Permission.object_type == kind, Permission.object_id == column)
        for kind, column in (("pool", Pool.id), ("cluster", Cluster.id), ("datacenter", Cluster.data_center_id))
    ]
    holds = sa.and_(
        Permission.role == "user",
        sa.or_(Permission.user_id == Lease.user_id, Permission.group_id.in_(mine)),
        sa.or_(Permission.object_type == "system", *here),
        sa.or_(Permission.valid_from.is_(None), Permission.valid_from <= now),
        sa.or_(Permission.valid_until.is_(None), Permission.valid_until > now),
    )
    rows = tx.execute(
        sa.select(
            Lease.id,
            sa.and_(sa.func.count(Permission.id) > 0, sa.func.bool_and(User.enabled)),
            sa.func.bool_or(Permission.valid_until.is_(None)),
            sa.func.max(Permission.valid_until),
        )
        .join(Pool, Pool.id == Lease.pool_id)
        .join(Cluster, Cluster.id == Pool.cluster_id)
        .join(User, User.id == Lease.user_id)
        .outerjoin(Permission, holds)
        .where(sa.text(f"lease.{LIVE}"))
        .group_by(Lease.id)
    )
    return {id: (bool(may), None if endless else until) for id, may, endless, until in rows}


def person(tx: Tx, user_id: UUID) -> str:
    """alice, or alice@corp.example."""
    row = tx.execute(
        sa.select(User.name, Directory.name).join(Directory, Directory.id == User.directory_id).where(User.id == user_id)
    ).one()
    return full_name(row[0], row[1])


def words(tx: Tx, lease: Lease, vm_id: UUID | None = None) -> dict[str, Any]:
    """The names that sentences about this lease are filled with; `vm_id` where it is about to get this VM."""
    row = tx.execute(
        sa.select(User.name, Directory.name, Pool.name, Vm.name)
        .select_from(User)
        .join(Directory, Directory.id == User.directory_id)
        .join(Pool, Pool.id == lease.pool_id)
        .outerjoin(Vm, Vm.id == (vm_id or lease.vm_id))
        .where(User.id == lease.user_id)
    ).one()
    return {"user": full_name(row[0], row[1]), "pool": row[2], "vm": row[3] or "none"}
