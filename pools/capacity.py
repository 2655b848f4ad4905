"""Pure: how many desktops of a pool are free when, with bookings and leases; until when one more lease may last.

Everything that uses desktops is a `Use`: a lease from now until its desktop can be given out again, a booking from the
moment on which its desktops are made ready until they can be given out again after it. What is admitted is admitted so that
at no moment more desktops are used than there are; as nothing else begins later, a moment at which something begins is the
only one that can be full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

BOOKED = 1_000_000  # the queue priority of who has booked: before every walk-in, whose priorities end at 100
SHORTEST = timedelta(minutes=5)  # nobody is given a desktop for less because of a booking
AT_ONCE = 4  # desktops that are thought to boot beside each other before anything has been measured
SHORTEST_LEAD, LONGEST_LEAD = timedelta(minutes=1), timedelta(hours=1)


@dataclass(frozen=True)
class Use:
    """So many desktops are in use, from one moment until another (none: nobody knows until when)."""

    start: datetime
    end: datetime | None
    desktops: int = 1

    def at(self, moment: datetime) -> bool:
        """Whether they are in use at that moment."""
        return self.start <= moment and (self.end is None or moment < self.end)


def used(uses: Iterable[Use], at: datetime) -> int:
    """How many desktops are in use at that moment."""
    return sum(use.desktops for use in uses if use.at(at))


def full_from(size: int, leases: Sequence[Use], bookings: Sequence[Use], since: datetime) -> datetime | None:
    """The first moment from `since` on at which bookings leave no desktop for one more; None: they always do. That there are
    more leases than desktops, in a pool that was made smaller, is no booking's doing."""
    moments = sorted({max(since, booking.start) for booking in bookings if booking.end is None or booking.end > since})
    return next((at for at in moments if used(leases, at) + used(bookings, at) + 1 > size), None)


def free(size: int, uses: Sequence[Use], start: datetime, end: datetime) -> int:
    """How many desktops are free during the whole of a period."""
    moments = {start, *(use.start for use in uses if start < use.start < end)}
    return max(0, size - max(used(uses, at) for at in moments))


def free_from(size: int, uses: Sequence[Use], start: datetime, length: timedelta, desktops: int = 1) -> datetime | None:
    """The first moment from `start` on when so many desktops are free for so long; None: never."""
    moments = sorted({start, *(use.end for use in uses if use.end is not None and use.end > start)})
    return next((at for at in moments if free(size, uses, at, at + length) >= desktops), None)


def stretches(size: int, uses: Sequence[Use], start: datetime, end: datetime) -> list[tuple[datetime, datetime, int]]:
    """How many desktops are free over time: (from, until, free), without gaps."""
    edges = {at for use in uses for at in (use.start, use.end) if at is not None and start < at < end}
    moments = [start, *sorted(edges), end]
    found: list[tuple[datetime, datetime, int]] = []
    for since, until in zip(moments, moments[1:], strict=False):
        left = max(0, size - used(uses, since))
        if found and found[-1][2] == left:
            found[-1] = (found[-1][0], until, left)
        else:
            found.append((since, until, left))
    return found


def with_starting(
    size: int, leases: Sequence[Use], wishes: Iterable[Use], bookings: Sequence[Use], now: datetime
) -> list[Use]:
    """The leases, and those whose desktops still boot: their time has not begun, so their ends are not told yet. Each will
    last as long as it wishes, or until the desktops are booked."""
    found = list(leases)
    for wish in wishes:
        ends = [end for end in (wish.end, full_from(size, found, bookings, now)) if end is not None]
        found.append(Use(now, min(ends, default=None)))
    return found


def latest_end(size: int, leases: Sequence[Use], bookings: Sequence[Use], now: datetime, clear: timedelta) -> datetime | None:
    """When one more lease must end so that every booking has its desktops; `clear` is the time after the end until its
    desktop can be given out again. None: no limit."""
    full = full_from(size, leases, bookings, now)
    return None if full is None else full - clear


def must_wait(limit: datetime | None, now: datetime, lease_s: int | None) -> bool:
    """Whether a lease that ends by then would be too short to be worth having."""
    least = SHORTEST if lease_s is None else min(SHORTEST, timedelta(seconds=lease_s))
    return limit is not None and limit < now + least


# -- what a booking takes ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Boots:
    """How quickly desktops boot: what one takes, and how many the hosts have been seen to boot beside each other."""

    seconds: float
    at_once: int = AT_ONCE


def boots(starts: Sequence[tuple[datetime, datetime]], otherwise_s: float) -> Boots:
    """The measured rate, from when the latest starts began and ended; before there are any a guess. However few were ever
    asked for together, `AT_ONCE` are: the first starts of a burst never are fewer."""
    if not starts:
        return Boots(otherwise_s)
    seconds = sum((end - start).total_seconds() for start, end in starts) / len(starts)
    most = max(sum(began <= start < ended for began, ended in starts) for start, _ in starts)
    return Boots(seconds, max(AT_ONCE, most))


def margin(seconds: float) -> timedelta:
    """The time to allow for what takes so long on average: half as long again, in whole minutes."""
    return timedelta(minutes=ceil(1.5 * seconds / 60))


def lead(desktops: int, boots: Boots) -> timedelta:
    """How long before its start a booking's desktops are made ready: what they take in as many turns as the measured rate
    needs, and half as long again; a minute at least, for whoever has to be noticed first, and an hour at most, for desktops
    that nobody may use meanwhile."""
    turns = ceil(desktops / boots.at_once)
    return min(max(margin(boots.seconds * turns), SHORTEST_LEAD), LONGEST_LEAD)


def clear(grace_s: int, shutdown_s: int) -> timedelta:
    """How long after the end of a lease its desktop is off at the latest, in whole minutes."""
    return timedelta(minutes=ceil((grace_s + shutdown_s) / 60))


def reserved(bookings: Iterable[tuple[datetime, datetime, int, timedelta]], now: datetime) -> int:
    """How many desktops are to be up and waiting for people who have booked. Each booking comes as its start and end, how many
    of its desktops nobody has taken yet, and its lead."""
    return sum(max(0, left) for start, end, left, lead in bookings if start - lead <= now < end)


def short(size: int, bookings: Sequence[tuple[datetime, datetime, int]]) -> list[int]:
    """How many desktops each of these bookings lacks in a pool that has become smaller; who booked first has first.
    Each comes as start, end and the number of desktops it wants, in the order in which they were made."""
    fitting: list[Use] = []
    lacking = []
    for start, end, wanted in bookings:
        got = min(wanted, free(size, fitting, start, end))
        fitting.append(Use(start, end, got))
        lacking.append(wanted - got)
    return lacking
