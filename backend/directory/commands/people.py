"""Create, edit, import, sign out and remove people; edit groups.

A password is never a command's field: see `backend.directory.internal.set_password`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.directory import accounts, internal, sessions
from backend.directory.facts import Found
from backend.directory.models import Directory, Group, User
from backend.directory.names import ACCOUNT_FORM
from backend.directory.rights import require_other_admin
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain


@dataclass(frozen=True)
class CreateUser(Plain):
    """Make an internal user, who can sign in once a password is set."""

    user_name: str
    display_name: str = ""
    email: str = ""
    auto_launch: bool = False
    name, permission = "user.create", "user.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "user", None

    def title(self, tx: Tx) -> str:
        return f"Create user {self.user_name}"

    def check(self, tx: Tx) -> None:
        if not ACCOUNT_FORM.fullmatch(self.user_name):
            raise Invalid("bad_name", f"“{self.user_name}” cannot be a user's name: use up to 64 small letters, digits, dots, "
                          "dashes and underscores, beginning with a letter or digit.", fields=["user_name"])
        if tx.scalar(sa.select(User.id).where(User.directory_id == internal.directory(tx).id, User.name == self.user_name)):
            raise Invalid("name_taken", f"There is already a user named {self.user_name}; choose another name.",
                          fields=["user_name"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        user = User(directory_id=internal.directory(tx).id, name=self.user_name, email=self.email,
                    display_name=self.display_name or self.user_name, auto_launch=self.auto_launch)
        tx.add(user)
        tx.flush()
        record(tx, "user.created", user, actor=actor.name, user_id=user.id)
        touch(tx, "user", user.id, user_id=user.id)
        return {"id": str(user.id)}


@dataclass(frozen=True)
class EditUser(Plain):
    """Change a user; what is None stays as it is. Disabling ends the user's sessions at once."""

    user_id: UUID
    enabled: bool | None = None
    auto_launch: bool | None = None
    display_name: str | None = None
    email: str | None = None
    name, permission = "user.edit", "user.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "user", self.user_id

    def title(self, tx: Tx) -> str:
        return f"Edit user {accounts.name_of(tx, get(tx, User, self.user_id))}"

    def check(self, tx: Tx) -> None:
        user = get(tx, User, self.user_id)
        if user.external_id and (self.display_name is not None or self.email is not None):
            raise Impossible("not_internal", f"The names of {user.name} come from their own directory; change them there.")
        if self.enabled is False:
            require_other_admin(tx, but_user=user.id)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        user = get(tx, User, self.user_id, lock=True)
        if self.enabled is False:
            accounts.shut_out(tx, user, f"{actor.name} disabled the account.", now, by="administrator")
        elif self.enabled:
            user.enabled, user.disabled_by = True, None
        changes = {k: v for k in ("auto_launch", "display_name", "email") if (v := getattr(self, k)) is not None}
        for field, value in changes.items():
            setattr(user, field, value)
        what = [*(["enabled" if self.enabled else "disabled"] if self.enabled is not None else []),
                *(k.replace("_", " ") for k in changes)]
        record(tx, "user.edited", user, actor=actor.name, user_id=user.id, what=", ".join(what) or "nothing")
        touch(tx, "user", user.id, user_id=user.id)


@dataclass(frozen=True)
class SignOutUser(Plain):
    """End all sessions of a user."""

    user_id: UUID
    name, permission = "user.sign_out", "user.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "user", self.user_id

    def title(self, tx: Tx) -> str:
        return f"Sign {accounts.name_of(tx, get(tx, User, self.user_id))} out"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        return {"ended": len(sessions.end_all(tx, self.user_id, now))}


@dataclass(frozen=True)
class RemoveUser(Plain):
    """Remove a user with their sessions, permissions and past leases; events keep the name."""

    user_id: UUID
    name, permission = "user.remove", "user.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "user", self.user_id

    def title(self, tx: Tx) -> str:
        return f"Remove user {accounts.name_of(tx, get(tx, User, self.user_id))}"

    def check(self, tx: Tx) -> None:
        user = get(tx, User, self.user_id)
        require_other_admin(tx, but_user=user.id)
        if held := live_leases(tx, User.id == user.id):
            raise Impossible("in_use", f"{user.name} holds {held} desktop(s). Take the leases back first.", leases=held)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        user = get(tx, User, self.user_id, lock=True)
        sessions.end_all(tx, user.id, now)
        record(tx, "user.removed", user, actor=actor.name, user_id=user.id, name=accounts.name_of(tx, user))
        touch(tx, "user", user.id, user_id=user.id)
        tx.delete(user)
        tx.flush()


@dataclass(frozen=True)
class EditGroup(Plain):
    """Change whether a group's people are taken from sign-in straight to their desktop."""

    group_id: UUID
    auto_launch: bool
    name, permission = "group.edit", "user.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "group", self.group_id

    def title(self, tx: Tx) -> str:
        return f"Edit group {get(tx, Group, self.group_id).name}"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        group = get(tx, Group, self.group_id, lock=True)
        group.auto_launch = self.auto_launch
        record(tx, "group.edited", group, actor=actor.name, what=f"auto-launch {'on' if self.auto_launch else 'off'}")
        touch(tx, "group", group.id)


@dataclass(frozen=True)
class ImportPrincipal(Plain):
    """Make a person or group of a domain known here, before their first sign-in.

    `found` must come from `ActiveDirectory.search`, `.group` or `.person`, never from a form: the SID in it
    decides who gets what is given under its name.
    """

    directory_id: UUID
    found: Found
    name, permission = "user.import", "user.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "directory", self.directory_id

    def title(self, tx: Tx) -> str:
        return f"Import {self.found.kind} {self.found.display_name or self.found.name}"

    def locks(self, tx: Tx) -> list[str]:
        return []

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        row = accounts.remember_found(tx, get(tx, Directory, self.directory_id), self.found, now)
        return {"id": str(row.id), "kind": row.kind}


def live_leases(tx: Tx, whose: Any) -> int:
    """How many desktops are held or waited for by these users. Leases are of a higher floor: known by table name."""
    lease = sa.table("lease", sa.column("user_id"), sa.column("state", sa.Text))
    theirs = sa.and_(lease.c.user_id.in_(sa.select(User.id).where(whose)), lease.c.state != "ended")
    return tx.scalar(sa.select(sa.func.count()).select_from(lease).where(theirs)) or 0
