"""Take every booking one step further: its desktops are made ready, it begins, what nobody uses is freed, it ends."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from backend.clock import Clock
from backend.db import Tx, get
from backend.directory.models import Membership
from backend.events import move, record
from backend.loops import FromRows
from backend.vms.models import Vm
from pools import bookings, capacity, facts
from pools.booked import alone, many, opened
from pools.booking_rules import OPEN, BookingFacts, BookingStep, booking_step
from pools.capacity import BOOKED
from pools.models import Booking, Lease, Pool, PoolMember
from pools.rounds import alone as apart
from pools.rounds import my_turn
from pools.rules import WANTING


class BookingLoop(FromRows):
    """Goes over the bookings that are not over, once a second. (`SpareLoop` starts the desktops, as more spares.)"""

    name, every_s = "bookings", 1.0

    def __init__(self, clock: Clock, every_s: float = 1.0) -> None:
        self.clock, self.every_s = clock, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        some = sa.exists().where(Booking.pool_id == Pool.id, Booking.state.in_(OPEN))
        for pool in tx.scalars(sa.select(Pool).where(some).order_by(Pool.name)).all():
            if my_turn(tx, pool.id):
                self._settle(tx, pool, now)

    def _settle(self, tx: Tx, pool: Pool, now: datetime) -> None:
        boots, up = facts.boots(tx, pool.id), _up(tx, pool)
        rows = opened(tx, pool.id)
        for booking, taken in rows:
            lead = capacity.lead(booking.desktops, boots)
            theirs = 0
            if now >= booking.starts_at - lead:  # who begins first is given first
                theirs = min(up, max(0, booking.kept - taken))
                up -= theirs
            goes_on = booking.state == "running" and taken < booking.kept
            others = len(tx.scalars(_others(booking).limit(1)).all()) if goes_on else 0
            seen = BookingFacts(booking.state, booking.starts_at, booking.ends_at, booking.kept, taken, theirs, others,
                                booking.late, booking.released)
            step = booking_step(seen, lead, pool.book_hold_s, now)
            if step is not None:
                with apart(tx, booking=str(booking.id)):
                    alone(tx, pool.id)
                    _do(tx, get(tx, Booking, booking.id, lock=True), pool, step, seen, now)
        _tell_short(tx, pool, [booking for booking, _ in rows if booking.state in OPEN])


def _do(tx: Tx, booking: Booking, pool: Pool, step: BookingStep, seen: BookingFacts, now: datetime) -> None:
    words = bookings.words(tx, booking)
    match step:
        case "prepare":
            move(tx, booking, "prepare", words=words)
        case "put_off":
            move(tx, booking, "put_off")
        case "begin":
            _adopt(tx, booking, booking.kept)
            move(tx, booking, "begin", words=words | {"ready": seen.up + seen.taken})
        case "adopt":
            _adopt(tx, booking, booking.kept - seen.taken)
        case "late":
            why = _why_late(tx, pool, seen)
            record(tx, "booking.late", booking, **words, why=why)
            booking.late, booking.why = True, why
        case "ready":
            record(tx, "booking.ready", booking, **words)
            booking.late, booking.why = False, ""
        case "unused":
            move(tx, booking, "unused", words=words, kept=0, released=True, why="Nobody came, so its desktops were freed.")
        case "release":
            freed = booking.kept - seen.taken
            if freed > 0:
                gone = {"kept": seen.taken, "released": True, "why": "", "late": False}
                move(tx, booking, "release", words=words | {"freed": many(freed)}, **gone)
            else:
                booking.released = True
        case "end":
            came = seen.state == "running"
            move(tx, booking, "end", words=words, kept=0, why="" if came else "It was over before it could begin.")
            bookings.let_go(tx, booking)


def _others(booking: Booking) -> Any:
    """Leases of the booking's people that belong to no booking; of a group's, only those of people who have none of its."""
    theirs = sa.select(Membership.user_id).where(Membership.group_id == booking.group_id)
    mine = aliased(Lease)
    has_one = sa.exists().where(mine.booking_id == booking.id, mine.user_id == Lease.user_id, mine.state.in_(WANTING))
    people = sa.or_(Lease.user_id == booking.user_id, sa.and_(Lease.user_id.in_(theirs), ~has_one))
    return sa.select(Lease).where(
        Lease.pool_id == booking.pool_id, people, Lease.state.in_(("queued", "starting", "active", "expiring")),
        Lease.booking_id.is_(None),
    )  # fmt: skip


def _adopt(tx: Tx, booking: Booking, most: int) -> None:
    """Who has a desktop of the pool already when their booking begins keeps it as one of the booking's, and who waits for one
    waits no longer than for what is booked. A lease that somebody is at just now is adopted in a later round."""
    order = (Lease.state == "queued", Lease.queue_place)
    for lease in tx.scalars(_others(booking).order_by(*order).limit(most).with_for_update(of=Lease, skip_locked=True)):
        lease.booking_id = booking.id
        if lease.state == "queued":
            lease.priority, lease.why = BOOKED, ""
        if lease.ends_at is None or lease.ends_at < booking.ends_at:
            bookings.end_with(tx, lease, booking.ends_at)


def _up(tx: Tx, pool: Pool) -> int:
    """How many desktops are booted and wait for somebody."""
    rows = sa.select(sa.func.count()).select_from(PoolMember).join(Vm, Vm.id == PoolMember.vm_id)
    return tx.scalar(rows.where(PoolMember.pool_id == pool.id, PoolMember.state == "spare", Vm.state == "up")) or 0


def _why_late(tx: Tx, pool: Pool, seen: BookingFacts) -> str:
    """Why not all desktops are ready, for people."""
    ready = f"{seen.taken + seen.up} of {many(seen.kept)} are ready."
    if pool.state == "paused":
        return f"{ready} The pool is paused."
    broken = facts.counts(tx, pool.id).get("broken", 0)
    if pool.trouble:
        return f"{ready} {pool.trouble}"
    return f"{ready} {many(broken)} of the pool are set aside." if broken else f"{ready} The others are still starting."


def _tell_short(tx: Tx, pool: Pool, rows: list[Booking]) -> None:
    """Tell, once, of each booking that the pool has become too small for; and take it back when it fits again."""
    made = sorted(rows, key=lambda booking: (booking.made_at, booking.starts_at))
    lacking = capacity.short(pool.size, [(b.starts_at, b.ends_at, b.kept) for b in made])
    for booking, lacks in zip(made, lacking, strict=True):
        why = f"The pool has become too small: {many(lacks)} of {booking.desktops} will be missing." if lacks else ""
        if booking.late or (not why and not booking.why.startswith("The pool has become too small")) or booking.why == why:
            continue
        booking.why = why
        if why:
            record(tx, "booking.short", booking, **bookings.words(tx, booking), why=why)
