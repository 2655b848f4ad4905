"""What bookings keep, as rows: how many desktops are free when, until when others may have one, and whose a booking is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.directory.models import Membership
from pools import capacity, facts, times
from pools.booking_rules import OPEN
from pools.capacity import Boots, Use
from pools.models import LIVE, Booking, Lease, Pool, PoolMember
from pools.rules import WANTING

_FRESH = {"populate_existing": True}


# -- one after the other -------------------------------------------------------------------------------
def guard(tx: Tx, pool_id: UUID, *, one_of: UUID | None = None) -> bool:
    """Whether the pool has bookings that are not over; held until the transaction ends, before any lease is.

    Nobody books meanwhile, and where there are bookings no other lease begins or is extended either: two people cannot both
    have the last desktop that nobody has booked. With `one_of`, this person's requests for the pool come one at a time, so
    that racing ones cannot take more than they may have."""
    bookings = sa.func.pg_advisory_xact_lock_shared(_key("bookings", pool_id))
    mine = [sa.func.pg_advisory_xact_lock(_key(str(one_of), pool_id))] if one_of is not None else []
    tx.execute(sa.select(*mine, bookings))  # a list is worked out from left to right
    if not any_open(tx, pool_id):
        return False
    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_key("walk-ins", pool_id))))
    return True


_ANY_OPEN = sa.select(sa.exists().where(Booking.pool_id == sa.bindparam("pool_id"), Booking.state.in_(OPEN)))


def any_open(tx: Tx, pool_id: UUID) -> bool:
    """Whether the pool has bookings that are not over."""
    return bool(tx.scalar(_ANY_OPEN, {"pool_id": pool_id}))


def alone(tx: Tx, pool_id: UUID) -> None:
    """Nobody else books, takes or extends in this pool until the transaction ends."""
    tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_key("bookings", pool_id))))


def _key(what: str, pool_id: UUID) -> Any:
    return sa.func.hashtextextended(f"{what}:{pool_id}", 0)


# -- what is free when -----------------------------------------------------------------------------------
def opened(tx: Tx, pool_id: UUID) -> list[tuple[Booking, int]]:
    """The pool's bookings that are not over, the next one first, and how many desktops of each people hold."""
    held = sa.select(sa.func.count()).where(Lease.booking_id == Booking.id, Lease.state.in_(WANTING)).scalar_subquery()
    rows = tx.execute(
        sa.select(Booking, held)
        .where(Booking.pool_id == pool_id, Booking.state.in_(OPEN))
        .order_by(Booking.starts_at, Booking.made_at)
        .execution_options(**_FRESH)
    )
    return [(booking, taken) for booking, taken in rows]


def use_of(booking: Booking, pool: Pool, boots: Boots) -> Use:
    """What the booking takes, from making its desktops ready until they can be given out again."""
    return Use(
        booking.starts_at - capacity.lead(booking.desktops, boots),
        booking.ends_at + capacity.clear(pool.grace_s, pool.shutdown_s),
        booking.kept,
    )


@dataclass(frozen=True)
class Uses:
    """Everything that uses desktops of a pool, now and later: leases that belong to no booking, and bookings."""

    leases: list[Use]
    bookings: list[Use]

    @property
    def all(self) -> list[Use]:
        return [*self.leases, *self.bookings]


def uses(
    tx: Tx, pool: Pool, now: datetime, *, but_lease: UUID | None = None, but_bookings: Collection[UUID] = ()
) -> Uses:
    """What uses desktops of the pool, now and later."""
    boots, clear = facts.boots(tx, pool.id), capacity.clear(pool.grace_s, pool.shutdown_s)
    bookings = [use_of(booking, pool, boots) for booking, _ in opened(tx, pool.id) if booking.id not in but_bookings]
    rows = tx.execute(
        sa.select(Lease.state, Lease.starts_at, Lease.ends_at)
        .outerjoin(Booking, Booking.id == Lease.booking_id)
        .where(
            Lease.pool_id == pool.id,
            sa.text(f"lease.{LIVE}"),
            sa.or_(Lease.state != "queued", Lease.starts_at.is_not(None)),  # who lost a desktop on the way gets another
            sa.or_(Lease.booking_id.is_(None), Booking.state.not_in(OPEN)),
            Lease.id.is_distinct_from(but_lease),
        )
    )
    leases, wishes = [], []
    for state, starts_at, ends_at in rows:
        if state in ("grace", "returning"):
            leases.append(Use(now, now + clear))
        elif state == "starting" and starts_at is None:
            wishes.append(Use(now, None if pool.lease_s is None else now + timedelta(seconds=pool.lease_s) + clear))
        else:
            leases.append(Use(now, None if ends_at is None else max(ends_at, now) + clear))
    return Uses(capacity.with_starting(_working(tx, pool), leases, wishes, bookings, now), bookings)


def limit(tx: Tx, pool: Pool, now: datetime, *, lease_id: UUID | None = None) -> datetime | None:
    """When one more lease, or this one, must end so that every booking has its desktops; None: no limit."""
    if not any_open(tx, pool.id):
        return None
    found = uses(tx, pool, now, but_lease=lease_id)
    clear = capacity.clear(pool.grace_s, pool.shutdown_s)
    return capacity.latest_end(_working(tx, pool), found.leases, found.bookings, now, clear)


def _working(tx: Tx, pool: Pool) -> int:
    """The pool's size less what is set aside."""
    broken = sa.select(sa.func.count()).where(PoolMember.pool_id == pool.id, PoolMember.state == "broken")
    return pool.size - (tx.scalar(broken) or 0)


def reserved(tx: Tx, pool: Pool, now: datetime, ahead: timedelta = timedelta()) -> int:
    """How many desktops are to be up and waiting for who has booked; with `ahead`, also those that are to be so long before
    they are."""
    rows = opened(tx, pool.id)
    if not rows:
        return 0
    boots = facts.boots(tx, pool.id)
    told = ((b.starts_at, b.ends_at, b.kept - taken, ahead + capacity.lead(b.desktops, boots)) for b, taken in rows)
    return capacity.reserved(told, now)


def must_wait(tx: Tx, pool: Pool, user_id: UUID, now: datetime) -> tuple[str, datetime | None]:
    """A sentence for somebody who cannot have a desktop now because those that are free are booked, and when there will be
    one for them; an empty one when bookings are not in their way."""
    if not any_open(tx, pool.id):
        return "", None
    found = uses(tx, pool, now)
    size, clear = _working(tx, pool), capacity.clear(pool.grace_s, pool.shutdown_s)
    latest = capacity.latest_end(size, found.leases, found.bookings, now, clear)
    if not capacity.must_wait(latest, now, pool.lease_s):
        return "", None
    after = capacity.free_from(size, found.all, now, clear + capacity.SHORTEST)
    mine, zone = next_of(tx, pool.id, user_id, now), times.zone_of(tx, pool.id)

    def said(at: datetime) -> str:
        return times.spoken(at, zone, now)

    own = f" Your own booking begins at {said(mine.starts_at)}." if mine is not None and mine.starts_at > now else ""
    until = f" until {said(after)}" if after is not None else ""
    return f"The desktops that are not in use are booked{until}.{own}", after


def ends_early(tx: Tx, pool: Pool, until: datetime, now: datetime) -> str:
    """What somebody is told whose lease is shorter because of a booking."""
    return f"It ends at {times.for_people(tx, pool.id, until, now)}: after that the desktops are booked."


# -- whose they are ------------------------------------------------------------------------------------------
def of_person(user_id: UUID) -> Any:
    """WHERE a booking is the person's: they made it, or it is for a group of theirs."""
    theirs = sa.select(Membership.group_id).where(Membership.user_id == user_id)
    return sa.or_(Booking.user_id == user_id, Booking.group_id.in_(theirs))


def for_person(tx: Tx, pool_id: UUID, user_id: UUID, now: datetime) -> Booking | None:
    """The booking that goes on now and has a desktop for this person; None when there is none."""
    taken = sa.select(sa.func.count()).where(Lease.booking_id == Booking.id, Lease.state.in_(WANTING)).scalar_subquery()
    mine = sa.exists().where(Lease.booking_id == Booking.id, Lease.user_id == user_id, Lease.state.in_(WANTING))
    return tx.scalars(
        sa.select(Booking)
        .where(
            Booking.pool_id == pool_id, Booking.state.in_(OPEN), Booking.starts_at <= now, Booking.ends_at > now,
            of_person(user_id), Booking.kept > taken, sa.or_(Booking.group_id.is_(None), ~mine),
        )
        .order_by(Booking.user_id != user_id, Booking.starts_at)
        .limit(1)
        .execution_options(**_FRESH)
    ).first()  # fmt: skip


def next_of(tx: Tx, pool_id: UUID, user_id: UUID, now: datetime) -> Booking | None:
    """The person's next booking of the pool, or the one that goes on now."""
    return tx.scalars(
        sa.select(Booking)
        .where(Booking.pool_id == pool_id, Booking.state.in_(OPEN), Booking.ends_at > now, of_person(user_id))
        .order_by(Booking.starts_at)
        .limit(1)
        .execution_options(**_FRESH)
    ).first()


# -- in words ----------------------------------------------------------------------------------------------------
def many(n: int) -> str:
    """1 desktop, 12 desktops."""
    return f"{n} desktop{'s' if n != 1 else ''}"


def clock(at: datetime) -> str:
    """A time as sentences have it; pages show it by the reader's own clock."""
    return times.spoken(at, "", at)
