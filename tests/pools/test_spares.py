"""How many spares, and how many starts at once: plans, past weeks, and what hosts bear."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backend.calendars.rules import hours
from pools.spares import FIRST, MOST, SLOWED, at_once, learned, planned, wanted_spares

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
    assert at_once(3, [], None) == 3 * FIRST
    assert at_once(1, [10.0] * 500, 10.0) == MOST
    for begin in (FIRST, MOST):
        allowed, alone = begin, 10.0
        for _ in range(12):
            took = alone * max(1.0, allowed / 12)
            ended = int(120 / took * allowed)
            allowed = at_once(1, [took] * ended, alone)
        assert 18 <= allowed <= 30, allowed
    assert at_once(2, [100.0, 100.0], 10.0) == 2, "slow hosts are left alone, but never wholly"
    assert SLOWED > 1
