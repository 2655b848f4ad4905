"""The consoles that this gateway process holds: their counters, and how each is told to end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from uuid import UUID, uuid4

from gevent import Greenlet, killall
from gevent.event import Event

from backend.errors import Denied, Refused, Unavailable
from broker.websocket import GONE, NORMAL, REFUSED, UNAVAILABLE

VIEWER_CLOSED = "The viewer was closed."


class LiveConsole:
    """One console: how many bytes went each way, and once `over`, why."""

    def __init__(self) -> None:
        self.id: UUID = uuid4()
        self.booked = False  # whether its row is there
        self.to_client = self.to_vm = 0
        self.touched = False  # whether a person did something since the books were kept last
        self.over = Event()
        self.code, self.why = NORMAL, ""
        self.ping: Callable[[], None] | None = None

    def end(self, code: int, why: str) -> None:
        """Have it closed with this code and sentence; the first reason counts."""
        if not self.over.is_set():
            self.code, self.why = code, why
            self.over.set()

    def end_refused(self, no: Refused) -> None:
        """Have it closed for this refusal."""
        self.end(code_of(no), no.message)

    def count_down(self, size: int) -> None:
        self.to_client += size

    def count_up(self, size: int) -> None:
        self.to_vm += size


def code_of(no: Refused) -> int:
    """The WebSocket close code of a refusal."""
    return REFUSED if isinstance(no, Denied) else UNAVAILABLE if isinstance(no, Unavailable) else GONE


def move_bytes(
    live: LiveConsole, down: Callable[[], None], up: Callable[[], None], gone: str, finish: Callable[[], None]
) -> None:
    """Run both directions until one ends or the console is told to; `finish` says good-bye before they are cut."""

    def run(direction: Callable[[], None], code: int, why: str) -> None:
        with suppress(OSError):  # an end cut off hard is an end all the same
            direction()
        live.end(code, why)

    both = [Greenlet.spawn(run, down, GONE, gone), Greenlet.spawn(run, up, NORMAL, VIEWER_CLOSED)]
    try:
        live.over.wait()
        finish()
    finally:
        killall(both)
