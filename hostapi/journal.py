"""Step uid -> started, progress, outcome, on disk: asked twice, done once. Arguments are never stored."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import msgspec

from hostapi.types import Outcome

KEEP_DAYS = 30  # how long an outcome is remembered; the manager asks again within seconds
SCHEMA = """
CREATE TABLE IF NOT EXISTS step (
    uid TEXT PRIMARY KEY,
    verb TEXT NOT NULL DEFAULT '',
    started INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    progress INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    outcome TEXT,
    at INTEGER NOT NULL DEFAULT (strftime('%s', 'now'))
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Entry:
    """What is known of a step. Started without an outcome: it runs, or was cut off by a crash."""

    verb: str = ""
    started: bool = False
    cancelled: bool = False
    progress: int = 0
    message: str = ""
    outcome: Outcome | None = None


class Journal:
    """The host's memory of its steps; one file, written through before a step counts as started or ended."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            path or ":memory:", check_same_thread=False, isolation_level=None, timeout=30
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(SCHEMA)
        self._db.execute(f"DELETE FROM step WHERE at < strftime('%s', 'now') - {KEEP_DAYS} * 86400")

    def find(self, uid: UUID) -> Entry:
        """What is known of this step; an empty entry when it was never heard of."""
        with self._lock:
            row = self._db.execute(
                "SELECT verb, started, cancelled, progress, message, outcome FROM step WHERE uid = ?",
                (str(uid),),
            ).fetchone()
        if row is None:
            return Entry()
        outcome = msgspec.json.decode(row[5], type=Outcome) if row[5] else None
        return Entry(row[0], bool(row[1]), bool(row[2]), row[3], row[4], outcome)

    def start(self, uid: UUID, verb: str) -> None:
        """Write down that the step is about to be done."""
        self._write(
            "INSERT INTO step (uid, verb, started) VALUES (?, ?, 1)"
            " ON CONFLICT (uid) DO UPDATE SET verb = excluded.verb, started = 1",
            (str(uid), verb),
        )

    def progress(self, uid: UUID, per_cent: int, message: str) -> None:
        """Note how far the step is."""
        self._write("UPDATE step SET progress = ?, message = ? WHERE uid = ?", (per_cent, message, str(uid)))

    def cancel(self, uid: UUID) -> None:
        """Note that the step is no longer wanted, even before it is heard of."""
        self._write(
            "INSERT INTO step (uid, cancelled) VALUES (?, 1) ON CONFLICT (uid) DO UPDATE SET cancelled = 1",
            (str(uid),),
        )

    def finish(self, outcome: Outcome) -> None:
        """Write the outcome down; the first one counts."""
        self._write(
            "INSERT INTO step (uid, outcome) VALUES (?1, ?2)"
            " ON CONFLICT (uid) DO UPDATE SET outcome = ?2 WHERE outcome IS NULL",
            (str(outcome.uid), msgspec.json.encode(outcome).decode()),
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._lock:
            self._db.execute(statement, values)
