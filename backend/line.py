"""`Line`: so many places, given out in the order of asking; for connections and for what computes."""

from __future__ import annotations

from collections import deque
from threading import Event, Lock


class Line:
    """Whoever leaves a place hands it over to the one who has waited longest, so that nobody who comes at the right moment
    goes before those who wait. For threads and greenlets alike."""

    def __init__(self, places: int) -> None:
        self._places, self._line, self._lock = places, deque[Event](), Lock()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    def enter(self, timeout_s: float | None = None) -> bool:
        """Take a place, waiting for it; False, and no place taken, when there was none within the time."""
        with self._lock:
            if self._places and not self._line:
                self._places -= 1
                return True
            self._line.append(mine := Event())
        waited = False
        try:
            given = mine.wait(timeout_s)
            waited = True
        finally:
            if not waited and not self._withdraw(mine):  # who is killed while waiting must not keep a place
                self.leave()
        return given or not self._withdraw(mine)

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            if self._line:
                self._line.popleft().set()
            else:
                self._places += 1

    def _withdraw(self, mine: Event) -> bool:
        """Whether it was still in the line; else a place was handed over in the last moment."""
        with self._lock:
            if mine.is_set():
                return False
            self._line.remove(mine)
            return True
