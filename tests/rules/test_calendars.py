"""Hours that come again: weekly, across midnight, on the nights when clocks change, closed days; and what is no calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pytest
from hypothesis import given

from backend.calendars.rules import hours, stretches
from backend.errors import Invalid

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    """A moment on the wall clock in Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(("line", "now", "open_"), [
    ("Mon-Fri 07:30-18:00", "2026-11-25T07:29", False),
    ("Mon-Fri 07:30-18:00", "2026-11-25T07:30", True),
    ("Mon-Fri 07:30-18:00", "2026-11-25T17:59", True),
    ("Mon-Fri 07:30-18:00", "2026-11-25T18:00", False),
    ("Mon-Fri 07:30-18:00", "2026-11-28T12:00", False),
    ("mon, wed 08:00-12:00", "2026-11-25T08:00", True),
    ("Fri-Mon 08:00-12:00", "2026-11-29T08:00", True),
    ("daily 22:00-06:00", "2026-11-25T05:59", True),
    ("daily 22:00-06:00", "2026-11-25T06:00", False),
    ("daily 22:00-06:00", "2026-11-25T23:00", True),
    ("Sat 00:00-24:00", "2026-11-28T23:59", True),
    ("Sat 00:00-24:00", "2026-11-29T00:00", False),
    ("FREQ=MONTHLY;BYDAY=1MO 08:00-12:00", "2026-12-07T09:00", True),
    ("FREQ=MONTHLY;BYDAY=1MO 08:00-12:00", "2026-12-14T09:00", False),
    ("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO 08:00-12:00", "2024-01-15T09:00", True),
    ("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO 08:00-12:00", "2024-01-08T09:00", False),
])  # fmt: skip
def test_open(line: str, now: str, open_: bool) -> None:
    assert hours("Europe/Berlin", (line,)).open_at(at(now)) is open_


def test_clocks_that_go_forward() -> None:
    """02:30 is left out on 29 March 2026: it is 03:30, an hour and a half after 01:00."""
    (start, end), = stretches(hours("Europe/Berlin", ("Sun 02:30-04:00",)), at("2026-03-29T00:00"), at("2026-03-29T12:00"))
    assert start == at("2026-03-29T03:30") and end - start == timedelta(minutes=30)
    night = hours("Europe/Berlin", ("daily 22:00-06:00",))
    assert night.until(at("2026-03-28T22:00")) == datetime(2026, 3, 29, 4, 0, tzinfo=UTC)  # seven hours long


def test_clocks_that_go_back() -> None:
    """02:30 comes twice on 25 October 2026: the first one counts. The night has nine hours."""
    (start, _), = stretches(hours("Europe/Berlin", ("Sun 02:30-04:00",)), at("2026-10-25T00:00"), at("2026-10-25T12:00"))
    assert start == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    (start, end), = stretches(hours("Europe/Berlin", ("Sat 22:00-06:00",)), at("2026-10-25T00:00"), at("2026-10-25T12:00"))
    assert end - start == timedelta(hours=9)


def test_windows_that_touch_are_one() -> None:
    always = hours("UTC", ("daily 00:00-12:00", "daily 12:00-24:00"))
    assert always.until(datetime(2026, 5, 5, 5, tzinfo=UTC)) is None
    week = hours("UTC", ("Mon-Fri 00:00-24:00",))
    assert week.until(datetime(2026, 11, 25, 5, tzinfo=UTC)) == datetime(2026, 11, 28, tzinfo=UTC)


def test_closed_days_and_the_next_opening() -> None:
    term = hours("Europe/Berlin", ("Mon-Fri 08:00-18:00",), ("2026-12-21..2027-01-04", "2026-11-26"))
    assert not term.open_at(at("2026-11-26T09:00"))
    assert term.opens(at("2026-11-25T18:00")) == at("2026-11-27T08:00")
    assert term.opens(at("2026-12-18T18:00")) == at("2027-01-05T08:00")
    assert hours("UTC", ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30 08:00-09:00",)).opens(at("2026-12-18T18:00")) is None


@pytest.mark.parametrize(("zone", "windows", "closed", "field"), [
    ("Mars/Olympus", ("daily 08:00-09:00",), (), "timezone"),
    ("../etc/passwd", ("daily 08:00-09:00",), (), "timezone"),
    ("UTC", (), (), "windows"),
    ("UTC", ("someday 08:00-09:00",), (), "windows"),
    ("UTC", ("Mon-Funday 08:00-09:00",), (), "windows"),
    ("UTC", ("Mon 25:00-26:00",), (), "windows"),
    ("UTC", ("Mon",), (), "windows"),
    ("UTC", ("FREQ=SECONDLY 08:00-09:00",), (), "windows"),
    ("UTC", ("FREQ=WEEKLY;BYDAY=XX 08:00-09:00",), (), "windows"),
    ("UTC", ("FREQ=WEEKLY;NONSENSE=1 08:00-09:00",), (), "windows"),
    ("UTC", ("daily 08:00-09:00",), ("yesterday",), "closed"),
    ("UTC", ("daily 08:00-09:00",), ("2026-12-02..2026-12-01",), "closed"),
])  # fmt: skip
def test_what_is_no_calendar_is_told(zone: str, windows: tuple[str, ...], closed: tuple[str, ...], field: str) -> None:
    with pytest.raises(Invalid) as no:
        hours(zone, windows, closed)
    assert no.value.facts["fields"] == [field] and no.value.message.endswith(".")


@given(
    st.sampled_from(["Mon-Fri 07:30-18:00", "daily 22:00-06:00", "Sun 02:30-04:00", "FREQ=MONTHLY;BYDAY=-1SU 01:00-03:00"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),
)
def test_until_and_opens_agree_with_open_at(line: str, now: datetime) -> None:
    """Open until the end and not after it; closed until it opens."""
    calendar = hours("Europe/Berlin", (line,))
    blink = timedelta(microseconds=1)
    if calendar.open_at(now):
        end = calendar.until(now)
        assert end is not None and end > now and calendar.open_at(end - blink) and not calendar.open_at(end)
    else:
        assert calendar.until(now) == now
        start = calendar.opens(now)
        assert start is not None and calendar.open_at(start) and not calendar.open_at(start - blink)
