"""Bookings are made, changed and cancelled: rows, after everything that may be in the way was looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.directory import rights
from backend.directory.models import Group, Membership, User
from backend.errors import Denied, Impossible, Invalid
from backend.events import move, record
from pools import capacity, facts, times
from pools.booked import alone, clock, many, opened, uses
from pools.booking_rules import OPEN, Wish, repeated, require_allowed, require_sensible
from pools.models import Booking, Lease, Pool
from pools.rules import WANTING, entitled

_FRESH = {"populate_existing": True}


def make(
    tx: Tx, pool: Pool, wish: Wish, *, user_id: UUID, group_id: UUID | None, rule: str, timezone: str, runs: bool, now: datetime
) -> list[Booking]:
    """The bookings of this wish, one or as many as the rule says; `Refused` in words when one of them is not possible.
    `runs`: whoever asks runs the pool, so its policy for people is not asked."""
    if pool.state == "removing":
        raise Impossible("pool_removing", f"Pool {pool.name} is being removed.")
    if pool.type == "dedicated":
        raise Impossible("dedicated", f"In pool {pool.name} everybody has a desktop of their own, so there is nothing to book.")
    require_sensible(wish, pool.size, pool.name, now)
    alone(tx, pool.id)
    zone = _zone(timezone)
    made: list[Booking] = []
    for start, end in repeated(wish.starts_at.astimezone(zone), wish.ends_at.astimezone(zone), rule):
        one = Wish(wish.desktops, start.astimezone(UTC), end.astimezone(UTC), group_id is None, wish.title.strip())
        if not runs:
            require_allowed(one, facts.policy_of(pool), pool.name, _held(tx, pool.id, user_id), now)
        _require_entitled(tx, pool, user_id, group_id, one)
        _admit(tx, pool, one, now)
        booking = Booking(
            pool_id=pool.id, user_id=user_id, group_id=group_id, title=one.title, state=Booking.machine.initial,
            desktops=one.desktops, kept=one.desktops, starts_at=one.starts_at, ends_at=one.ends_at, made_at=now, changed_at=now,
            series_id=made[0].id if made else None,
        )  # fmt: skip
        tx.add(booking)
        tx.flush()
        made.append(booking)
    if len(made) > 1:
        made[0].series_id = made[0].id
    for booking in made:
        record(tx, "booking.made", booking, **words(tx, booking))
        touch(tx, "booking", booking.id, user_id=user_id, pool_id=pool.id)
    return made


def change(
    tx: Tx, booking: Booking, *, title: str | None, desktops: int | None, starts_at: datetime | None, ends_at: datetime | None,
    runs: bool, actor: str, now: datetime,
) -> None:  # fmt: skip
    """Change what is given; `Refused` in words when it is not possible. People's leases of it end with the new end."""
    pool = get(tx, Pool, booking.pool_id)
    alone(tx, pool.id)
    booking = get(tx, Booking, booking.id, lock=True)
    Booking.machine.next(booking.state, "edit", booking.name)
    taken = next(n for b, n in opened(tx, pool.id) if b.id == booking.id)
    wish = Wish(
        desktops or booking.desktops, (starts_at or booking.starts_at), (ends_at or booking.ends_at), booking.group_id is None,
        booking.title if title is None else title.strip(),
    )  # fmt: skip
    require_sensible(wish, pool.size, pool.name, now)
    wish = Wish(wish.desktops, wish.starts_at.astimezone(UTC), wish.ends_at.astimezone(UTC), wish.alone, wish.title)
    if booking.state == "running" and wish.starts_at != booking.starts_at:
        raise Impossible("begun", "This booking has begun, so its start stays as it is.", fields=["starts_at"])
    if wish.desktops < taken:
        raise Impossible("in_use", f"{taken} desktops of this booking are in use; it cannot have fewer.", fields=["desktops"])
    if not runs:
        require_allowed(wish, facts.policy_of(pool), pool.name, _held(tx, pool.id, booking.user_id, booking.id), now)
    _require_entitled(tx, pool, booking.user_id, booking.group_id, wish)
    _admit(tx, pool, wish, now, booking)
    kept = wish.desktops if wish.desktops != booking.desktops or not booking.released else booking.kept
    changes = {"title": wish.title, "desktops": wish.desktops, "kept": kept, "starts_at": wish.starts_at, "ends_at": wish.ends_at}
    told = words(tx, booking) | _times(wish.desktops, wish.starts_at, wish.ends_at)
    told |= {"actor": actor, "name": wish.title or booking.name}
    move(tx, booking, "edit", words=told, **changes, why="", changed_at=now, revision=booking.revision + 1)
    held = sa.select(Lease).where(Lease.booking_id == booking.id, Lease.starts_at.is_not(None), Lease.ends_at != wish.ends_at)
    for lease in tx.scalars(held.where(Lease.state.in_(WANTING)).with_for_update().execution_options(**_FRESH)):
        end_with(tx, lease, wish.ends_at)


def end_with(tx: Tx, lease: Lease, ends_at: datetime) -> None:
    """The lease ends when its booking does."""
    if lease.state in ("active", "expiring"):
        move(tx, lease, "rebook", words={**facts.words(tx, lease), "ends_at": clock(ends_at)}, ends_at=ends_at, why="")
    elif lease.state in ("queued", "starting"):
        lease.ends_at = ends_at


def cancel(tx: Tx, booking: Booking, why: str, actor: str, now: datetime, *, series: bool = False) -> int:
    """The booking is cancelled, or all of its series that have not begun; answers how many were. Who has a desktop of it
    keeps it until the end."""
    alone(tx, booking.pool_id)
    booking = get(tx, Booking, booking.id, lock=True)
    Booking.machine.next(booking.state, "cancel", booking.name)
    which = [booking]
    if series and booking.series_id is not None:
        others = sa.select(Booking).where(
            Booking.series_id == booking.series_id, Booking.id != booking.id, Booking.state.in_(("booked", "preparing"))
        )
        which += tx.scalars(others.order_by(Booking.starts_at).with_for_update().execution_options(**_FRESH))
    for one in which:
        told = words(tx, one) | {"actor": actor}
        move(tx, one, "cancel", words=told, why=why, kept=0, changed_at=now, revision=one.revision + 1)
        let_go(tx, one)
    return len(which)


def let_go(tx: Tx, booking: Booking) -> None:
    """The booking is over: who still waits for a desktop of it waits like everybody else."""
    waiting = sa.select(Lease).where(Lease.booking_id == booking.id, Lease.state == "queued").with_for_update()
    for lease in tx.scalars(waiting.execution_options(**_FRESH)):
        lease.booking_id, lease.priority = None, 0


def _held(tx: Tx, pool_id: UUID, user_id: UUID, but: UUID | None = None) -> int:
    """How many bookings of this pool the person has that are not over; of those that one rule made, every one counts."""
    return tx.scalar(sa.select(sa.func.count()).where(
        Booking.pool_id == pool_id, Booking.user_id == user_id, Booking.state.in_(OPEN), Booking.id.is_distinct_from(but)
    )) or 0  # fmt: skip


def _admit(tx: Tx, pool: Pool, wish: Wish, now: datetime, booking: Booking | None = None) -> None:
    """`Impossible`, with what would be possible, when so many desktops are not free then."""
    lead = capacity.lead(wish.desktops, facts.boots(tx, pool.id))
    start, end = max(now, wish.starts_at - lead), wish.ends_at + capacity.clear(pool.grace_s, pool.shutdown_s)
    found = uses(tx, pool, now, but_bookings=(booking.id,) if booking else ()).all
    n = capacity.free(pool.size, found, start, end)
    if n >= wish.desktops:
        return
    few = f"only {n} desktop{'s' if n != 1 else ''}" if n else "no desktop"
    later = capacity.free_from(pool.size, found, start, end - start, wish.desktops)
    instead = ""
    if later is not None:
        later = _round(later + lead)
        instead = f" {'It' if wish.desktops == 1 else 'All'} would be free from {times.for_people(tx, pool.id, later, now)} on."
    at = times.for_people(tx, pool.id, wish.starts_at, now)
    raise Impossible(
        "not_free", f"At {at} {few} of pool {pool.name} can be booked for so long; {wish.desktops} wanted.{instead}",
        fields=["desktops"], free=n, free_from=later.isoformat() if later else None,
    )  # fmt: skip


def _round(at: datetime) -> datetime:
    """Up to the next five minutes."""
    return at + timedelta(seconds=-(at.minute % 5 * 60 + at.second + at.microsecond / 1e6) % 300)


def _require_entitled(tx: Tx, pool: Pool, user_id: UUID, group_id: UUID | None, wish: Wish) -> None:
    """`Denied` unless the person, or somebody of the group, may use the pool during the whole period."""
    path = facts.pool_path(tx, pool)

    def covers(grants: Any) -> bool:
        good, until = entitled(grants, path, wish.starts_at)
        return good and (until is None or until >= wish.ends_at)

    if group_id is None:
        if not covers(rights.grants_of(tx, user_id)):
            who = facts.person(tx, user_id)
            raise Denied("not_entitled", f"{who} may not use pool {pool.name} during the whole of that time.")
        return
    group = get(tx, Group, group_id)
    people = tx.scalars(sa.select(Membership.user_id).join(User, User.id == Membership.user_id)
                        .where(Membership.group_id == group_id, User.enabled)).all()
    if covers(rights.grants_of_group(tx, group_id)) or any(covers(rights.grants_of(tx, id)) for id in people):
        return
    raise Denied("not_entitled", f"Nobody of group {group.name} may use pool {pool.name} during the whole of that time.")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid("bad_timezone", f"“{name[:60]}” is not a time zone; write for instance Europe/Berlin or UTC.",
                      fields=["timezone"]) from None


# -- in words ------------------------------------------------------------------------------------------------------
def words(tx: Tx, booking: Booking) -> dict[str, Any]:
    """What sentences about this booking are filled with."""
    pool = get(tx, Pool, booking.pool_id)
    told = _times(booking.desktops, booking.starts_at, booking.ends_at)
    return {"name": booking.name, "user": facts.person(tx, booking.user_id), "pool": pool.name, **told}


def _times(desktops: int, starts_at: datetime, ends_at: datetime) -> dict[str, str]:
    return {"desktops": many(desktops), "starts_at": clock(starts_at), "ends_at": clock(ends_at)}
