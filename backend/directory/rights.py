"""A person's permissions read from rows, and the questions every page, call and stream asks of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.calendars.rules import hours
from backend.clusters.models import Cluster
from backend.db import Tx
from backend.directory.models import Membership, Permission, User
from backend.directory.rules import Grant, Path, may, places
from backend.errors import Denied, Impossible, NotFound
from backend.tasks.command import Actor

# where an object of each kind hangs: (table, its parents' kinds by column, nearest first)
_PARENTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "vm": ("vm", (("pool", "pool_id"), ("cluster", "cluster_id"))),
    "pool": ("pool", (("cluster", "cluster_id"),)),
    "template": ("template", (("cluster", "cluster_id"),)),
    "host": ("host", (("cluster", "cluster_id"),)),
    "cluster": ("cluster", (("datacenter", "data_center_id"),)),
    "datacenter": ("data_center", ()),
    "storagedomain": ("storage_domain", (("datacenter", "data_center_id"),)),
    "device": ("device", ()),
    "accessrule": ("access_rule", ()),
    "lease": ("lease", (("pool", "pool_id"),)),
    "member": ("pool_member", (("pool", "pool_id"),)),
    "rollout": ("rollout", (("pool", "pool_id"),)),
    "snapshot": ("vm_snapshot", (("vm", "vm_id"),)),
    "booking": ("booking", (("pool", "pool_id"),)),
    "affinitygroup": ("affinity_group", (("cluster", "cluster_id"),)),
    "affinitylabel": ("affinity_label", ()),
    "schedulingpolicy": ("scheduling_policy", ()),
}


def grants_of(tx: Tx, user_id: UUID, only: tuple[str, ...] | None = None) -> list[Grant]:
    """The person's own permissions and those of all their groups, nested ones included; held to the roles in `only`."""
    grants = [_grant(row) for row in tx.execute(_OF_PERSON, {"user_id": user_id})]
    if only is None:
        return grants
    return [replace(g, only=only) for g in grants if g.role != "user" or "user" in only]


def grants_of_many(tx: Tx, user_ids: Iterable[UUID], role: str) -> dict[UUID, list[Grant]]:
    """The grants of this role of each of these people, in two questions."""
    people = set(user_ids)
    found: dict[UUID, list[Grant]] = {id: [] for id in people}
    for row in tx.execute(_GRANTS.add_columns(Permission.user_id).where(Permission.role == role, Permission.user_id.in_(people))):
        found[row.user_id].append(_grant(row))
    by_group = _GRANTS.add_columns(Membership.user_id).join(Membership, Membership.group_id == Permission.group_id)
    for row in tx.execute(by_group.where(Permission.role == role, Membership.user_id.in_(people))):
        found[row.user_id].append(_grant(row))
    return found


def grants_of_group(tx: Tx, group_id: UUID) -> list[Grant]:
    """The permissions that the group itself was given."""
    return [_grant(row) for row in tx.execute(_GRANTS.where(Permission.group_id == group_id))]


_GRANTS = sa.select(
    Permission.role, Permission.object_type, Permission.object_id, Permission.valid_from, Permission.valid_until,
    Permission.priority, Calendar.timezone, Calendar.windows, Calendar.closed,
).outerjoin(Calendar, Calendar.id == Permission.calendar_id)
_THEIRS = sa.select(Membership.group_id).where(Membership.user_id == sa.bindparam("user_id"))
_OF_PERSON = _GRANTS.where(sa.or_(Permission.user_id == sa.bindparam("user_id"), Permission.group_id.in_(_THEIRS)))


def _grant(row: Any) -> Grant:
    open_ = hours(row.timezone, tuple(row.windows), tuple(row.closed)) if row.timezone is not None else None
    return Grant(row.role, row.object_type, row.object_id, row.valid_from, row.valid_until, open_, row.priority)


def path_of(tx: Tx, kind: str, id: UUID | None) -> Path:
    """The object and everything above it, nearest first; `NotFound` when there is no such object."""
    found: list[tuple[str, UUID | None]] = []
    todo: list[tuple[str, UUID]] = [(kind, id)] if id is not None else []
    while todo:
        here = todo.pop(0)
        if here in found:
            continue
        found.append(here)
        if here[0] not in _PARENTS:
            continue
        table, parents = _PARENTS[here[0]]
        columns: list[Any] = [sa.literal(1), *(sa.column(column) for _, column in parents)]
        row = tx.execute(sa.select(*columns).select_from(sa.table(table)).where(sa.column("id") == here[1])).first()
        if row is None:
            raise NotFound("not_found", f"There is no {here[0]} with the id {here[1]}.", kind=here[0], id=str(here[1]))
        todo += [(parent, value) for (parent, _), value in zip(parents, row[1:], strict=True) if value is not None]
    return (*found, ("system", None))


def require(tx: Tx, actor: Actor, permit: str, kind: str, id: UUID | None, now: datetime) -> None:
    """`Denied` in words unless the actor may; `NotFound` when they may not even know of the thing."""
    if actor.is_system:
        return
    assert actor.user_id is not None
    grants, path = grants_of(tx, actor.user_id, actor.roles), path_of(tx, kind, id)
    if may(grants, permit, path, now):
        return
    if id is not None and not may(grants, see_permit(kind), path, now) and not may(grants, "desktop.use", path, now):
        raise NotFound("not_found", f"There is no {kind} with the id {id}.", kind=kind, id=str(id))
    raise Denied("denied", f"You may not do this: it needs the right “{permit}”. Ask your administrator.", permit=permit)


def forget_permissions(tx: Tx, kind: str, id: UUID) -> None:
    """Take back every role on an object that is being removed: nobody could find the object to do it later."""
    tx.execute(sa.delete(Permission).where(Permission.object_type == kind, Permission.object_id == id))


def words_for(tx: Tx, kind: str, id: UUID | None) -> str:
    """The object in words: the whole system, pool Desktops, VM w7."""
    if id is None:
        return "the whole system"
    name = tx.scalar(sa.select(sa.column("name")).select_from(sa.table(_PARENTS[kind][0])).where(sa.column("id") == id))
    label = {"vm": "VM", "datacenter": "data center", "storagedomain": "storage domain"}.get(kind, kind)
    return f"{label} {name}"


def require_other_admin(
    tx: Tx, *, but_user: UUID | None = None, but_permission: UUID | None = None, but_directory: UUID | None = None,
) -> None:
    """Refuse what would leave nobody who runs the place. Without the user, the permission, or the directory's people,
    somebody must remain: enabled, and a system administrator for good, in person or by a group."""
    gone = {but_user, *tx.scalars(sa.select(User.id).where(User.directory_id == but_directory))}
    if _admins(tx, None) and not _admins(tx, but_permission) - gone:
        raise Impossible("last_administrator", "Nobody would be left to run the place: make somebody else a system "
                         "administrator first.")


def _admins(tx: Tx, but: UUID | None) -> set[UUID]:
    """Who runs the place for good, this permission not counted."""
    lasting = sa.and_(Permission.role == "system_admin", Permission.object_type == "system", Permission.valid_until.is_(None),
                      Permission.id.is_distinct_from(but))
    in_person = sa.select(Permission.user_id).where(lasting)
    by_group = sa.select(Membership.user_id).join(Permission, Permission.group_id == Membership.group_id).where(lasting)
    return set(tx.scalars(sa.select(User.id).where(User.enabled, sa.or_(User.id.in_(in_person), User.id.in_(by_group)))))


NOWHERE = sa.false()  # what `visible` says when no row can be: the question need not be asked


def see_permit(kind: str) -> str:
    """The permit that lets one see objects of this kind."""
    return {
        "member": "pool.see", "rollout": "pool.see", "spareplan": "pool.see", "snapshot": "vm.see", "guestsession": "vm.see",
        "vnic": "vm.see",
        "disk": "storage.see", "reach": "storage.see", "evacuation": "host.see",
        "storagedomain": "storage.see", "datacenter": "cluster.see",
        "group": "user.see", "permission": "user.see", "session": "user.see", "token": "user.see", "directory": "user.see",
        "hostsample": "host.see", "poweragent": "host.see", "powerkind": "host.see",
        "decision": "lease.see", "booking": "lease.see",
        **dict.fromkeys(("affinitygroup", "affinitylabel", "schedulingpolicy"), "cluster.see"),
    }.get(kind, f"{kind}.see")


def visible(grants: list[Grant], permit: str, now: datetime, *, columns: dict[str, Any]) -> Any:
    """A WHERE clause for a list: rows below an object on which the permit is given.

    `columns` maps object types to the row's column: {"vm": Vm.id, "pool": Vm.pool_id, "cluster": Vm.cluster_id};
    clusters of a permitted data center count where a "cluster" column is given.
    """
    given = places(grants, permit, now)
    if ("system", None) in given:
        return sa.true()
    clauses = []
    for kind, column in columns.items():
        if ids := [id for k, id in given if k == kind]:
            clauses.append(column.in_(ids))
    if "cluster" in columns and (ids := [id for k, id in given if k == "datacenter"]):
        clauses.append(columns["cluster"].in_(sa.select(Cluster.id).where(Cluster.data_center_id.in_(ids))))
    return sa.or_(*clauses) if clauses else NOWHERE
