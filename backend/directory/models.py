"""Directory, User, Group, Permission, WebSession and Throttle rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, Json, ref


class Directory(HasId, Base):
    """A domain people sign in with: `internal` (users in this database) or `ad` (Active Directory).

    `config` of an AD domain: {"servers": ["ldaps://dc1.corp.example", …], "starttls": bool, "base_dn",
    "netbios", "bind_user", "bind_password_sealed", "ca_pem", "system_ca", "upn_suffixes"}, the fields of
    facts.DirectoryFacts; the password is sealed by the keyring.
    """

    __tablename__ = "directory"
    kind = "directory"
    name: Mapped[str] = mapped_column(unique=True)  # internal, corp.example
    type: Mapped[str]  # internal | ad
    config: Mapped[Json] = mapped_column(default=dict, server_default="{}")
    trouble: Mapped[str] = mapped_column(default="", server_default="")  # a sentence while no controller answers
    refreshed_at: Mapped[datetime | None]


class User(HasId, Base):
    """A person, of one directory. AD's people are cached here from their first sign-in or entitlement."""

    __tablename__ = "user_account"
    __table_args__ = (sa.UniqueConstraint("directory_id", "name"), sa.UniqueConstraint("directory_id", "external_id"))
    kind = "user"
    directory_id: Mapped[UUID] = ref("directory.id")
    name: Mapped[str]  # lower case, without the domain: alice (AD: sAMAccountName, which a domain has once)
    display_name: Mapped[str] = mapped_column(default="", server_default="")
    email: Mapped[str] = mapped_column(default="", server_default="")
    external_id: Mapped[str | None]  # AD: objectSid in its text form
    dn: Mapped[str | None]
    password_hash: Mapped[str | None]  # internal: argon2id
    enabled: Mapped[bool] = mapped_column(default=True, server_default=sa.true())
    disabled_by: Mapped[str | None]  # administrator | directory: what the directory took it may give back
    group_sids: Mapped[list[str]] = mapped_column(default=list, server_default="{}")  # AD: all groups, known here or not
    auto_launch: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    signed_in_at: Mapped[datetime | None]
    refreshed_at: Mapped[datetime | None]


class Group(HasId, Base):
    """A group of a directory."""

    __tablename__ = "user_group"
    __table_args__ = (sa.UniqueConstraint("directory_id", "external_id"),)
    kind = "group"
    directory_id: Mapped[UUID] = ref("directory.id")
    name: Mapped[str]  # AD: its common name, which another folder of the domain may have too
    external_id: Mapped[str | None]
    dn: Mapped[str | None]
    auto_launch: Mapped[bool] = mapped_column(default=False, server_default=sa.false())


class Membership(Base):
    """A person's groups, nested ones included, as the directory last said."""

    __tablename__ = "membership"
    user_id: Mapped[UUID] = ref("user_account.id", ondelete="CASCADE", primary_key=True)
    group_id: Mapped[UUID] = ref("user_group.id", ondelete="CASCADE", primary_key=True, index=True)


class Permission(HasId, Base):
    """A role for a user or a group on an object; it counts for everything below that object.

    The role `user` on a pool or VM is an entitlement; outside its period, or its calendar's hours, it gives nothing.
    Who has the higher `priority` on a pool goes before others in its queue.
    `object_type` is one of directory.rules.OBJECT_TYPES; the system itself has no `object_id`.
    """

    __tablename__ = "permission"
    __table_args__ = (
        sa.CheckConstraint("(user_id IS NULL) <> (group_id IS NULL)", name="one_principal"),
        sa.UniqueConstraint("user_id", "group_id", "role", "object_type", "object_id", postgresql_nulls_not_distinct=True),
        sa.Index(None, "object_type", "object_id"),
    )
    kind = "permission"
    user_id: Mapped[UUID | None] = ref("user_account.id", ondelete="CASCADE", index=True)
    group_id: Mapped[UUID | None] = ref("user_group.id", ondelete="CASCADE", index=True)
    role: Mapped[str]
    object_type: Mapped[str]
    object_id: Mapped[UUID | None]
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]
    calendar_id: Mapped[UUID | None] = ref("calendar.id")  # none: at any hour
    priority: Mapped[int] = mapped_column(default=0, server_default="0")


class WebSession(HasId, Base):
    """Somebody signed in: a browser's cookie or a program's token, of which only the SHA-256 is kept; or an API token,
    which has a name and may be held to less than its owner may."""

    __tablename__ = "web_session"
    kind = "session"
    token_hash: Mapped[bytes] = mapped_column(sa.LargeBinary, unique=True)
    user_id: Mapped[UUID] = ref("user_account.id", ondelete="CASCADE", index=True)
    client: Mapped[str]  # browser | api | token
    device_id: Mapped[UUID | None] = ref("device.id", ondelete="SET NULL", index=True)  # the thin client it was begun at
    address: Mapped[str] = mapped_column(default="", server_default="")
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    launched: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # auto-launch happens once a session
    name: Mapped[str] = mapped_column(default="", server_default="")  # of an API token
    read_only: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    roles: Mapped[list[str] | None]  # it gives no more than these would; none: all that its owner may


class Throttle(Base):
    """Failed guesses per account and per address, shared by all web processes."""

    __tablename__ = "throttle"
    key: Mapped[str] = mapped_column(primary_key=True)  # account:corp.example/alice, address:192.0.2.7
    failures: Mapped[int]
    last_at: Mapped[datetime]
    blocked_until: Mapped[datetime | None]
