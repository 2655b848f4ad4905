"""Times as people read them: in the zone that the pool's calendars are in; where there is none in UTC, which pages show by
the reader's own clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.db import Tx
from backend.directory.models import Permission
from pools.models import SparePlan


def spoken(at: datetime, zone: str, now: datetime) -> str:
    """08:00 (Europe/Berlin), on another day Monday 08:00 (Europe/Berlin), and with its date when that is a week away; without
    a zone 2026-03-02 07:00 UTC."""
    if not zone:
        return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    at, now = at.astimezone(ZoneInfo(zone)), now.astimezone(ZoneInfo(zone))
    if at.date() == now.date():
        return f"{at:%H:%M} ({zone})"
    if timedelta() < at - now < timedelta(days=6):
        return f"{at:%A %H:%M} ({zone})"
    return f"{at:%A}, {at.day} {at:%B %Y}, {at:%H:%M} ({zone})"


def zone_of(tx: Tx, pool_id: UUID) -> str:
    """The time zone that people of the pool think in: that of most calendars of its entitlements, else of its plans of
    spares; empty when it has neither."""
    entitlements = sa.select(Calendar.timezone).join(Permission, Permission.calendar_id == Calendar.id)
    plans = sa.select(Calendar.timezone).join(SparePlan, SparePlan.calendar_id == Calendar.id)
    for rows in (entitlements.where(Permission.object_id == pool_id), plans.where(SparePlan.pool_id == pool_id)):
        most = rows.group_by(Calendar.timezone).order_by(sa.func.count().desc(), Calendar.timezone).limit(1)
        if (zone := tx.scalar(most)) is not None:
            return zone
    return ""


def for_people(tx: Tx, pool_id: UUID, at: datetime, now: datetime) -> str:
    """The time in words for the pool's people."""
    return spoken(at, zone_of(tx, pool_id), now)
