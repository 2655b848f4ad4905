"""Pure: what a person may book, what is due of a booking, and the bookings that one rule makes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from dateutil.rrule import rrulestr

from backend.errors import Impossible, Invalid
from pools.policy import Policy

MOST = 53  # bookings that one rule may make: a year of weeks
LONGEST = timedelta(days=31)  # of a booking, whoever makes it
FAREST = timedelta(days=400)  # how far ahead anybody may book
_RULE = re.compile(r"FREQ=(DAILY|WEEKLY|MONTHLY)(;(INTERVAL|COUNT|UNTIL|BYDAY|WKST)=[-+0-9A-Z,]+)*")
OPEN = ("booked", "preparing", "running")


@dataclass(frozen=True)
class Wish:
    """What somebody wants to book."""

    desktops: int
    starts_at: datetime
    ends_at: datetime
    alone: bool = True  # for nobody but the booker
    title: str = ""


def require_sensible(wish: Wish, size: int, pool: str, now: datetime) -> None:
    """`Invalid` in words for a booking that nobody could make."""
    if wish.starts_at.tzinfo is None or wish.ends_at.tzinfo is None:
        raise Invalid("no_timezone", "Say in which time zone the times are, as in 2026-11-24T14:00:00Z.",
                      fields=["starts_at", "ends_at"])
    if wish.ends_at - wish.starts_at < timedelta(minutes=5):
        raise Invalid("bad_period", "A booking lasts five minutes at least; its end lies after its start.",
                      fields=["starts_at", "ends_at"])
    if wish.ends_at <= now:
        raise Invalid("bad_period", "This time has passed already; choose a later one.", fields=["starts_at", "ends_at"])
    if wish.ends_at - wish.starts_at > LONGEST:
        raise Invalid("too_long", f"A booking lasts {LONGEST.days} days at most.", fields=["ends_at"])
    if wish.starts_at - now > FAREST:
        raise Invalid("too_far", f"Bookings are made up to {FAREST.days} days ahead.", fields=["starts_at"])
    if not 1 <= wish.desktops <= size:
        there = "1 desktop: book that one" if size == 1 else f"{size} desktops: book between 1 and {size}"
        raise Invalid("bad_number", f"Pool {pool} has {there}.", fields=["desktops"])
    if len(wish.title) > 100 or not wish.title.isprintable():
        raise Invalid("bad_title", "A title has up to 100 characters, in one line.", fields=["title"])


def require_allowed(wish: Wish, policy: Policy, pool: str, held: int, now: datetime) -> None:
    """`Impossible` in words when the pool's policy does not let a person book this; `held` bookings of theirs are not over.
    Who runs the pool is not asked."""
    p = policy
    if not p.book_desktops:
        raise Impossible("no_bookings", f"Desktops of pool {pool} cannot be booked; ask your administrator.")
    if wish.desktops > p.book_desktops:
        many = "one desktop" if p.book_desktops == 1 else f"{p.book_desktops} desktops"
        raise Impossible("too_many_desktops", f"You may book {many} of pool {pool} at once; your administrator may book more.",
                         fields=["desktops"], most=p.book_desktops)
    if wish.alone and wish.desktops > p.per_user:
        many = "one desktop" if p.per_user == 1 else f"{p.per_user} desktops"
        raise Impossible("for_whom", f"You alone may use {many} of pool {pool}; choose the group that the others are for.",
                         fields=["desktops", "group_id"])
    if wish.starts_at - now > timedelta(seconds=p.book_ahead_s):
        raise Impossible("too_far", f"Pool {pool} is booked up to {length(p.book_ahead_s)} ahead.", fields=["starts_at"])
    if wish.ends_at - wish.starts_at > timedelta(seconds=p.book_longest_s):
        raise Impossible("too_long", f"A booking of pool {pool} lasts {length(p.book_longest_s)} at most.", fields=["ends_at"])
    if held >= p.book_open:
        many = "one booking" if p.book_open == 1 else f"{p.book_open} bookings"
        raise Impossible("too_many_bookings", f"You may have {many} of pool {pool} at a time; cancel one first.",
                         most=p.book_open)


def length(seconds: int) -> str:
    """A policy's length in words."""
    for unit, word in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit and seconds % unit == 0:
            n = seconds // unit
            return f"{n} {word}{'s' if n != 1 else ''}"
    return f"{seconds} seconds"


# -- what is due -----------------------------------------------------------------------------------------
BookingStep = Literal["prepare", "begin", "adopt", "put_off", "late", "ready", "unused", "release", "end"]


@dataclass(frozen=True)
class BookingFacts:
    """An open booking: `kept` desktops of it, of which people hold `taken`; `up` are booted and wait for them."""

    state: str
    starts_at: datetime
    ends_at: datetime
    kept: int
    taken: int
    up: int = 0
    others: int = 0  # people of it have or want so many as if they had booked none: somebody was at them when it began
    late: bool = False  # it has been told that they were not ready in time
    released: bool = False  # what nobody used was given back already


def booking_step(b: BookingFacts, lead: timedelta, hold_s: int, now: datetime) -> BookingStep | None:
    """The one thing to do next for this booking; None: nothing now."""
    if now >= b.ends_at:
        return "end"
    if b.state == "preparing" and now < b.starts_at - lead - timedelta(minutes=5):
        return "put_off"  # it was moved to a later time
    if b.state == "booked" and b.starts_at - lead <= now < b.starts_at:
        return "prepare"
    if now < b.starts_at:
        return None
    if b.state != "running":
        return "begin"
    if b.others and b.taken < b.kept:
        return "adopt"
    if hold_s and not b.released and now >= b.starts_at + timedelta(seconds=hold_s):
        return "release" if b.taken else "unused"
    missing = b.taken + b.up < b.kept
    return "late" if missing and not b.late else "ready" if b.late and not missing else None


def repeated(start: datetime, end: datetime, rule: str) -> list[tuple[datetime, datetime]]:
    """The periods that a rule of RFC 5545 makes of the first one, on the wall clock of the time zone that it is told in, so
    that 14:00 stays 14:00 when clocks change; the first one alone without a rule. `Invalid` for a rule that cannot be read,
    or that makes too many."""
    if not rule.strip():
        return [(start, end)]
    zone, length = start.tzinfo, end - start
    text = rule.strip().upper().removeprefix("RRULE:")
    wrong = Invalid("bad_rule", f"“{rule[:80]}” cannot be read. Write a rule of RFC 5545 with an end, as in "
                    "FREQ=WEEKLY;COUNT=10.", fields=["rule"])
    # only rules that come again soon: a day that never comes would be looked for until the year 9999
    if len(text) > 200 or not _RULE.fullmatch(text) or ("COUNT=" not in text and "UNTIL=" not in text):
        raise wrong
    try:
        found = rrulestr(text, dtstart=start.replace(tzinfo=None), ignoretz=True)
        moments = [at for at, _ in zip(found, range(MOST + 1), strict=False)]
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        raise wrong from None
    if not moments:
        raise wrong
    if len(moments) > MOST:
        raise Invalid("too_many", f"One rule makes up to {MOST} bookings; end it earlier.", fields=["rule"])
    return [(at.replace(tzinfo=zone), at.replace(tzinfo=zone) + length) for at in moments]
