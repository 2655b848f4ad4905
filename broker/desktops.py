"""What a person may connect to: pools, desktops they hold, VMs of their own; and whether sign-in leads straight there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.devices import enrolling
from backend.directory import rights
from backend.directory.models import Group, Membership, User, WebSession
from backend.directory.rules import Grant
from backend.vms.models import Vm, VmSnapshot
from broker import reach
from broker.access import Rule, Whence, judge
from pools import facts, times
from pools.models import Lease, Pool
from pools.rules import WANTING, entitled_again, not_now, zone_of

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
    pool_id: UUID | None = None
    lease: Lease | None = None
    extensions_left: int = 0
    position: int | None = None
    protocols: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    snapshots: tuple[VmSnapshot, ...] = ()  # where its holder may take some
    opens_at: datetime | None = None
    blocked: str = ""  # why it cannot be reached from here, if it cannot


_HELD = (
    sa.select(Lease, Vm)
    .outerjoin(Vm, Vm.id == Lease.vm_id)
    .where(Lease.user_id == sa.bindparam("user_id"), Lease.state.in_(WANTING))
    .order_by(Lease.queue_place)
    .execution_options(**_FRESH)
)


def desktops(tx: Tx, user_id: UUID, now: datetime, from_: Whence | None = None) -> list[Desktop]:
    """Everything this person may connect to, by name: pools, desktops they hold, VMs that are theirs. With `from_`, what
    cannot be reached from there says why, and the protocols are those that can be used."""
    grants = rights.grants_of(tx, user_id)
    rows = tx.execute(_HELD, {"user_id": user_id}).all()
    held: dict[UUID, list[tuple[Lease, Vm | None]]] = {}
    for lease, vm in rows:
        held.setdefault(lease.pool_id, []).append((lease, vm))
    columns = {"pool": Pool.id, "cluster": Pool.cluster_id}
    open_to = rights.visible(grants, "desktop.use", now, columns=columns)
    pools = tx.scalars(sa.select(Pool).where(sa.or_(sa.and_(open_to, Pool.state != "removing"), Pool.id.in_(held.keys())))).all()
    found = [item for pool in pools for item in _of_pool(tx, pool, held.get(pool.id, []))]
    soon = [replace(g, valid_from=None, hours=None) for g in grants if not g.holds(now) and g.opens(now) is not None]
    if soon:
        later = rights.visible(soon, "desktop.use", now, columns=columns)
        shut = tx.scalars(sa.select(Pool).where(later, Pool.state != "removing", Pool.id.not_in([pool.id for pool in pools])))
        found += [_closed(tx, pool, grants, now) for pool in shut]
    found = sorted(found + _own(tx, grants, now), key=lambda d: (d.name.lower(), d.vm_name, str(d.id)))
    if from_ is None:
        return found
    rules = reach.rules(tx)
    return [_reached(rules, desktop, from_) for desktop in found]


def _reached(rules: list[Rule], desktop: Desktop, from_: Whence) -> Desktop:
    said = judge(rules, name=desktop.name, pool_id=desktop.pool_id, offered=desktop.protocols, whence=from_)
    actions = desktop.actions if said.allowed else tuple(a for a in desktop.actions if a != "connect")
    return replace(desktop, protocols=said.protocols, blocked=said.sentence, actions=actions)


def _own(tx: Tx, grants: list[Grant], now: datetime) -> list[Desktop]:
    """VMs of no pool that are the person's own."""
    theirs = rights.visible(grants, "desktop.use", now, columns={"vm": Vm.id, "cluster": Vm.cluster_id})
    if theirs is rights.NOWHERE:
        return []
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
    base = {
        "name": pool.name, "kind": "pool", "pool_id": pool.id, "description": pool.description,
        "protocols": tuple(pool.protocols),
    }  # fmt: skip
    if not held:
        state = "paused" if pool.state == "paused" else "available"
        return [Desktop(id=pool.id, state=state, sentence=paused(pool), actions=("connect",), **base)]  # type: ignore[arg-type]
    found = []
    for n, (lease, vm) in enumerate(held):
        queued = lease.state == "queued"
        state = "queued" if queued else "ending" if lease.state == "grace" else _power(vm)
        snapshots = snapshots_of(tx, vm) if vm is not None and "snapshot" in pool.rights else ()
        actions = ("leave",) if queued else ("give_back", *_actions(pool, vm, snapshots))
        left = facts.extensions_left(pool, lease)
        if left > 0 and lease.state in ("active", "expiring"):
            actions = ("extend", *actions)
        found.append(
            Desktop(
                id=pool.id if n == 0 or vm is None else vm.id,
                state=("called" if lease.called_until else "starting") if lease.state == "starting" else state,
                sentence=lease.why or _asleep(vm),
                vm_id=vm.id if vm else None,
                vm_name=vm.name if vm else "",
                lease=lease,
                extensions_left=left,
                position=facts.position(tx, lease) if queued else None,
                actions=("connect", *actions),
                snapshots=snapshots,
                **base,  # type: ignore[arg-type]
            )
        )
    return found


def _closed(tx: Tx, pool: Pool, grants: list[Grant], now: datetime) -> Desktop:
    """A pool that the person may use at another time."""
    path = facts.pool_path(tx, pool)
    opens = entitled_again(grants, path, now)
    said = times.spoken(opens, zone_of(grants, path, opens, now), now) if opens else ""
    return Desktop(
        id=pool.id, name=pool.name, kind="pool", pool_id=pool.id, state="closed", description=pool.description,
        sentence=not_now(pool.name, said), protocols=tuple(pool.protocols), opens_at=opens,
    )  # fmt: skip


def paused(pool: Pool) -> str:
    """A sentence while the pool gives out no desktops; else empty."""
    if pool.state != "paused":
        return ""
    return f"Pool {pool.name} is paused: {pool.pause_why.rstrip('.')}." if pool.pause_why else f"Pool {pool.name} is paused."


def _asleep(vm: Vm | None) -> str:
    return "It is suspended; connect, and it goes on where it was left." if vm is not None and vm.state == "suspended" else ""


def _power(vm: Vm | None) -> str:
    match vm.state if vm else "down":
        case "up" | "paused" | "migrating":
            return "running"
        case "down" | "suspended":
            return "off"
        case "unknown" | "not_responding":
            return "unreachable"
        case "powering_down" | "saving_state":
            return "ending"
        case _:
            return "starting"


def snapshots_of(tx: Tx, vm: Vm) -> tuple[VmSnapshot, ...]:
    """The VM's snapshots, the oldest first."""
    return tuple(tx.scalars(sa.select(VmSnapshot).where(VmSnapshot.vm_id == vm.id).order_by(VmSnapshot.created_at)))


def _actions(pool: Pool, vm: Vm | None, snapshots: tuple[VmSnapshot, ...]) -> list[str]:
    """What may be done with a desktop of the pool now: one goes back only while it is off."""
    found = [right for right in pool.rights if _possible(vm, right) and not (right == "swap" and pool.type == "dedicated")]
    if snapshots and vm is not None and vm.state in ("up", "down"):
        found += ["go_back", "remove_snapshot"] if vm.state == "down" else ["remove_snapshot"]
    return found


def _possible(vm: Vm | None, action: str) -> bool:
    if vm is None:
        return False
    on = ("up", "powering_up", "powering_down", "paused", "reboot_in_progress")
    states = {
        "start": ("down", "suspended"), "shutdown": ("up",), "reboot": ("up",), "stop": on, "swap": (*on, "down", "unknown"),
    }  # fmt: skip
    return vm.state in states.get(action, ("up", "down"))


def auto_launch(tx: Tx, session: Any, now: datetime, address: str = "") -> UUID | None:
    """The desktop to take this person to straight after sign-in, once a session: that of the pool of the thin client they
    stand before, or the only one they have, when they, a group of theirs or the device want it so.

    `session` has `id`, `user_id` and `device_id`. Asked again in the same session, or by a second window at once, it says
    None."""
    device = enrolling.of_session(tx, session.id) if session.device_id else None
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
    if first is None or not (first or device):
        return None
    found = [d for d in desktops(tx, session.user_id, now, reach.at(address, device)) if d.state != "closed"]
    if device is not None and device.pool_id is not None:
        for desktop in found:
            if desktop.pool_id == device.pool_id and not desktop.blocked:
                return desktop.id
    wanted_so = first or (device is not None and device.auto_launch)
    return found[0].id if wanted_so and len(found) == 1 and not found[0].blocked else None
