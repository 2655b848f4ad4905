"""`Loop`: every N seconds, on one leader (advisory lock): `read(tx)`, `gather()` outside any
transaction, `apply(tx, …)`. A `SharedLoop` runs in every manager, each for its share of the hosts."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import sqlalchemy as sa
import structlog

from backend.db import Sessions, Tx, is_silent
from backend.shares import Shares

log = structlog.get_logger("loops")


class Loop(Protocol):
    """Work that comes again: a name, a pace, what to ask whom, and what to decide of the answers."""

    name: str
    every_s: float

    def read(self, tx: Tx) -> Any:
        """What there is to ask, from rows: a short transaction of its own."""

    def gather(self, wanted: Any) -> Any:
        """Ask hosts, directories, outside any transaction."""

    def apply(self, tx: Tx, found: Any) -> None:
        """Decide and record, in one transaction; never asks the outside world."""


@runtime_checkable
class SharedLoop(Loop, Protocol):
    """A loop that runs in every manager at once, each for its share of the hosts."""

    shards: frozenset[int]


class FromRows:
    """A loop that asks nobody: it decides from rows alone, in `apply`."""

    def read(self, tx: Tx) -> None:
        return None

    def gather(self, wanted: None) -> None:
        return None


def tick(sessions: Sessions, loop: Loop) -> None:
    """One round of the loop."""
    with sessions.begin() as tx:
        wanted = loop.read(tx)
    found = loop.gather(wanted)
    with sessions.begin() as tx:
        loop.apply(tx, found)


class Leader:
    """Leadership of one loop: a session-level advisory lock on a connection of its own, lost with it."""

    def __init__(self, sessions: Sessions, name: str) -> None:
        self._engine: sa.Engine = sessions.kw["bind"]
        self._key = zlib.crc32(f"leasehold-loop:{name}".encode())
        self._connection: sa.Connection | None = None

    def leads(self) -> bool:
        """Whether this process leads now; tries to become the leader when nobody is."""
        try:
            if self._connection is not None:
                self._connection.execute(sa.text("SELECT 1"))
                return True
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            if connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}).scalar():
                self._connection = connection
                return True
            connection.close()
        except sa.exc.DBAPIError:
            self.resign()
        return False

    def resign(self) -> None:
        """Let another process lead."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection = None


def run(sessions: Sessions, loops: Sequence[Loop], stopping: threading.Event) -> list[threading.Thread]:
    """Run every loop in a thread of its own until `stopping` is set."""

    def forever(loop: Loop) -> None:
        leader = Shares(sessions, loop.name) if isinstance(loop, SharedLoop) else Leader(sessions, loop.name)
        while not stopping.wait(loop.every_s):
            try:
                if isinstance(leader, Shares):
                    loop.shards = leader.mine()  # type: ignore[attr-defined]
                    tick(sessions, loop)
                elif leader.leads():
                    tick(sessions, loop)
            except Exception as error:
                if is_silent(error):
                    log.warning("the database does not answer; trying again", loop=loop.name)
                else:
                    log.exception("loop round failed", loop=loop.name)
        leader.resign()

    threads = [threading.Thread(target=forever, args=(loop,), name=f"loop-{loop.name}", daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    return threads
