"""Times in sentences."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backend.calendars.rules import Hours
from backend.directory.rules import Grant
from pools.rules import not_now, zone_of
from pools.times import spoken

NOW = datetime(2026, 3, 27, 17, 0, tzinfo=UTC)  # a Friday; on Sunday the clocks go forward in Berlin


@pytest.mark.parametrize(
    "at, zone, words",
    [
        (datetime(2026, 3, 27, 20, 0, tzinfo=UTC), "Europe/Berlin", "21:00 (Europe/Berlin)"),
        (datetime(2026, 3, 27, 23, 30, tzinfo=UTC), "Europe/Berlin", "Saturday 00:30 (Europe/Berlin)"),
        (datetime(2026, 3, 30, 6, 0, tzinfo=UTC), "Europe/Berlin", "Monday 08:00 (Europe/Berlin)"),
        (datetime(2026, 4, 7, 6, 0, tzinfo=UTC), "Europe/Berlin", "Tuesday, 7 April 2026, 08:00 (Europe/Berlin)"),
        (datetime(2026, 3, 30, 6, 0, tzinfo=UTC), "", "2026-03-30 06:00 UTC"),
    ],
)
def test_spoken(at: datetime, zone: str, words: str) -> None:
    assert spoken(at, zone, NOW) == words


def test_the_zone_of_the_entitlement_that_begins_first() -> None:
    path = (("system", None),)
    berlin, lisbon = (Grant("user", "system", None, hours=Hours(zone, ())) for zone in ("Europe/Berlin", "Europe/Lisbon"))
    later = Grant("user", "system", None, valid_from=datetime(2026, 3, 30, tzinfo=UTC))
    assert zone_of([later, lisbon], path, later.valid_from, NOW) == "Europe/Lisbon"
    assert zone_of([berlin, lisbon], path, None, NOW) == "Europe/Berlin"
    assert zone_of([later], path, later.valid_from, NOW) == ""


def test_not_now() -> None:
    assert not_now("Desktops", "Monday 08:00 (Europe/Berlin)") == (
        "You may use pool Desktops again from Monday 08:00 (Europe/Berlin).")
    assert not_now("Desktops", "") == "Your right to pool Desktops has ended."
