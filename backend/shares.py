"""`Shares`: which part of all hosts this manager looks after, of the managers that there are at this moment.

Hosts fall into a fixed number of shards; a manager holds the advisory locks of its shards on one connection, which
PostgreSQL frees as soon as the manager is gone: the others take its shards over in their next round."""

from __future__ import annotations

import zlib
from uuid import UUID

import sqlalchemy as sa

from backend.db import Sessions

SHARDS = 64
_COUNT = sa.text(
    "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted "
    "AND classid = 0 AND objid = :key AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def shard_of(host_id: UUID) -> int:
    """The shard that a host is in, for good."""
    return host_id.int % SHARDS


class Shares:
    """The shards of one piece of work (`name`) that this process holds."""

    def __init__(self, sessions: Sessions, name: str) -> None:
        self._engine: sa.Engine = sessions.kw["bind"]
        self._here = zlib.crc32(f"leasehold-share:{name}".encode())
        self._class = zlib.crc32(f"leasehold-shard:{name}".encode()) - 2**31  # a signed 32-bit number
        self._connection: sa.Connection | None = None
        self._held: set[int] = set()

    def mine(self) -> frozenset[int]:
        """The shards to look after now: an equal share, taken as they come free; more than that is let go."""
        try:
            connection = self._connect()
            managers = max(1, connection.execute(_COUNT, {"key": self._here}).scalar() or 1)
            fair = -(-SHARDS // managers)
            for shard in sorted(self._held)[fair:]:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:class, :shard)"), {"class": self._class, "shard": shard})
                self._held.discard(shard)
            if len(self._held) < fair:
                self._take(connection, fair - len(self._held))
        except sa.exc.DBAPIError:
            self.resign()
            raise
        return frozenset(self._held)

    def resign(self) -> None:
        """Let the other managers look after all of them."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
        self._connection, self._held = None, set()

    def _connect(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._connection.execute(sa.text("SELECT pg_advisory_lock_shared(:key)"), {"key": self._here})
        return self._connection

    def _take(self, connection: sa.Connection, wanted: int) -> None:
        """Free shards, as many as are wanted, in one statement: a lock is tried for one row after the other."""
        others = [shard for shard in range(SHARDS) if shard not in self._held]
        tried = sa.text(
            "SELECT shard FROM (SELECT shard, pg_try_advisory_lock(:class, shard) AS got FROM unnest(CAST(:others AS int[])) "
            "AS shard) AS tried WHERE got LIMIT :wanted"
        )
        given = {"class": self._class, "others": others, "wanted": wanted}
        self._held |= set(connection.execute(tried, given).scalars())
