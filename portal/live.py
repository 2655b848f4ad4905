"""Server-sent events: one ordered stream of what changed, without gaps, filtered by what the person may see.

One poller a process reads the settled changes (`backend.changes`) and keeps the newest; every stream keeps its own
cursor, takes what lies after it from there, or from the database when it resumes further back.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
import structlog
from flask import Flask, Response, current_app, request
from sqlalchemy.exc import DBAPIError

from backend.changes import Change, newest, since
from backend.db import Sessions, Tx
from backend.errors import Invalid, TooMany
from portal.auth import person, token_of
from portal.parts import Parts, parts
from portal.routes import Routes
from portal.sight import Sight
from portal.transaction import in_transaction

log = structlog.get_logger("live")
routes = Routes("changes")

POLL_S = 0.25
AT_ONCE = 1000  # changes read at a time
KEPT = 5000  # changes a process keeps: what streams that are only a little behind need
COMMENT_S = 15  # a line this often keeps proxies from closing the stream, and the session is looked at again
# streams of one session at one process: a browser has one a page, and pages left behind count until the next sign of life
SEATS = 64
RETRY_S = 5
Cursor = tuple[int, int]


@dataclass(frozen=True)
class Settled:
    """One change: its place in the order, what it is about, and whose."""

    at: Cursor
    kind: str
    id: str
    user_id: object
    pool_id: object


class Poller:
    """Reads new changes for all streams of this process while there are any."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._news = threading.Condition()
        self._kept: deque[Settled] = deque(maxlen=KEPT)
        self._from: Cursor = (0, 0)  # everything after this and up to `_upto` is kept
        self._upto: Cursor = (0, 0)
        self._streams = 0
        self._running = False
        self.stopped = False

    def join(self) -> Cursor:
        """A stream begins: the cursor of now. The poller starts with the first one. Without an answer of the database
        no stream has begun, and none is counted."""
        with self._news:
            if self._running:
                self._streams += 1
                return self._upto
        with in_transaction(self._sessions) as tx:
            begin = newest(tx)
        with self._news:
            if not self._running:  # two may have come here at once
                self._from = self._upto = begin
                self._kept.clear()
                self._streams = 1
                threading.Thread(target=self._run, name="changes", daemon=True).start()
                self._running = True
            else:
                self._streams += 1
            return self._upto

    def stop(self) -> None:
        """End all streams: the process is to end. Whoever listens comes back to another one."""
        with self._news:
            self.stopped = True
            self._news.notify_all()

    def leave(self) -> None:
        """A stream ends; the poller ends with the last one."""
        with self._news:
            self._streams -= 1

    def after(self, cursor: Cursor, wait_s: float) -> tuple[list[Settled] | None, Cursor]:
        """What came after the cursor, waiting so long for something, and how far this looked; None for the changes
        when the cursor is further back than what is kept, and then everything up to that place is settled."""
        with self._news:
            self._news.wait_for(lambda: self.stopped or self._upto > cursor, wait_s)
            if cursor < self._from:
                return None, self._from
            return [change for change in self._kept if change.at > cursor], cursor

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            try:
                with in_transaction(self._sessions) as tx:
                    rows = read(tx, self._upto)
            except DBAPIError as gone:
                log.warning("changes cannot be read", why=type(gone).__name__)
                rows = []
                pause.wait(1)
            with self._news:
                self._keep(rows)
                if not self._streams:
                    self._running = False
                    return
            if len(rows) < AT_ONCE:
                pause.wait(POLL_S)

    def _keep(self, rows: list[Settled]) -> None:
        for row in rows:
            if len(self._kept) == KEPT:
                self._from = self._kept[0].at
            self._kept.append(row)
        if rows:
            self._upto = rows[-1].at
            self._news.notify_all()


class Seats:
    """How many streams each session has open at this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[UUID, int] = {}

    def take(self, session_id: UUID) -> None:
        """One more, or a refusal in words."""
        with self._lock:
            if self._taken.get(session_id, 0) >= SEATS:
                raise TooMany("too_many_streams", f"This session listens to changes {SEATS} times already: close one of its "
                              "windows or programs.", retry_after_s=RETRY_S)
            self._taken[session_id] = self._taken.get(session_id, 0) + 1

    def free(self, session_id: UUID) -> None:
        """One less."""
        with self._lock:
            self._taken[session_id] -= 1
            if not self._taken[session_id]:
                del self._taken[session_id]


def read(tx: Tx, cursor: Cursor) -> list[Settled]:
    """Settled changes after the cursor, oldest first."""
    return [Settled((row[0], row[1]), row[2], row[3], row[4], row[5]) for row in since(tx, cursor, AT_ONCE)]


@routes.route("GET", "/changes", "What changes, as it does (server-sent events); `Last-Event-ID` resumes without a gap.",
              query={"types": {"type": "string", "description": "kinds, by commas: vm,lease,task"}},
              answers={200: {"type": "string"}}, media="text/event-stream")
def changes() -> Response:
    """One event a change: its type is the kind (vm, lease, task, …), its data {"kind", "id"}. `reset` says: look at
    everything anew, for what happened meanwhile is not known any more."""
    types = frozenset(filter(None, request.args.get("types", "").split(",")))
    resume = _cursor(request.headers.get("Last-Event-ID", ""))
    session_id, token = person().id, token_of(request)
    assert token is not None
    seats: Seats = current_app.extensions["seats"]
    lines = stream(current_app.extensions["poller"], parts(), token, types, resume)
    response = Response(lines, content_type="text/event-stream")
    seats.take(session_id)
    # once, when the answer is closed or else when nobody has it any more: it may be dropped before its first line
    response.call_on_close(weakref.finalize(response, seats.free, session_id))
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def stream(poller: Poller, parts: Parts, token: str, types: frozenset[str], resume: Cursor | None) -> Iterator[str]:
    """The lines of one stream, until the session ends, the process stops or the other side goes away."""
    begin = poller.join()
    try:
        with in_transaction(parts.sessions) as tx:
            sight = Sight.of(tx, token, parts.clock.now())
            lost = resume is not None and _lost(tx, resume)
        if sight is None:
            return
        cursor = begin if resume is None or lost else resume
        # the first line says where the stream begins, so that whoever is cut off before the first change loses nothing
        yield f"retry: 2000\nid: {_text(cursor)}\nevent: {'reset' if lost else 'hello'}\ndata: {{}}\n\n"
        while not poller.stopped:
            found, looked = poller.after(cursor, COMMENT_S)
            with in_transaction(parts.sessions) as tx:
                if found is None:
                    found = read(tx, cursor)
                    looked = looked if len(found) < AT_ONCE else cursor
                sight = sight.fresh(tx, token, parts.clock.now(), found)
                if sight is None:
                    yield "event: end\ndata: {}\n\n"
                    return
                seen = sight.only(tx, found)
            cursor = max(cursor, looked, *(change.at for change in found[-1:]))
            told = [_event(at, kind, id) for at, kind, id in seen if not types or kind in types]
            yield "".join(told) or ":\n\n"
    except DBAPIError as gone:
        # whoever listens comes back with the last id that it was told
        log.warning("a change stream ends: the database does not answer", why=type(gone).__name__)
    finally:
        poller.leave()


def _event(at: Cursor, kind: str, id: str) -> str:
    return f"id: {_text(at)}\nevent: {kind}\ndata: {json.dumps({'kind': kind, 'id': id})}\n\n"


def _text(cursor: Cursor) -> str:
    return f"{cursor[0]}.{cursor[1]}"


def _cursor(text: str) -> Cursor | None:
    """The cursor in a Last-Event-ID; None when there is none."""
    if not text:
        return None
    xid, _, id = text.partition(".")
    if not (xid.isascii() and xid.isdigit() and id.isascii() and id.isdigit() and len(xid) < 19 and len(id) < 20):
        raise Invalid("bad_cursor", "This Last-Event-ID is not of this stream; begin without one.", fields=["Last-Event-ID"])
    return int(xid), min(int(id), 2**63 - 1)


def _lost(tx: Tx, cursor: Cursor) -> bool:
    """Whether changes after the cursor may have been forgotten: nothing as old as it is kept any more."""
    before = sa.tuple_(Change.xid, Change.id) <= sa.tuple_(sa.literal(cursor[0]), sa.literal(cursor[1]))
    oldest = tx.scalar(sa.select(sa.func.min(Change.id)))
    return oldest is not None and oldest > 1 and not tx.scalar(sa.select(sa.exists().where(before)))


def install(app: Flask) -> None:
    """One poller for the process, and one count of who listens."""
    app.extensions["seats"] = Seats()
    app.extensions["poller"] = Poller(app.extensions["parts"].sessions)
