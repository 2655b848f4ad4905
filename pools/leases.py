"""What happens to one lease: assigned, ready, extended, given back, over. Each changes rows in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, Range

from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Impossible
from backend.events import move
from pools import booked, facts, members, times, troubles
from pools.capacity import BOOKED
from pools.choice import FREE
from pools.decisions import note
from pools.models import LIVE, Booking, Lease, Pool, PoolMember
from pools.rules import ATTEMPTS, Action, extended_end, lease_end

NEW_VERSION = "new_version"  # the end reason of a lease whose desktop is made of a new version


def ask(
    tx: Tx, pool: Pool, user_id: UUID, why: str, now: datetime, priority: int = 0, booking_id: UUID | None = None
) -> Lease:
    """A new lease, at the end of its priority in the pool's queue; who has booked goes first. Nobody is told of it: the
    caller says what becomes of it."""
    lease = Lease(
        pool_id=pool.id, user_id=user_id, state=Lease.machine.initial, why=why, asked_at=now, booking_id=booking_id,
        priority=priority if booking_id is None else BOOKED,
    )  # fmt: skip
    tx.add(lease)
    tx.flush()
    return lease


_WANTED = sa.bindparam("wanted", type_=ARRAY(sa.Uuid))
_FREE = (
    sa.select(PoolMember)
    .where(
        PoolMember.id == sa.any_(_WANTED),
        PoolMember.state.in_(FREE),
        ~sa.exists().where(Lease.vm_id == PoolMember.vm_id, sa.text(f"lease.{LIVE}")),
    )
    .order_by(sa.func.array_position(_WANTED, PoolMember.id))
    .limit(1)
    .with_for_update(of=PoolMember, skip_locked=True)
    .execution_options(populate_existing=True)
)
_FREED = sa.select(sa.func.max(sa.func.upper(Lease.period))).where(Lease.vm_id == sa.bindparam("vm_id"))
_WAITS = sa.exists().where(Lease.pool_id == sa.bindparam("pool_id"), Lease.state == "queued")
_FREE_FOR = _FREE.where(~_WAITS.where(Lease.id != sa.bindparam("lease_id"), Lease.priority >= sa.bindparam("priority")))


def take_member(
    tx: Tx, pool_id: UUID, wanted: Sequence[UUID], *, for_lease: Lease | None = None, from_queue: bool = False
) -> PoolMember | None:
    """Hold the first of these members that nobody else is taking, until the transaction ends; None when all are gone.

    While somebody else of no lower priority than `for_lease` waits nobody gets one, unless the caller serves the queue
    (`from_queue`)."""
    if not wanted:
        return None
    free = _FREE
    if not from_queue:
        free = _FREE_FOR if for_lease is not None else free.where(~_WAITS)
    asked = {"wanted": list(wanted), "pool_id": pool_id}
    if for_lease is not None:
        asked |= {"lease_id": for_lease.id, "priority": for_lease.priority}
    return tx.scalars(free, asked).first()


def assign(tx: Tx, lease: Lease, member: PoolMember, now: datetime, words: dict[str, Any]) -> None:
    """The member is this person's; one that is down is started, a suspended one woken. `words` are those of `facts.words`."""
    was_off = member.state in ("ready", "suspended")
    if get(tx, Pool, lease.pool_id).type == "dedicated":
        members.belong(tx, member, lease.user_id, now)
    move(tx, member, "lease", why="")
    # who waited for a lock has an older `now` than whoever gave the desktop back meanwhile
    since = max(now, tx.scalar(_FREED, {"vm_id": member.vm_id}) or now)
    move(tx, lease, "assign", vm_id=member.vm_id, period=Range(since, None), why="", words=words)
    if was_off:
        members.start(tx, member, now)


def ready(
    tx: Tx, lease: Lease, pool: Pool, entitled_until: datetime | None, now: datetime, words: dict[str, Any] | None = None,
    bookings: bool = True,
) -> None:
    """The desktop is up: the lease's time begins (or goes on, when this is not its first desktop). It ends with its booking,
    or before the desktop is booked by others; the caller holds `booked.guard`, which has said whether there are `bookings`."""
    times: dict[str, Any] = {}
    if lease.starts_at is None:
        times = {"starts_at": now} | _ends(tx, lease, pool, entitled_until, now, bookings)
    troubles.started(tx, pool)
    move(tx, lease, "ready", **({"why": ""} | times), off_wanted=False, called_until=None, words=words or facts.words(tx, lease))


def _ends(
    tx: Tx, lease: Lease, pool: Pool, entitled_until: datetime | None, now: datetime, bookings: bool
) -> dict[str, Any]:
    """When a lease that begins now ends, and what to tell when that is early."""
    booking = tx.get(Booking, lease.booking_id, populate_existing=True) if lease.booking_id else None
    if booking is not None and booking.ends_at > now:
        return {"ends_at": min(booking.ends_at, entitled_until or booking.ends_at)}
    wanted = lease_end(now, pool.lease_s, entitled_until)
    latest = booked.limit(tx, pool, now, lease_id=lease.id) if bookings else None
    if latest is None or (wanted is not None and wanted <= latest):
        return {"ends_at": wanted}
    latest = max(latest, now)
    return {"ends_at": latest, "why": booked.ends_early(tx, pool, latest, now)}


def requeue(tx: Tx, lease: Lease, why: str, now: datetime, *, counts: bool = True) -> None:
    """Its desktop failed: it waits again, at the place it always had. Too many failures end it with a sentence."""
    attempts = lease.attempts + (1 if counts else 0)
    if lease.state == "starting" and attempts >= ATTEMPTS:
        sentence = f"{attempts} desktops in a row failed. The last one said: {why} Your administrator has been told."
        lease.attempts = attempts
        fail(tx, lease, sentence, now)
        return
    no_desktop = {"vm_id": None, "period": None, "called_until": None}
    move(tx, lease, "requeue", words=facts.words(tx, lease), why=why, attempts=attempts, **no_desktop)


def postpone(tx: Tx, lease: Lease, why: str) -> None:
    """Nothing can be started just now: it waits at its place until there is room, or the pool tries again."""
    move(tx, lease, "postpone", vm_id=None, period=None, called_until=None, why=why)


def call(tx: Tx, lease: Lease, pool: Pool, now: datetime) -> None:
    """The desktop is ready for somebody who waited: theirs if they open it in time."""
    until = now + timedelta(seconds=pool.call_s)
    by = times.for_people(tx, pool.id, until, now)
    troubles.started(tx, pool)
    why = f"Your desktop is ready. Open it by {by}, or the next person gets it."
    move(tx, lease, "call", words={**facts.words(tx, lease), "until": _clock(until)}, called_until=until, why=why)


def shorten(tx: Tx, lease: Lease, until: datetime, now: datetime) -> None:
    """The entitlement ends before the lease was to: it ends with it."""
    at = times.for_people(tx, lease.pool_id, until, now)
    note(tx, lease, "shortened", f"Your right to this pool ends at {at}, and the lease with it.", now)
    move(tx, lease, "shorten", words={**facts.words(tx, lease), "ends_at": _clock(until)}, ends_at=until)


def renew(tx: Tx, lease: Lease) -> None:
    """The holder wants a fresh desktop: the old one goes back and is made as new, the lease and its time stay."""
    tx.execute(sa.update(PoolMember).where(PoolMember.vm_id == lease.vm_id).values(fresh_wanted=True))
    move(tx, lease, "renew", words=facts.words(tx, lease), vm_id=None, period=None, why="You asked for a fresh desktop.")


def swap(tx: Tx, lease: Lease, member: PoolMember, now: datetime) -> None:
    """The holder gets this desktop for the rest of the lease; the one they had goes back."""
    move(tx, lease, "swap", words=facts.words(tx, lease), vm_id=None, period=None, why="")
    assign(tx, lease, member, now, facts.words(tx, lease, member.vm_id))


def fail(tx: Tx, lease: Lease, why: str, now: datetime, reason: str = "failed") -> None:
    """No desktop for this request; the person reads why."""
    over = {"ended_at": now, "end_reason": reason, "period": None, "vm_id": None}
    note(tx, lease, "ended", why, now)
    move(tx, lease, "fail", words=facts.words(tx, lease), why=why, **over)


def act(tx: Tx, lease: Lease, action: Action, pool: Pool, now: datetime) -> None:
    """Carry out what the clock says is due."""
    words = facts.words(tx, lease)
    if action == "warn":
        assert lease.ends_at is not None
        move(tx, lease, "warn", words={**words, "ends_at": _clock(lease.ends_at)})
    elif action == "expire":
        assert lease.ends_at is not None
        until = lease.ends_at + timedelta(seconds=pool.grace_s)
        why = "Your lease has ended. Save your work now: the desktop is about to be shut down."
        move(tx, lease, "expire", words={**words, "grace_until": _clock(until)}, grace_until=until, why=why)
    elif lease.end_reason == NEW_VERSION:
        give_back(tx, lease, NEW_VERSION, "A new version of the desktop took its place.", now)
    else:
        give_back(tx, lease, "expired", "The lease has ended.", now)


def recall(tx: Tx, lease: Lease, pool: Pool, why: str, now: datetime) -> None:
    """A new version of the desktop takes its place after the pool's grace; one that only starts gets another desktop."""
    if lease.state == "starting":
        requeue(tx, lease, why, now, counts=False)
        return
    note(tx, lease, "recalled", why, now)
    until = now + timedelta(seconds=pool.grace_s)
    words = {**facts.words(tx, lease), "grace_until": _clock(until), "why": why}
    why = f"{why} Save your work now: the desktop is about to be shut down."
    move(tx, lease, "recall", words=words, grace_until=until, end_reason=NEW_VERSION, why=why)


def give_back(tx: Tx, lease: Lease, reason: str, why: str, now: datetime) -> None:
    """The desktop goes back to its pool, whatever the lease was doing; one that only waited leaves the queue."""
    if lease.state in ("returning", "ended"):
        return
    words = facts.words(tx, lease)
    told = {"returned": "{user} gave it back.", "entitlement_ended": "the right of {user} to it has ended."}.get(reason, why)
    words["why"] = told.format(**words) if told is not why else why  # what people read of somebody else
    if reason != "returned":
        note(tx, lease, "ended", why, now)
    if lease.state != "queued":
        move(tx, lease, "give_back", words=words, end_reason=reason, why=why)
    elif reason == "returned":
        move(tx, lease, "leave", words=words, end_reason="left_queue", why="You left the queue.", ended_at=now)
    else:
        move(tx, lease, "turn_away", words=words, end_reason=reason, why=why, ended_at=now)
    touch(tx, "pool", lease.pool_id, pool_id=lease.pool_id)  # everybody's place in the queue may be another one


def holder(tx: Tx, vm_id: UUID, states: Sequence[str]) -> Lease | None:
    """The lease on this VM, if it is in one of these states."""
    return tx.scalars(sa.select(Lease).where(Lease.vm_id == vm_id, Lease.state.in_(states))).first()


def over(tx: Tx, vm_id: UUID, now: datetime) -> None:
    """The VM is proved off: the lease that was returning it is over."""
    returning = sa.select(Lease).where(Lease.vm_id == vm_id, Lease.state == "returning")
    lease = tx.scalars(returning.with_for_update().execution_options(populate_existing=True)).first()
    if lease is not None:  # the loop may have seen it first
        end(tx, lease, now)


def end(tx: Tx, lease: Lease, now: datetime) -> None:
    """The lease is over, and was until now."""
    given = lease.period.lower if lease.period else lease.asked_at
    move(tx, lease, "end", words=facts.words(tx, lease), ended_at=now, period=Range(given, max(now, given)))


def extend(tx: Tx, lease: Lease, entitled_until: datetime | None, now: datetime) -> datetime:
    """One more extension, by the pool's policy, or `Impossible` in words; answers the new end. The caller holds
    `booked.guard`."""
    pool = get(tx, Pool, lease.pool_id)
    latest = _latest(tx, lease, pool, now) if lease.state in ("active", "expiring") and lease.ends_at else None
    end = extended_end(
        state=lease.state,
        ends_at=lease.ends_at,
        used=lease.extensions_used,
        policy=facts.policy_of(pool),
        waiting=facts.queued(tx, pool.id),
        entitled_until=entitled_until,
    )
    why = ""
    if latest is not None and latest < end:
        end, why = latest, booked.ends_early(tx, pool, latest, now)
    words = {**facts.words(tx, lease), "ends_at": _clock(end)}
    move(tx, lease, "extend", words=words, ends_at=end, extensions_used=lease.extensions_used + 1, why=why)
    return end


def _latest(tx: Tx, lease: Lease, pool: Pool, now: datetime) -> datetime | None:
    """The latest end that an extension may have because of bookings (None: any), or `Impossible` when it is reached."""
    assert lease.ends_at is not None
    if lease.booking_id is not None and (booking := tx.get(Booking, lease.booking_id)) is not None and booking.ends_at > now:
        raise Impossible("booked", "This desktop is yours by a booking: change the end of the booking instead.")
    latest = booked.limit(tx, pool, now, lease_id=lease.id)
    if latest is not None and latest <= lease.ends_at:
        raise Impossible("booked", f"The lease cannot be extended: after {times.for_people(tx, pool.id, latest, now)} "
                         "the desktops are booked.")
    return latest


def prolong(tx: Tx, lease: Lease, seconds: int, actor: str, now: datetime) -> datetime:
    """An administrator moves the end on, whatever the policy says, but not into bookings. The caller holds `booked.guard`."""
    if lease.ends_at is None:
        raise Impossible("no_end", "This lease has no end, so there is nothing to extend.")
    end = lease.ends_at + timedelta(seconds=seconds)
    latest = _latest(tx, lease, get(tx, Pool, lease.pool_id), now)
    if latest is not None and latest < end:
        after = times.for_people(tx, lease.pool_id, latest, now)
        raise Impossible("booked", f"After {after} the desktops are booked; extend by less, or cancel a booking.",
                         latest=latest.isoformat())
    words = {**facts.words(tx, lease), "ends_at": _clock(end), "actor": actor}
    move(tx, lease, "prolong", words=words, ends_at=end, why="")
    return end


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
