"""Forget what nobody needs any more: old changes, events, tasks and sessions that ended, used idempotency keys, dead workers."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from backend.changes import Change
from backend.clock import Clock
from backend.db import Tx
from backend.directory.models import Throttle, WebSession
from backend.events import Event
from backend.loops import FromRows
from backend.tasks.models import Idempotency, Task, Worker
from backend.vms.models import GuestSession

KEEP_CHANGES, KEEP_TASKS, KEEP_EVENTS, KEEP_KEYS = timedelta(hours=1), timedelta(days=30), timedelta(days=365), timedelta(days=1)


class Forget(FromRows):
    """Deletes old rows, some thousands at a time, so that no round takes long."""

    name = "forget"

    def __init__(self, clock: Clock, every_s: float = 60.0) -> None:
        self.clock, self.every_s = clock, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        old = (
            (Change, Change.id, Change.at < now - KEEP_CHANGES),
            (Task, Task.id, Task.ended_at < now - KEEP_TASKS),
            (GuestSession, GuestSession.id, GuestSession.ended_at < now - KEEP_TASKS),
            (Event, Event.id, Event.at < now - KEEP_EVENTS),
            (WebSession, WebSession.id, sa.func.coalesce(WebSession.ended_at, WebSession.expires_at) < now - KEEP_TASKS),
        )
        for cls, key, condition in old:
            tx.execute(sa.delete(cls).where(key.in_(sa.select(key).where(condition).limit(5000))))
        tx.execute(sa.delete(Idempotency).where(Idempotency.created_at < now - KEEP_KEYS))
        tx.execute(sa.delete(Throttle).where(Throttle.last_at < now - KEEP_KEYS))
        tx.execute(sa.delete(Worker).where(Worker.beat_at < now - KEEP_KEYS))
