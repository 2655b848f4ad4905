"""Device rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, ref
from backend.devices.machine import DEVICE


class Device(HasId, Base):
    """A thin client. Of its one-time code and of its token only the SHA-256 is kept."""

    __tablename__ = "device"
    kind = "device"
    machine = DEVICE
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(default="", server_default="")
    state: Mapped[str] = mapped_column(default=DEVICE.initial)
    # only the group's people may sign in there; without the group (its domain was removed) there is no device either
    group_id: Mapped[UUID | None] = ref("user_group.id", ondelete="CASCADE", index=True)
    pool_id: Mapped[UUID | None] = ref("pool.id", ondelete="SET NULL", index=True)  # whose desktop people are taken to at once
    auto_launch: Mapped[bool] = mapped_column(default=True, server_default=sa.true())
    protocols: Mapped[list[str]] = mapped_column(default=list, server_default="{}")  # none: whatever the desktop offers
    code_hash: Mapped[bytes | None] = mapped_column(sa.LargeBinary, unique=True)
    code_until: Mapped[datetime | None]
    token_hash: Mapped[bytes | None] = mapped_column(sa.LargeBinary, unique=True)
    created_at: Mapped[datetime]
    enrolled_at: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]
    address: Mapped[str] = mapped_column(default="", server_default="")  # where it was last seen
