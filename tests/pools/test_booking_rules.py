"""What may be booked, what is due of a booking, and the bookings that one rule makes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backend.errors import Refused
from pools.booking_rules import MOST, BookingFacts, Wish, booking_step, repeated, require_allowed, require_sensible
from pools.policy import Policy

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WISH = Wish(1, NOW + HOUR, NOW + 3 * HOUR)
POLICY = Policy(size=20, book_desktops=12, book_ahead_s=7 * 86_400, book_longest_s=4 * 3600, book_open=2)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(("wish", "words"), [
    (replace(WISH, ends_at=WISH.starts_at), "five minutes"),
    (replace(WISH, ends_at=NOW - HOUR, starts_at=NOW - 3 * HOUR), "passed already"),
    (replace(WISH, ends_at=NOW + timedelta(days=40)), "31 days"),
    (replace(WISH, starts_at=NOW + timedelta(days=500), ends_at=NOW + timedelta(days=501)), "400 days"),
    (replace(WISH, desktops=0), "between 1 and 20"),
    (replace(WISH, desktops=21), "between 1 and 20"),
    (replace(WISH, title="x" * 101), "100 characters"),
    (replace(WISH, starts_at=WISH.starts_at.replace(tzinfo=None)), "time zone"),
])  # fmt: skip
def test_nobody_could_book_that(wish: Wish, words: str) -> None:
    with pytest.raises(Refused, match=words):
        require_sensible(wish, 20, "Course", NOW)


@pytest.mark.parametrize(("wish", "policy", "held", "words"), [
    (WISH, replace(POLICY, book_desktops=0), 0, "cannot be booked"),
    (replace(WISH, desktops=13, alone=False), POLICY, 0, "12 desktops of pool Course at once"),
    (replace(WISH, desktops=2), POLICY, 0, "choose the group"),
    (replace(WISH, starts_at=NOW + timedelta(days=8), ends_at=NOW + timedelta(days=8, hours=1)), POLICY, 0, "7 days ahead"),
    (replace(WISH, ends_at=WISH.starts_at + 5 * HOUR), POLICY, 0, "4 hours at most"),
    (WISH, POLICY, 2, "2 bookings"),
])  # fmt: skip
def test_the_policy_does_not_let_people(wish: Wish, policy: Policy, held: int, words: str) -> None:
    require_sensible(wish, 20, "Course", NOW)
    with pytest.raises(Refused, match=words):
        require_allowed(wish, policy, "Course", held, NOW)


def test_within_the_policy() -> None:
    require_sensible(WISH, 20, "Course", NOW)
    require_allowed(WISH, POLICY, "Course", 1, NOW)
    require_allowed(replace(WISH, desktops=12, alone=False), POLICY, "Course", 0, NOW)


BOOKED = BookingFacts("booked", NOW, NOW + 2 * HOUR, kept=3, taken=0)
LEAD = timedelta(minutes=4)


@pytest.mark.parametrize(("facts", "minutes", "step"), [
    (BOOKED, -5, None),
    (BOOKED, -4, "prepare"),
    (BOOKED, 0, "begin"),  # after an outage
    (BOOKED, 120, "end"),
    (replace(BOOKED, state="preparing"), -4, None),
    (replace(BOOKED, state="preparing"), -60, "put_off"),
    (replace(BOOKED, state="preparing"), 0, "begin"),
    (replace(BOOKED, state="running"), 1, "late"),
    (replace(BOOKED, state="running", up=3), 1, None),
    (replace(BOOKED, state="running", up=2, taken=1), 1, None),
    (replace(BOOKED, state="running", late=True), 1, None),
    (replace(BOOKED, state="running", others=1), 1, "adopt"),
    (replace(BOOKED, state="running", taken=3, others=1), 1, None),
    (replace(BOOKED, state="running", late=True, up=3), 1, "ready"),
    (replace(BOOKED, state="running", up=3), 15, "unused"),
    (replace(BOOKED, state="running", up=2, taken=1), 15, "release"),
    (replace(BOOKED, state="running", kept=1, taken=1, released=True), 15, None),
    (replace(BOOKED, state="running", taken=3), 120, "end"),
])  # fmt: skip
def test_what_is_due(facts: BookingFacts, minutes: int, step: str | None) -> None:
    assert booking_step(facts, LEAD, 900, NOW + timedelta(minutes=minutes)) == step


def test_kept_until_the_end() -> None:
    assert booking_step(replace(BOOKED, state="running", up=3), LEAD, 0, NOW + HOUR) is None


def test_weekly_on_the_wall_clock_when_clocks_change() -> None:
    start = datetime(2026, 3, 24, 14, tzinfo=BERLIN)
    made = repeated(start, start + 2 * HOUR, "FREQ=WEEKLY;COUNT=2")
    assert [begin.astimezone(UTC).hour for begin, _ in made] == [13, 12]
    assert all(begin.hour == 14 and end.hour == 16 for begin, end in made)
    assert repeated(start, start + HOUR, "") == [(start, start + HOUR)]
    assert len(repeated(start, start + HOUR, "RRULE:freq=daily;until=20260330T235959")) == 7


@pytest.mark.parametrize("rule", ["FREQ=WEEKLY", "COUNT=3", "FREQ=WEEKLY;COUNT=x", "nonsense", f"FREQ=WEEKLY;COUNT={MOST + 1}",
                                  "FREQ=SECONDLY;COUNT=1000000", "FREQ=YEARLY;BYMONTH=13;COUNT=2", "FREQ=WEEKLY;COUNT=0"])
def test_rules_that_make_no_bookings(rule: str) -> None:
    with pytest.raises(Refused):
        repeated(NOW, NOW + HOUR, rule)
