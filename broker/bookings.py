"""What people do with bookings: see them and the pool's calendar, book within its policy, change and cancel their own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx, get
from backend.directory import rights
from backend.directory.models import Group, Membership
from backend.directory.rules import Grant, may
from backend.errors import Denied, Invalid, NotFound
from pools import booked, bookings, capacity, facts
from pools.booking_rules import FAREST, OPEN, Wish
from pools.models import Booking, Pool
from pools.rules import entitled, entitled_again

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Shown:
    """A booking as this person may see it: of others' they see that desktops are booked, not by whom or what for."""

    booking: Booking
    pool: str
    name: str
    who: str = ""
    group: str = ""
    theirs: bool = False  # made by them, or for a group of theirs
    editable: bool = False


@dataclass(frozen=True)
class Calendar:
    """A pool's bookings in a period, and how many desktops can be booked in each stretch of it."""

    pool: Pool
    size: int
    since: datetime
    until: datetime
    bookings: list[Shown]
    free: list[tuple[datetime, datetime, int]]
    may_book: bool
    runs: bool


def pools(tx: Tx, user_id: UUID, now: datetime) -> list[Pool]:
    """The pools that this person may book desktops of, by name."""
    grants = rights.grants_of(tx, user_id)
    rows = tx.scalars(sa.select(Pool).where(Pool.state != "removing", Pool.type == "floating").order_by(Pool.name)).all()
    return [pool for pool in rows if _may_book(tx, pool, grants, now)]


def _may_book(tx: Tx, pool: Pool, grants: list[Grant], now: datetime) -> bool:
    path = facts.pool_path(tx, pool)
    if pool.type != "floating" or pool.state == "removing":
        return False
    if may(grants, "pool.edit", path, now):
        return True
    return pool.book_desktops > 0 and (entitled(grants, path, now)[0] or entitled_again(grants, path, now) is not None)


def groups(tx: Tx, user_id: UUID, runs: bool) -> list[Group]:
    """The groups that this person may book for: their own, or any for who runs the pool."""
    rows = sa.select(Group).order_by(Group.name)
    if not runs:
        rows = rows.join(Membership, Membership.group_id == Group.id).where(Membership.user_id == user_id)
    return list(tx.scalars(rows.limit(500)))


def runs(tx: Tx, user_id: UUID, pool: Pool, now: datetime) -> bool:
    """Whether this person runs the pool."""
    return may(rights.grants_of(tx, user_id), "pool.edit", facts.pool_path(tx, pool), now)


def _seen(tx: Tx, pool_id: UUID, user_id: UUID, now: datetime) -> tuple[Pool, bool, bool]:
    """The pool, whether this person sees all of its bookings, and whether they run it; `NotFound` when it is not theirs."""
    pool, grants = tx.get(Pool, pool_id), rights.grants_of(tx, user_id)
    if pool is not None:
        path = facts.pool_path(tx, pool)
        sees = may(grants, "lease.see", path, now)
        if sees or entitled(grants, path, now)[0] or entitled_again(grants, path, now) is not None:
            return pool, sees, may(grants, "pool.edit", path, now)
    raise NotFound("not_found", f"There is no pool with the id {pool_id}.", kind="pool", id=str(pool_id))


def calendar(tx: Tx, *, user_id: UUID, pool_id: UUID, since: datetime, until: datetime, now: datetime) -> Calendar:
    """The pool's calendar in a period, as this person may see it."""
    if not timedelta(0) < until - since <= timedelta(days=62):
        raise Invalid("bad_period", "Ask for up to 62 days; the end lies after the start.", fields=["from", "until"])
    if abs(since - now) > 2 * FAREST:
        raise Invalid("bad_period", f"The calendar reaches {2 * FAREST.days} days back and ahead.", fields=["from", "until"])
    pool, sees, runs_it = _seen(tx, pool_id, user_id, now)
    rows = tx.scalars(
        sa.select(Booking)
        .where(Booking.pool_id == pool.id, Booking.state != "cancelled", Booking.starts_at < until, Booking.ends_at > since)
        .order_by(Booking.starts_at, Booking.made_at)
    ).all()
    mine = set(tx.scalars(sa.select(Booking.id).where(Booking.pool_id == pool.id, booked.of_person(user_id))))
    shown = [_shown(tx, row, pool, user_id, sees, row.id in mine, runs_it) for row in rows]
    start = max(since, now)
    free = capacity.stretches(pool.size, booked.uses(tx, pool, now).all, start, until) if start < until else []
    may_book = _may_book(tx, pool, rights.grants_of(tx, user_id), now)
    return Calendar(pool, pool.size, since, until, shown, free, may_book, runs_it)


def _shown(tx: Tx, row: Booking, pool: Pool, user_id: UUID, sees: bool, theirs: bool, runs_it: bool) -> Shown:
    if not (sees or theirs):
        return Shown(row, pool.name, "Booked")
    group = tx.get(Group, row.group_id) if row.group_id else None
    editable = row.state in OPEN and (runs_it or row.user_id == user_id)
    name, who = row.title or booked.many(row.desktops), facts.person(tx, row.user_id)
    return Shown(row, pool.name, name, who, group.name if group else "", theirs, editable)


def mine(tx: Tx, user_id: UUID, now: datetime, *, soon: bool = False) -> list[Shown]:
    """The person's bookings that are not over, and those that ended within a week, the next one first; `soon`: those alone
    that go on now or begin within a day."""
    lately = sa.or_(Booking.changed_at > now - WEEK, Booking.ends_at > now - WEEK)
    if soon:
        lately = sa.false()
    rows = tx.execute(
        sa.select(Booking, Pool)
        .join(Pool, Pool.id == Booking.pool_id)
        .where(booked.of_person(user_id), sa.or_(Booking.state.in_(OPEN), lately))
        .where(Booking.starts_at < now + timedelta(days=1) if soon else sa.true())
        .order_by(Booking.state.not_in(OPEN), Booking.starts_at)
        .limit(200)
    )
    return [_shown(tx, row, pool, user_id, False, True, runs(tx, user_id, pool, now)) for row, pool in rows]


def one(tx: Tx, user_id: UUID, booking_id: UUID, now: datetime) -> Shown:
    """A booking of theirs, or of a pool whose leases they may see; `NotFound` otherwise."""
    row = tx.get(Booking, booking_id, populate_existing=True)
    if row is not None:
        theirs = tx.scalar(sa.select(sa.exists().where(Booking.id == row.id, booked.of_person(user_id))))
        pool, grants = get(tx, Pool, row.pool_id), rights.grants_of(tx, user_id)
        if theirs or may(grants, "lease.see", facts.pool_path(tx, pool), now):
            return _shown(tx, row, pool, user_id, True, bool(theirs), may(grants, "pool.edit", facts.pool_path(tx, pool), now))
    raise NotFound("not_found", "You have no such booking.", kind="booking", id=str(booking_id))


def book(
    tx: Tx, *, user_id: UUID, pool_id: UUID, wish: Wish, group_id: UUID | None, rule: str, timezone: str, now: datetime
) -> list[Booking]:
    """The person books for themselves, or for a group of theirs, within the pool's policy; who runs the pool as they like."""
    pool, _, runs_it = _seen(tx, pool_id, user_id, now)
    if group_id is not None and not runs_it:
        member = sa.exists().where(Membership.user_id == user_id, Membership.group_id == group_id)
        if not tx.scalar(sa.select(member)):
            raise Denied("not_your_group", "You may book for groups that you are in; choose another one.", fields=["group_id"])
    return bookings.make(
        tx, pool, wish, user_id=user_id, group_id=group_id, rule=rule, timezone=timezone, runs=runs_it, now=now
    )


def change(
    tx: Tx, *, user_id: UUID, booking_id: UUID, title: str | None, desktops: int | None, starts_at: datetime | None,
    ends_at: datetime | None, now: datetime,
) -> Booking:  # fmt: skip
    """Change a booking of theirs, within the pool's policy."""
    row, runs_it = _own(tx, user_id, booking_id, now)
    bookings.change(
        tx, row, title=title, desktops=desktops, starts_at=starts_at, ends_at=ends_at, runs=runs_it,
        actor=facts.person(tx, user_id), now=now,
    )  # fmt: skip
    return row


def cancel(tx: Tx, *, user_id: UUID, booking_id: UUID, series: bool, now: datetime) -> int:
    """Cancel a booking of theirs, or all of its series that have not begun; answers how many."""
    row, _ = _own(tx, user_id, booking_id, now)
    name = facts.person(tx, user_id)
    return bookings.cancel(tx, row, f"{name} has cancelled it.", name, now, series=series)


def _own(tx: Tx, user_id: UUID, booking_id: UUID, now: datetime) -> tuple[Booking, bool]:
    """The booking, if it is this person's to change."""
    shown = one(tx, user_id, booking_id, now)
    pool = get(tx, Pool, shown.booking.pool_id)
    runs_it = runs(tx, user_id, pool, now)
    if shown.booking.user_id != user_id and not runs_it:
        raise Denied("not_yours", "Only who made this booking, or an administrator of its pool, may change it.")
    return shown.booking, runs_it
