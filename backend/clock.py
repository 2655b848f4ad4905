"""`Clock` protocol and `WallClock`; nobody else may read the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time, and waits."""

    def now(self) -> datetime:
        """The time in UTC."""

    def sleep(self, seconds: float) -> None:
        """Wait that long."""


class WallClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 -- the one place

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
