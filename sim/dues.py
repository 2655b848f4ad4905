"""When something is due next in an installation whose time is told: until then its managers have nothing to do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.db import Tx
from backend.directory.models import Permission
from broker import consoles
from pools import booked, facts
from pools.models import Booking, Lease, Pool
from pools.quiet import WARNING, Watched
from pools.quiet_loop import WATCHED
from pools.spare_loop import LEAST_LEAD


def next_due(tx: Tx, now: datetime) -> datetime | None:
    """The next time that stands in a row or follows from one, or at which a calendar opens or closes."""
    times = [*_in_rows(tx, now), *_of_calendars(tx, now), *_of_bookings(tx), *_of_quiet_desktops(tx)]
    return min((time for time in times if time > now), default=None)


def _in_rows(tx: Tx, now: datetime) -> Iterator[datetime]:
    before = sa.func.make_interval(0, 0, 0, 0, 0, 0, Pool.warn_s)
    times = [sa.select(Lease.ends_at - before).join(Pool, Pool.id == Lease.pool_id).where(Lease.state != "ended")]
    for cls in (Lease, Pool, Permission):
        live = Lease.state != "ended" if cls is Lease else sa.true()
        columns = [c for c in cls.__table__.columns if isinstance(c.type, sa.DateTime)]
        times += [sa.select(column).where(live, column > now) for column in columns]
    yield from (time for time in tx.scalars(sa.union_all(*times)) if time is not None)


def _of_calendars(tx: Tx, now: datetime) -> Iterator[datetime]:
    for calendar in tx.scalars(sa.select(Calendar)):
        closes, opens = calendar.hours.until(now), calendar.hours.opens(now)
        yield from (time for time in (closes, opens, opens and opens - LEAST_LEAD) if time is not None)


def _of_bookings(tx: Tx) -> Iterator[datetime]:
    for pool in tx.scalars(sa.select(Pool).where(sa.exists().where(Booking.pool_id == Pool.id))):
        boots = facts.boots(tx, pool.id)
        for booking, _ in booked.opened(tx, pool.id):
            hold = booking.starts_at + timedelta(seconds=pool.book_hold_s)
            yield from (booked.use_of(booking, pool, boots).start, booking.starts_at, hold, booking.ends_at)


def _of_quiet_desktops(tx: Tx) -> Iterator[datetime]:
    somehow = sa.or_(Pool.idle_action != "nothing", Pool.disconnect_action != "nothing")
    for pool in tx.scalars(sa.select(Pool).where(somehow)):
        watched = consoles.watched(tx, pool.id)
        for lease in tx.scalars(sa.select(Lease).where(Lease.pool_id == pool.id, Lease.state.in_(WATCHED))):
            assert lease.starts_at is not None
            seen, idle = watched.get(lease.id, Watched()), timedelta(seconds=pool.idle_s)
            used, left = max(lease.starts_at, seen.input_at or lease.starts_at), seen.left_at or lease.starts_at
            yield from (used + idle - min(WARNING, idle / 2), used + idle, left + timedelta(seconds=pool.disconnect_s))
