"""Ticket, ConsoleSession and AccessRule rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, ref
from backend.states import StateTable

TICKET = StateTable("ticket", "minted", {
    ("minted", "redeem"): "redeemed",
    ("minted", "expire"): "expired",
    ("minted", "revoke"): "revoked",
})


class Ticket(HasId, Base):
    """A single-use right of one person to reach one console for seconds. Its secrets are derived, not stored."""

    __tablename__ = "ticket"
    kind = "ticket"
    machine = TICKET
    user_id: Mapped[UUID] = ref("user_account.id", ondelete="CASCADE")
    session_id: Mapped[UUID] = ref("web_session.id", ondelete="CASCADE", index=True)
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", index=True)
    lease_id: Mapped[UUID | None] = ref("lease.id", ondelete="SET NULL", index=True)
    protocol: Mapped[str]
    client: Mapped[str]  # browser | native
    address: Mapped[str] = mapped_column(default="", server_default="")  # where it was asked for
    state: Mapped[str] = mapped_column(default=TICKET.initial)
    armed_at: Mapped[datetime | None]  # when the display had its password
    task_id: Mapped[int | None] = ref("task.id", ondelete="SET NULL")  # the task that arms it
    fetched_at: Mapped[datetime | None]  # when its viewer file was handed out: once
    why: Mapped[str] = mapped_column(default="", server_default="")  # why it was revoked, for its person
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class ConsoleSession(HasId, Base):
    """Who watches which VM since when, from where, over which protocol, and how many bytes went by."""

    __tablename__ = "console_session"
    __table_args__ = (sa.Index("ix_console_live", "gateway", postgresql_where=sa.text("ended_at IS NULL")),)
    kind = "console"
    ticket_id: Mapped[UUID] = ref("ticket.id", ondelete="CASCADE", unique=True)
    user_id: Mapped[UUID] = ref("user_account.id", ondelete="CASCADE", index=True)
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", index=True)
    lease_id: Mapped[UUID | None] = ref("lease.id", ondelete="SET NULL", index=True)
    protocol: Mapped[str]
    client: Mapped[str]
    address: Mapped[str]
    gateway: Mapped[str]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    input_at: Mapped[datetime | None]  # the last key, pointer or pasted text
    ended_at: Mapped[datetime | None]
    end_wanted: Mapped[str | None]  # a sentence: why the gateway is to close it
    end_reason: Mapped[str | None]
    bytes_to_client: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    bytes_to_vm: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")


class AccessRule(HasId, Base):
    """From which networks and devices which desktops can be reached: the first rule that fits decides."""

    __tablename__ = "access_rule"
    kind = "accessrule"
    position: Mapped[int]  # 1 is looked at first; without gaps
    name: Mapped[str] = mapped_column(unique=True)
    effect: Mapped[str]  # allow | deny
    pool_id: Mapped[UUID | None] = ref("pool.id", ondelete="CASCADE", index=True)  # none: every desktop
    network: Mapped[str] = mapped_column(default="", server_default="")  # 10.1.0.0/16; "": from everywhere
    device_id: Mapped[UUID | None] = ref("device.id", ondelete="CASCADE", index=True)
    enrolled: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # at enrolled devices alone
    protocols: Mapped[list[str]] = mapped_column(default=list, server_default="{}")  # none: all
    sentence: Mapped[str] = mapped_column(default="", server_default="")  # what a person reads who is refused by it
