"""PowerAgent, PowerKindRow, Outage and Restart rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, Json, ref


class PowerAgent(HasId, Base):
    """A device that switches a host's power, and how it is reached."""

    __tablename__ = "power_agent"
    kind = "poweragent"
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE", index=True)
    type: Mapped[str]  # ipmilan: the fence agent fence_ipmilan
    address: Mapped[str]
    port: Mapped[int] = mapped_column(default=0, server_default="0")  # 0: the usual one of its kind
    username: Mapped[str] = mapped_column(default="", server_default="")
    password_sealed: Mapped[str] = mapped_column(default="", server_default="")
    options: Mapped[Json] = mapped_column(default=dict, server_default="{}")
    encrypt: Mapped[bool] = mapped_column(default=True, server_default=sa.true())
    order: Mapped[int] = mapped_column(default=1, server_default="1")  # of one number: the host is off when all are

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.type} at {self.address}"


class PowerKindRow(Base):
    """A kind of power agent that a host has a program for; `options` are null until a host has told them."""

    __tablename__ = "power_kind"
    kind = "powerkind"
    name: Mapped[str] = mapped_column(primary_key=True)
    about: Mapped[str] = mapped_column(default="", server_default="")
    options: Mapped[Json | None]  # {name: {"type", "default", "about"}}
    host_id: Mapped[UUID | None] = ref("host.id", ondelete="SET NULL")  # who told of it


class Outage(Base):
    """A host's silence: what was done about it, and what is waited for."""

    __tablename__ = "outage"
    kind = "outage"
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE", primary_key=True)
    since: Mapped[datetime]  # when it last answered
    soften_at: Mapped[datetime | None]  # when its agent was to be restarted
    softened_at: Mapped[datetime | None]  # when that was tried
    dumping_until: Mapped[datetime | None]
    power_said: Mapped[str] = mapped_column(default="", server_default="")
    power_asked_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    tried_at: Mapped[datetime | None]
    gave_up: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    why: Mapped[str] = mapped_column(default="", server_default="")


class Restart(Base):
    """A highly available VM that went down with its host, until it runs again."""

    __tablename__ = "restart"
    kind = "restart"
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", primary_key=True)
    since: Mapped[datetime]
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    failed: Mapped[int] = mapped_column(default=0, server_default="0")
    not_before: Mapped[datetime | None]
    task_id: Mapped[int | None] = ref("task.id", ondelete="SET NULL")
    why: Mapped[str] = mapped_column(default="", server_default="")
