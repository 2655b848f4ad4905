"""`ToldClock`: stands still until it is told to move on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class ToldClock:
    """A clock that moves when somebody says so; whoever sleeps by it has slept at once."""

    def __init__(self, time: datetime = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)) -> None:
        self.time = time.astimezone(UTC)

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
