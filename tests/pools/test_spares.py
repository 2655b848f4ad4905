"""How many spares, and how many starts at once: plans, past weeks, and what hosts bear."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backend.calendars.rules import hours
from pools.spares import FIRST, MOST, SLOWED, at_once, learned, planned, wanted_spares, window

MORNING = (hours("Europe/Berlin", ("Mon-Fri 07:30-09:00",)), 40)
NIGHT = (hours("Europe/Berlin", ("daily 20:00-06:00",)), 0)
LEAD = timedelta(minutes=5)


@pytest.mark.parametrize(("at", "wanted"), [
    ("2026-11-25T06:24", 3), ("2026-11-25T06:25", 40), ("2026-11-25T07:59", 40), ("2026-11-25T08:00", 3),
    ("2026-11-25T22:00", 0), ("2026-11-28T07:00", 3),
])  # fmt: skip
def test_planned(at: str, wanted: int) -> None:
    """Berlin is an hour ahead of UTC in November: 06:25 is five minutes before 07:30."""
    assert planned(3, [MORNING, NIGHT], LEAD, datetime.fromisoformat(at).replace(tzinfo=UTC)) == wanted


@pytest.mark.parametrize(("asked", "wanted"), [
    ((), 0), ((30,), 0), ((30, 28, 31, 29), 30), ((0, 0, 0, 90), 0), ((12, 0, 14, 0), 12),
])  # fmt: skip
def test_learned(asked: tuple[int, ...], wanted: int) -> None:
    assert learned(asked) == wanted


def test_wanted_spares() -> None:
    assert wanted_spares(2, 5, 12, 100) == 17 and wanted_spares(2, 0, 0, 1) == 1


def test_starts_at_once_follow_what_hosts_bear() -> None:
    """A host on which n starts at once take max(1, n / 12) times as long: the rule finds about 24, from below and above."""
    assert at_once(3, [], None, 0) == 3 * FIRST
    assert at_once(1, [10.0] * 500, 10.0, 60) == MOST
    for begin in (FIRST, MOST):
        allowed, alone = begin, 10.0
        for _ in range(12):
            took = alone * max(1.0, allowed / 12)
            ended = int(120 / took * allowed)
            allowed = at_once(1, [took] * ended, alone, 120)
        assert 18 <= allowed <= 30, allowed
    assert at_once(2, [100.0, 100.0], 10.0, 120) == 2, "slow hosts are left alone, but never wholly"
    assert SLOWED > 1


def test_quick_starts_grow_quickly() -> None:
    """Hosts that bear everything: guests of 5 s, four hosts; after half a minute more than a hundred boot at a time."""
    ended: list[tuple[float, int]] = []  # when so many had booted
    allowed = at_once(4, [], None, 0)
    for at in range(5, 35, 5):
        ended.append((at, allowed))
        since = max(0.0, at - window(5.0).total_seconds() + 0.1)
        allowed = at_once(4, [5.0] * sum(count for then, count in ended if then > since), 5.0, at - since)
    assert allowed > 100, ended


def test_long_starts_are_looked_at_for_longer() -> None:
    assert [window(s).total_seconds() for s in (None, 0.1, 10, 90)] == [120, 15, 30, 120]
