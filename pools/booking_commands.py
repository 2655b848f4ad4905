"""Book desktops of a pool for somebody, change a booking, cancel it: for who runs the pool, whose policy is not asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from backend.db import Tx, get
from backend.directory.models import User
from backend.errors import Invalid
from backend.tasks.command import Actor, Plain
from pools import bookings
from pools.booking_rules import Wish
from pools.models import Booking, Pool


@dataclass(frozen=True)
class CreateBooking(Plain):
    """Keep desktops of a pool for a person, or for a group, for a period: they are booted when it begins.

    `rule` (RFC 5545, with an end: FREQ=WEEKLY;COUNT=10) makes one booking after the other, on the clock of `timezone`."""

    pool_id: UUID
    starts_at: datetime
    ends_at: datetime
    desktops: int = 1
    booking_name: str = ""
    group_id: UUID | None = None
    user_id: UUID | None = None  # none: for who asks
    rule: str = ""
    timezone: str = "UTC"
    name, permission = "booking.create", "pool.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "pool", self.pool_id

    def title(self, tx: Tx) -> str:
        return f"Book desktops of pool {get(tx, Pool, self.pool_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return []  # bookings of a pool go one after the other by a lock of their own, and no task keeps people from booking

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        user_id = self.user_id or actor.user_id
        if user_id is None:
            raise Invalid("for_whom", "Say for whom the booking is.", fields=["user_id"])
        get(tx, User, user_id)
        wish = Wish(self.desktops, self.starts_at, self.ends_at, self.group_id is None, self.booking_name)
        made = bookings.make(
            tx, get(tx, Pool, self.pool_id), wish, user_id=user_id, group_id=self.group_id, rule=self.rule,
            timezone=self.timezone, runs=True, now=now,
        )  # fmt: skip
        return {"id": str(made[0].id), "ids": [str(booking.id) for booking in made]}


class _OnBooking(Plain):
    """What the commands on one booking share."""

    booking_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "booking", self.booking_id

    def title(self, tx: Tx) -> str:
        return f"{self.verb} booking {get(tx, Booking, self.booking_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return []


@dataclass(frozen=True)
class EditBooking(_OnBooking):
    """Change a booking; what is left out stays. Desktops that people hold of it end with its new end."""

    booking_id: UUID
    booking_name: str | None = None
    desktops: int | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    name, permission, verb = "booking.edit", "pool.edit", "Edit"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        bookings.change(
            tx, get(tx, Booking, self.booking_id), title=self.booking_name, desktops=self.desktops, starts_at=self.starts_at,
            ends_at=self.ends_at, runs=True, actor=actor.name, now=now,
        )  # fmt: skip


@dataclass(frozen=True)
class CancelBooking(_OnBooking):
    """Cancel a booking; who has a desktop of it keeps it until the end. The message tells people why.

    `series`: also all others that the same rule made and that have not begun."""

    booking_id: UUID
    message: str = ""
    series: bool = False
    name, permission, verb = "booking.cancel", "pool.edit", "Cancel"

    def check(self, tx: Tx) -> None:
        if len(self.message) > 500:
            raise Invalid("too_long", "The message may have up to 500 characters.", fields=["message"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        why = self.message.strip() or "Your administrator has cancelled it."
        count = bookings.cancel(tx, get(tx, Booking, self.booking_id), why, actor.name, now, series=self.series)
        return {"cancelled": count}
