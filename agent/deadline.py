"""`within(seconds, work)`: a call into a C library or a dead disk may hang for ever; its caller must not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MOST_HUNG = 200  # so many calls may hang at a time; more would only eat the host's memory
_places = threading.BoundedSemaphore(MOST_HUNG)


class Overdue(Exception):
    """The call did not come back in time; it may still do what it was asked."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` answers or raises, or `Overdue` after so many seconds; the call itself is left behind."""
    if not _places.acquire(timeout=seconds):
        raise Overdue(f"{MOST_HUNG} calls hang already")
    box: list[T] = []
    bugs: list[BaseException] = []
    ended = threading.Event()

    def call() -> None:
        try:
            box.append(work())
        except BaseException as bug:  # noqa: BLE001 -- handed to the caller below, whatever it is
            bugs.append(bug)
        finally:
            _places.release()
            ended.set()

    threading.Thread(target=call, name="within", daemon=True).start()
    if not ended.wait(seconds):
        raise Overdue(f"no answer within {seconds:.0f} seconds")
    if bugs:
        raise bugs[0]
    return box[0]
