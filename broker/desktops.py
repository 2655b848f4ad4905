"""What a person may connect to: pools, desktops they hold, VMs of their own; and whether sign-in leads straight there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.directory import rights
from backend.directory.models import Group, Membership, User, WebSession
from backend.directory.rules import Grant
from backend.vms.models import Vm
from pools import facts
from pools.models import Lease, Pool
from pools.rules import WANTING, entitled_again, not_now

OWN_ACTIONS = ("start", "shutdown", "stop")  # what a person may do to a VM of their own
_FRESH = {"populate_existing": True}


@dataclass(frozen=True)
class Desktop:
    """A pool the person may take a desktop from, a desktop they hold, or a VM of their own.

    `id` is what connect and the actions take. `state` is available | closed (not at this hour) | paused | queued | starting |
    called (ready, and theirs if they answer) | running | ending | off | unreachable; `sentence` is for the person; `vm_id` is
    the VM whose screen can be shown."""

    id: UUID
    name: str
    kind: str  # pool | vm
    state: str
    description: str = ""
    sentence: str = ""
    vm_id: UUID | None = None
    vm_name: str = ""
    lease: Lease | None = None
    extensions_left: int = 0
    position: int | None = None
    protocols: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    opens_at: datetime | None = None


def desktops(tx: Tx, user_id: UUID, now: datetime) -> list[Desktop]:
    """Everything this person may connect to, by name: pools, desktops they hold, VMs that are theirs."""
    grants = rights.grants_of(tx, user_id)
    rows = tx.execute(
        sa.select(Lease, Vm)
        .outerjoin(Vm, Vm.id == Lease.vm_id)
        .where(Lease.user_id == user_id, Lease.state.in_(WANTING))
        .order_by(Lease.queue_place)
        .execution_options(**_FRESH)
    ).all()
    held: dict[UUID, list[tuple[Lease, Vm | None]]] = {}
    for lease, vm in rows:
        held.setdefault(lease.pool_id, []).append((lease, vm))
    columns = {"pool": Pool.id, "cluster": Pool.cluster_id}
    open_to = rights.visible(grants, "desktop.use", now, columns=columns)
    pools = tx.scalars(sa.select(Pool).where(sa.or_(sa.and_(open_to, Pool.state != "removing"), Pool.id.in_(held.keys())))).all()
    found = [item for pool in pools for item in _of_pool(tx, pool, held.get(pool.id, []))]
    soon = [replace(g, valid_from=None, hours=None) for g in grants if not g.holds(now) and g.opens(now) is not None]
    later = rights.visible(soon, "desktop.use", now, columns=columns)
    shut = tx.scalars(sa.select(Pool).where(later, Pool.state != "removing", Pool.id.not_in([pool.id for pool in pools])))
    found += [_closed(tx, pool, grants, now) for pool in shut]
    return sorted(found + _own(tx, grants, now), key=lambda d: (d.name.lower(), d.vm_name, str(d.id)))


def _own(tx: Tx, grants: list[Grant], now: datetime) -> list[Desktop]:
    """VMs of no pool that are the person's own."""
    theirs = rights.visible(grants, "desktop.use", now, columns={"vm": Vm.id, "cluster": Vm.cluster_id})
    vms = tx.scalars(sa.select(Vm).where(theirs, Vm.pool_id.is_(None)).execution_options(**_FRESH))
    return [
        Desktop(
            id=vm.id,
            name=vm.name,
            kind="vm",
            state=_power(vm),
            description=vm.description,
            sentence=vm.why,
            vm_id=vm.id,
            vm_name=vm.name,
            protocols=tuple(vm.protocols),
            actions=("connect", *(a for a in OWN_ACTIONS if _possible(vm, a))),
        )
        for vm in vms
    ]


def _of_pool(tx: Tx, pool: Pool, held: list[tuple[Lease, Vm | None]]) -> list[Desktop]:
    """The pool as one thing; a second desktop of the same pool is a thing of its own, by its VM's id."""
    base = {"name": pool.name, "kind": "pool", "description": pool.description, "protocols": tuple(pool.protocols)}
    if not held:
        state = "paused" if pool.state == "paused" else "available"
        return [Desktop(id=pool.id, state=state, sentence=paused(pool), actions=("connect",), **base)]  # type: ignore[arg-type]
    found = []
    for n, (lease, vm) in enumerate(held):
        queued = lease.state == "queued"
        state = "queued" if queued else "ending" if lease.state == "grace" else _power(vm)
        actions = ("leave",) if queued else ("give_back", *(a for a in pool.rights if _possible(vm, a)))
        left = pool.extensions - lease.extensions_used if lease.ends_at else 0
        if left > 0 and lease.state in ("active", "expiring"):
            actions = ("extend", *actions)
        found.append(
            Desktop(
                id=pool.id if n == 0 or vm is None else vm.id,
                state=("called" if lease.called_until else "starting") if lease.state == "starting" else state,
                sentence=lease.why,
                vm_id=vm.id if vm else None,
                vm_name=vm.name if vm else "",
                lease=lease,
                extensions_left=max(0, left),
                position=facts.position(tx, lease) if queued else None,
                actions=("connect", *actions),
                **base,  # type: ignore[arg-type]
            )
        )
    return found


def _closed(tx: Tx, pool: Pool, grants: list[Grant], now: datetime) -> Desktop:
    """A pool that the person may use at another time."""
    opens = entitled_again(grants, facts.pool_path(tx, pool), now)
    return Desktop(
        id=pool.id, name=pool.name, kind="pool", state="closed", description=pool.description,
        sentence=not_now(pool.name, opens), protocols=tuple(pool.protocols), opens_at=opens,
    )  # fmt: skip


def paused(pool: Pool) -> str:
    """A sentence while the pool gives out no desktops; else empty."""
    if pool.state != "paused":
        return ""
    return f"Pool {pool.name} is paused: {pool.pause_why.rstrip('.')}." if pool.pause_why else f"Pool {pool.name} is paused."


def _power(vm: Vm | None) -> str:
    match vm.state if vm else "down":
        case "up" | "paused":
            return "running"
        case "down":
            return "off"
        case "unknown" | "not_responding":
            return "unreachable"
        case "powering_down":
            return "ending"
        case _:
            return "starting"


def _possible(vm: Vm | None, action: str) -> bool:
    if vm is None:
        return False
    states = {"start": ("down",), "shutdown": ("up",), "stop": ("up", "powering_up", "powering_down", "paused")}
    return vm.state in states.get(action, ("up", "down"))


def auto_launch(tx: Tx, session: Any, now: datetime) -> UUID | None:
    """The desktop to take this person to straight after sign-in, once a session: they have exactly one, and want it.

    `session` has `id` and `user_id`. Asked again in the same session, or by a second window at once, it says None."""
    groups = sa.select(Membership.group_id).where(Membership.user_id == session.user_id)
    wanted = sa.or_(
        sa.exists().where(User.id == session.user_id, User.auto_launch),
        sa.exists().where(Group.id.in_(groups), Group.auto_launch),
    )
    first = tx.scalar(
        sa.update(WebSession)
        .where(WebSession.id == session.id, WebSession.launched.is_(False))
        .values(launched=True)
        .returning(wanted)
        .execution_options(synchronize_session=False)
    )
    if not first:
        return None
    found = [desktop for desktop in desktops(tx, session.user_id, now) if desktop.state != "closed"]
    return found[0].id if len(found) == 1 else None
