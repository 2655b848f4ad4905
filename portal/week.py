"""Pure: a pool's calendar as a week of days on the reader's own clock: what is free, what is booked, and where it is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from broker.bookings import Calendar, Shown

COLUMN, HOUR, HEAD, MARGIN = 150, 34, 40, 46  # sizes in the drawing: a day's width, an hour's height, head, margin of the hours
FEW = 0.25  # of the pool's desktops, or less: few are left


@dataclass(frozen=True)
class Stretch:
    """So many desktops can be booked from one time of the day to another."""

    start: str
    end: str
    free: int
    level: str  # full | few | free
    y: int
    height: int


@dataclass(frozen=True)
class Block:
    """A booking, or the part of it that lies on this day; `x` and `width` within the day's column."""

    shown: Shown
    start: str
    end: str
    y: int
    height: int
    x: int = 0
    width: int = 0


@dataclass
class Day:
    """One day of the week."""

    day: date
    x: int
    today: bool
    past: bool
    free: list[Stretch] = field(default_factory=list)
    bookings: list[Block] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.day:%a %-d %b}"


@dataclass(frozen=True)
class Week:
    """Seven days, and the hours that are drawn."""

    days: list[Day]
    hours: list[tuple[int, int]]  # (hour, y)
    zone: str

    @property
    def width(self) -> int:
        return MARGIN + 7 * COLUMN

    @property
    def height(self) -> int:
        return HEAD + HOUR * len(self.hours)

    @property
    def before(self) -> date:
        return self.days[0].day - timedelta(days=7)

    @property
    def after(self) -> date:
        return self.days[0].day + timedelta(days=7)


def monday(day: date) -> date:
    """The first day of its week."""
    return day - timedelta(days=day.weekday())


def bounds(first: date, zone: ZoneInfo, days: int = 7) -> tuple[datetime, datetime]:
    """When these days begin and end, in UTC."""
    return (datetime.combine(first, time.min, zone).astimezone(UTC),
            datetime.combine(first + timedelta(days=days), time.min, zone).astimezone(UTC))


def week(calendar: Calendar, first: date, zone: ZoneInfo, now: datetime) -> Week:
    """The calendar of the week that begins on this day. Hours from 7 to 20 are drawn, and more where something is booked."""
    today = now.astimezone(zone).date()
    spans = [span for shown in calendar.bookings for n in range(7)
             if (span := _on(first + timedelta(days=n), shown.booking.starts_at, shown.booking.ends_at, zone))]
    low, high = min([7 * 60, *(a for a, _ in spans)]) // 60, -(-max([20 * 60, *(b for _, b in spans)]) // 60)
    days = []
    for n in range(7):
        date_of = first + timedelta(days=n)
        day = Day(date_of, MARGIN + n * COLUMN, date_of == today, date_of < today)
        for since, until, free in calendar.free:
            if span := _on(day.day, since, until, zone):
                level = "full" if not free else "few" if free <= FEW * calendar.size else "free"
                day.free.append(Stretch(_clock(span[0]), _clock(span[1]), free, level, *_drawn(span, low, high)))
        day.bookings = _beside([
            Block(shown, _clock(span[0]), _clock(span[1]), *_drawn(span, low, high)) for shown in calendar.bookings
            if (span := _on(day.day, shown.booking.starts_at, shown.booking.ends_at, zone))
        ])
        days.append(day)
    return Week(days, [(hour, HEAD + (hour - low) * HOUR) for hour in range(low, high)], str(zone))


def _on(day: date, start: datetime, end: datetime, zone: ZoneInfo) -> tuple[int, int] | None:
    """The minutes of the day, by its wall clock, that the period takes; None when it takes none."""
    first, last = start.astimezone(zone), end.astimezone(zone)
    a = 0 if first.date() < day else first.hour * 60 + first.minute
    b = 1440 if last.date() > day else last.hour * 60 + last.minute
    return (a, b) if first.date() <= day <= last.date() and a < b else None


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _drawn(span: tuple[int, int], low: int, high: int) -> tuple[int, int]:
    a, b = (min(max(minute, low * 60), high * 60) for minute in span)
    return HEAD + round((a - low * 60) * HOUR / 60), max(0, round((b - a) * HOUR / 60))


def _beside(blocks: list[Block]) -> list[Block]:
    """Those that overlap stand beside each other, in the right four fifths of the day's column: left of them it stays to be
    seen how many desktops are free."""
    lanes: list[int] = []  # where each lane is free again
    placed = []
    for block in sorted(blocks, key=lambda b: (b.y, -b.height)):
        lane = next((n for n, y in enumerate(lanes) if y <= block.y), len(lanes))
        lanes[lane:lane + 1] = [block.y + block.height]
        placed.append((block, lane))
    wide = (COLUMN - 34) // max(1, len(lanes))
    return [Block(b.shown, b.start, b.end, b.y, b.height, 30 + lane * wide, wide - 3) for b, lane in placed]
