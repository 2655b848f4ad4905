"""Give a role on an object to a person or group, always or for a period, and take it back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.changes import touch
from backend.db import Tx, get
from backend.directory import accounts, rights
from backend.directory.facts import Found
from backend.directory.models import Directory, Group, Membership, Permission, User, WebSession
from backend.directory.rules import OBJECT_TYPES, ROLES
from backend.errors import Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain

FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)

@dataclass(frozen=True)
class GrantRole(Plain):
    """Give a role on an object, to a user or a group known here, or to one `found` in a directory.

    The role `user` on a pool or VM is an entitlement, which whoever runs the pool may give; every other role
    needs the right `permission.edit` as well. Given again, the new period takes the place of the old one.
    """

    role: str
    object_type: str
    object_id: UUID | None = None
    user_id: UUID | None = None
    group_id: UUID | None = None
    directory_id: UUID | None = None  # with `found`, which comes from ActiveDirectory's answers, never from a form
    found: Found | None = None
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    calendar_id: UUID | None = None  # none: at any hour
    priority: int = 0  # the higher goes first in a pool's queue
    name, permission = "permission.grant", "pool.entitle"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return self.object_type, self.object_id

    def title(self, tx: Tx) -> str:
        return f"Give {self._principal(tx)} the role {self.role} on {rights.words_for(tx, self.object_type, self.object_id)}"

    def locks(self, tx: Tx) -> list[str]:
        return []  # the unique constraint is lock enough, and an entitlement need not wait for a pool that is busy

    def check(self, tx: Tx) -> None:
        if self.role not in ROLES:
            raise Invalid("no_such_role", f"There is no role “{self.role}”. Choose one of {', '.join(ROLES)}.", fields=["role"])
        if self.object_type not in OBJECT_TYPES or (self.object_type == "system") != (self.object_id is None):
            raise Invalid("no_such_object", f"Say on what: one of {', '.join(OBJECT_TYPES)}, and its id unless it is the system.",
                          fields=["object_type", "object_id"])
        if [self.user_id, self.group_id, self.found].count(None) != 2 or (self.found is None) != (self.directory_id is None):
            raise Invalid("no_principal", "Say to whom: one user or one group.", fields=["user_id", "group_id"])
        for field, at in (("valid_from", self.valid_from), ("valid_until", self.valid_until)):
            if at is not None and not FIRST <= at < LAST:  # what no datetime can hold could be written, but never read again
                raise Invalid("bad_period", f"A period lies between the years {FIRST.year} and {LAST.year}.", fields=[field])
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise Invalid("bad_period", "The period ends before it begins.", fields=["valid_from", "valid_until"])
        if self.calendar_id is not None:
            get(tx, Calendar, self.calendar_id)
        if self.role != "user" and (self.calendar_id is not None or self.priority):
            raise Invalid("not_an_entitlement", "Hours and a priority belong to the role user: who administers does so always.",
                          fields=["calendar_id", "priority"])
        if not -100 <= self.priority <= 100:
            raise Invalid("bad_priority", "A priority lies between -100 and 100; 0 is usual.", fields=["priority"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        if self.role != "user":
            rights.require(tx, actor, "permission.edit", self.object_type, self.object_id, now)
        user_id, group_id = self.user_id, self.group_id
        if self.found is not None:
            row = accounts.remember_found(tx, get(tx, Directory, self.directory_id, lock=True), self.found, now)
            user_id, group_id = (row.id, None) if isinstance(row, User) else (None, row.id)
        words = self._principal(tx)
        permission = tx.scalars(sa.select(Permission).where(
            Permission.user_id.is_not_distinct_from(user_id), Permission.group_id.is_not_distinct_from(group_id),
            Permission.role == self.role, Permission.object_type == self.object_type,
            Permission.object_id.is_not_distinct_from(self.object_id),
        ).with_for_update()).first()
        if permission is None:
            permission = Permission(user_id=user_id, group_id=group_id, role=self.role, object_type=self.object_type,
                                    object_id=self.object_id)
            tx.add(permission)
        permission.valid_from, permission.valid_until = self.valid_from, self.valid_until
        permission.calendar_id, permission.priority = self.calendar_id, self.priority
        tx.flush()
        record(tx, "permission.granted", permission, actor=actor.name, user_id=user_id, pool_id=_pool(permission),
               principal=words, role=self.role, object=rights.words_for(tx, self.object_type, self.object_id))
        _tell(tx, permission, now)
        return {"id": str(permission.id)}

    def _principal(self, tx: Tx) -> str:
        if self.found is not None:
            return self.found.display_name or self.found.name
        return _who(tx, self.user_id, self.group_id)


@dataclass(frozen=True)
class TakeRole(Plain):
    """Take a role back."""

    permission_id: UUID
    name, permission = "permission.take", "pool.entitle"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        given = get(tx, Permission, self.permission_id)
        return given.object_type, given.object_id

    def title(self, tx: Tx) -> str:
        given = get(tx, Permission, self.permission_id)
        what = rights.words_for(tx, given.object_type, given.object_id)
        return f"Take the role {given.role} on {what} from {_who(tx, given.user_id, given.group_id)}"

    def locks(self, tx: Tx) -> list[str]:
        return []

    def check(self, tx: Tx) -> None:
        rights.require_other_admin(tx, but_permission=self.permission_id)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        given = get(tx, Permission, self.permission_id, lock=True)
        if given.role != "user":
            rights.require(tx, actor, "permission.edit", given.object_type, given.object_id, now)
        record(tx, "permission.taken", given, actor=actor.name, user_id=given.user_id, pool_id=_pool(given), role=given.role,
               principal=_who(tx, given.user_id, given.group_id), object=rights.words_for(tx, given.object_type, given.object_id))
        _tell(tx, given, now)
        tx.delete(given)
        tx.flush()


def _who(tx: Tx, user_id: UUID | None, group_id: UUID | None) -> str:
    return f"group {get(tx, Group, group_id).name}" if group_id else accounts.name_of(tx, get(tx, User, user_id))


def _pool(permission: Permission) -> UUID | None:
    return permission.object_id if permission.object_type == "pool" else None


def _tell(tx: Tx, permission: Permission, now: datetime) -> None:
    """Tell the pages of those it is about: the person, or the group's people who are signed in."""
    people: list[UUID | None] = [permission.user_id]
    if permission.group_id:
        people += tx.scalars(
            sa.select(Membership.user_id).where(Membership.group_id == permission.group_id, sa.exists().where(
                WebSession.user_id == Membership.user_id, WebSession.ended_at.is_(None), WebSession.expires_at > now))
        )
    for user_id in people:
        touch(tx, "permission", permission.id, user_id=user_id, pool_id=_pool(permission))
