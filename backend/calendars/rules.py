"""Pure: hours that come again (RFC 5545 rules in a time zone): open now, until when, and when next.

A window is a line such as `Mon-Fri 07:30-18:00`, `daily 22:00-06:00`, or, with any rule of RFC 5545 in place of the days,
`FREQ=MONTHLY;BYDAY=1MO 08:00-12:00`. Times are those of the wall clock. On the nights when clocks change they mean what
RFC 5545 (3.3.5) says: a time that comes twice is the first of the two, a time that is left out is told by the clock as it
went before the gap, so that 02:30 is 03:30. A window that ends no later than it begins ends on the next day.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dateutil.rrule import rrulestr

from backend.errors import Invalid

ANCHOR = datetime(2024, 1, 1)  # a Monday: what "every second week" is counted from
FAR = timedelta(days=400)  # nobody asks further ahead; a lease lasts 366 days at most
_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_WORDS = {"mon": 0, "tue": 1, "wed": 2, "thu": 3, "fri": 4, "sat": 5, "sun": 6}
_LINE = re.compile(r"^(?P<days>\S.*?)\s+(?P<start>\d\d:\d\d)\s*-\s*(?P<end>\d\d:\d\d)$")
Stretch = tuple[datetime, datetime]


@dataclass(frozen=True)
class Window:
    """The days of an RFC 5545 rule, from one wall-clock time to another; the end is on the next day when it is not later."""

    rule: str
    start: time
    end: time


@dataclass(frozen=True)
class Hours:
    """A calendar as plain data: its windows, in its time zone, less the days on which it is closed."""

    timezone: str
    windows: tuple[Window, ...]
    closed: tuple[tuple[date, date], ...] = ()

    def open_at(self, now: datetime) -> bool:
        """Whether a window is open now."""
        return any(start <= now < end for start, end in stretches(self, now, now + timedelta(seconds=1)))

    def until(self, now: datetime) -> datetime | None:
        """The end of the stretch that `now` lies in, windows that follow at once included; None: no end in sight."""
        ahead = timedelta(days=8)
        while ahead < 4 * FAR:
            end = next((end for start, end in stretches(self, now, now + ahead) if start <= now < end), now)
            if end < now + ahead:
                return end
            ahead *= 4
        return None

    def opens(self, now: datetime) -> datetime | None:
        """When a window opens next, after now; None: not within a year."""
        ahead = timedelta(days=8)
        while ahead < 4 * FAR:
            for start, _ in stretches(self, now, now + ahead):
                if start > now:
                    return start
            ahead *= 4
        return None


def stretches(hours: Hours, since: datetime, until: datetime) -> list[Stretch]:
    """When the calendar is open between two moments, in order, in UTC; windows that touch are one stretch. A stretch that
    began before `since` or ends after `until` is told whole, as far as it is made of windows that begin by then."""
    zone = ZoneInfo(hours.timezone)
    day, last = since.astimezone(zone).date() - timedelta(days=1), until.astimezone(zone).date()
    found: list[Stretch] = []
    while day <= last:
        if not any(first <= day <= until_day for first, until_day in hours.closed):
            found += [_on(window, day, zone) for window in hours.windows if day in _days(window.rule, day.year, day.month)]
        day += timedelta(days=1)
    return [(start, end) for start, end in _joined(found) if end > since and start < until]


def _on(window: Window, day: date, zone: ZoneInfo) -> Stretch:
    over = day + timedelta(days=1) if window.end <= window.start else day
    start = datetime.combine(day, window.start, zone).astimezone(UTC)
    return start, max(start, datetime.combine(over, window.end, zone).astimezone(UTC))


def _joined(found: Iterable[Stretch]) -> list[Stretch]:
    whole: list[Stretch] = []
    for start, end in sorted(found):
        if whole and start <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end))
        elif end > start:
            whole.append((start, end))
    return whole


@lru_cache(maxsize=4096)
def _days(rule: str, year: int, month: int) -> frozenset[date]:
    """The days of this month on which the rule falls."""
    first, last = datetime(year, month, 1), datetime(year, month, monthrange(year, month)[1])
    return frozenset(at.date() for at in rrulestr(rule, dtstart=ANCHOR).between(first, last, inc=True))


# -- reading what people write ---------------------------------------------------------------------
@lru_cache(maxsize=1024)
def hours(timezone: str, windows: tuple[str, ...], closed: tuple[str, ...] = ()) -> Hours:
    """The calendar that these lines describe; `Invalid` with a sentence for the first that cannot be read."""
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid("bad_timezone", f"“{timezone}” is not a time zone; write for instance Europe/Berlin or UTC.",
                      fields=["timezone"]) from None
    if not 1 <= len(windows) <= 50:
        raise Invalid("bad_window", "A calendar has between 1 and 50 lines such as Mon-Fri 07:30-18:00.", fields=["windows"])
    return Hours(timezone, tuple(map(_window, windows)), tuple(map(_closed, closed)))


def _window(line: str) -> Window:
    if len(line) > 200 or not (found := _LINE.match(line.strip())):
        raise _wrong(line)
    rule = _rule(found["days"], line)
    try:
        start, end = time.fromisoformat(found["start"]), time.fromisoformat(found["end"].replace("24:00", "00:00"))
    except ValueError:
        raise _wrong(line) from None
    return Window(rule, start, end)


def _rule(days: str, line: str) -> str:
    """The RFC 5545 rule of these days."""
    if "=" in days:
        rule = days.upper().removeprefix("RRULE:")
        # a rule by the hour would give times, and one with a count or an end is better told by closed days
        if not re.match(r"FREQ=(DAILY|WEEKLY|MONTHLY|YEARLY)(;[A-Z]+=[-+0-9A-Z,]+)*$", rule):
            raise _wrong(line)
        try:
            _days(rule, ANCHOR.year, ANCHOR.month)
        except (ValueError, TypeError, KeyError, IndexError):
            raise _wrong(line) from None
        return rule
    if days.lower() == "daily":
        return "FREQ=DAILY"
    chosen: set[int] = set()
    for part in days.lower().split(","):
        first, _, last = (word.strip()[:3] for word in part.partition("-"))
        if first not in _WORDS or (last and last not in _WORDS):
            raise _wrong(line)
        a, b = _WORDS[first], _WORDS[last or first]
        chosen |= {n % 7 for n in range(a, b + 1 if b >= a else b + 8)}
    return "FREQ=WEEKLY;BYDAY=" + ",".join(_DAYS[n] for n in sorted(chosen))


def _closed(text: str) -> tuple[date, date]:
    """A day, or a range of days."""
    first, _, last = text.strip().partition("..")
    try:
        days = date.fromisoformat(first), date.fromisoformat(last or first)
    except ValueError:
        days = (date.max, date.min)
    if days[0] > days[1]:
        raise Invalid("bad_day", f"“{text[:60]}” is not a day; write 2026-12-24, or 2026-12-24..2027-01-01 for several.",
                      fields=["closed"])
    return days


def _wrong(line: str) -> Invalid:
    return Invalid(
        "bad_window",
        f"“{line[:80]}” cannot be read. Write days and times, as in Mon-Fri 07:30-18:00, or a rule of RFC 5545 and times, as in "
        "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO 08:00-12:00.", fields=["windows"],
    )
