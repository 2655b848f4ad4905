"""`Loop`: every N seconds, on one leader (advisory lock): `read(tx)`, `gather()` outside any
transaction, `apply(tx, …)`. A `SharedLoop` runs in every manager, each for its share of the hosts."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Sequence
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


class Leadership:
    """Which loops this process leads: session-level advisory locks, all on one connection and lost with it."""

    def __init__(self, sessions: Sessions) -> None:
        self._engine: sa.Engine = sessions.kw["bind"]
        self._one_at_a_time = threading.Lock()
        self._connection: sa.Connection | None = None
        self._held: set[str] = set()

    def of(self, names: Iterable[str]) -> set[str]:
        """Those of these loops that this process leads now; tries to become the leader of those that nobody leads."""
        wanted = set(names)
        with self._one_at_a_time:
            try:
                if self._connection is None:
                    self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                if free := {_key(name): name for name in wanted - self._held}:
                    got = self._connection.execute(_TRY, {"keys": list(free)}).scalars()
                    self._held |= {free[key] for key in got}
                else:
                    self._connection.execute(_ALIVE)
            except sa.exc.DBAPIError:
                self._lose()
            return wanted & self._held

    def leave(self, name: str) -> None:
        """Let other processes lead this loop."""
        with self._one_at_a_time:
            try:
                if name in self._held and self._connection is not None:
                    self._connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _key(name)})
            except sa.exc.DBAPIError:
                self._lose()
            self._held.discard(name)

    def resign(self) -> None:
        """Let other processes lead all of them; the connection goes with it."""
        with self._one_at_a_time:
            self._lose()

    def _lose(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
        self._connection, self._held = None, set()


def _key(name: str) -> int:
    return zlib.crc32(f"leasehold-loop:{name}".encode())


_ALIVE = sa.text("SELECT 1")
_TRY = sa.text("SELECT key FROM (SELECT key, pg_try_advisory_lock(key) AS got FROM unnest(CAST(:keys AS bigint[])) AS key) AS t "
               "WHERE got")


def run(sessions: Sessions, loops: Sequence[Loop], stopping: threading.Event) -> list[threading.Thread]:
    """Run every loop in a thread of its own until `stopping` is set."""

    leadership = Leadership(sessions)

    def forever(loop: Loop) -> None:
        shares = Shares(sessions, loop.name) if isinstance(loop, SharedLoop) else None
        while not stopping.wait(loop.every_s):
            try:
                if shares is not None:
                    loop.shards = shares.mine()  # type: ignore[attr-defined]
                    tick(sessions, loop)
                elif leadership.of([loop.name]):
                    tick(sessions, loop)
            except Exception as error:
                if is_silent(error):
                    log.warning("the database does not answer; trying again", loop=loop.name)
                else:
                    log.exception("loop round failed", loop=loop.name)
        if shares is not None:
            shares.resign()
        else:
            leadership.leave(loop.name)

    threads = [threading.Thread(target=forever, args=(loop,), name=f"loop-{loop.name}", daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    return threads
