"""Who is signed in: make, find, list and end sessions; only a token's SHA-256 is kept."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx
from backend.directory.models import Directory, User, WebSession
from backend.directory.names import full_name
from backend.errors import NotFound
from backend.events import record

TOKEN = "token"  # the client of an API token, which is no sign-in: see tokens.py
LASTS = {"browser": timedelta(hours=12), "api": timedelta(hours=24)}
SEEN_EVERY = timedelta(minutes=1)  # `seen_at` is written no oftener, so that reading a page is not a write
TOKEN_BYTES = 32


@dataclass(frozen=True)
class SessionFacts:
    """A live session and whose it is; `user_name` is alice or alice@corp.example."""

    id: UUID
    user_id: UUID
    user_name: str
    display_name: str
    client: str
    address: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    launched: bool
    device_id: UUID | None = None  # the thin client it was begun at
    name: str = ""  # of an API token
    read_only: bool = False
    roles: tuple[str, ...] | None = None  # it gives no more than these


_FACTS = (
    sa.select(
        WebSession.id, WebSession.user_id, User.name, Directory.name.label("directory"), User.display_name, WebSession.client,
        WebSession.address, WebSession.created_at, WebSession.seen_at, WebSession.expires_at, WebSession.launched,
        WebSession.device_id, WebSession.name, WebSession.read_only, WebSession.roles,
    )
    .join(User, User.id == WebSession.user_id).join(Directory, Directory.id == User.directory_id)
    .where(WebSession.ended_at.is_(None), User.enabled)
)
_OF_TOKEN = _FACTS.where(WebSession.token_hash == sa.bindparam("hashed"), WebSession.expires_at > sa.bindparam("now"))
_INSERT = sa.insert(WebSession.__table__)  # type: ignore[arg-type]


def create(
    tx: Tx, user_id: UUID, *, client: str, address: str, now: datetime, device_id: UUID | None = None
) -> tuple[UUID, str, datetime]:
    """Begin a session of this person: its id, its token (256 random bits, told only here) and when it ends."""
    session_id, token, expires_at = uuid4(), secrets.token_urlsafe(TOKEN_BYTES), now + LASTS[client]
    tx.execute(_INSERT, {
        "id": session_id, "token_hash": hash_of(token), "user_id": user_id, "client": client, "address": address,
        "device_id": device_id, "created_at": now, "seen_at": now, "expires_at": expires_at,
    })
    touch(tx, "session", session_id, user_id=user_id)
    return session_id, token, expires_at


def find(tx: Tx, token: str, now: datetime) -> SessionFacts | None:
    """The live session of this token, or None when it is unknown, over, ended, or its user disabled."""
    row = tx.execute(_OF_TOKEN, {"hashed": hash_of(token), "now": now}).first()
    if row is None:
        return None
    if now - row.seen_at >= SEEN_EVERY or (row.client == TOKEN and row.seen_at == row.created_at):
        tx.execute(sa.update(WebSession).where(WebSession.id == row.id).values(seen_at=now)
                   .execution_options(synchronize_session=False))
    return _facts(row)


def live(tx: Tx, now: datetime, user_id: UUID | None = None) -> list[SessionFacts]:
    """Live sessions, of one person or of all, the newest first; API tokens are none."""
    living = _FACTS.where(WebSession.expires_at > now, WebSession.client != TOKEN)
    wanted = living.order_by(WebSession.created_at.desc(), WebSession.id)
    if user_id is not None:
        wanted = wanted.where(WebSession.user_id == user_id)
    return [_facts(row) for row in tx.execute(wanted)]


def end(tx: Tx, session_id: UUID, now: datetime) -> None:
    """End this session; one that is over already stays so. Streams that belong to it see it in the changes."""
    row = tx.execute(
        sa.update(WebSession).where(WebSession.id == session_id, WebSession.ended_at.is_(None)).values(ended_at=now)
        .returning(WebSession.user_id).execution_options(synchronize_session=False)
    ).first()
    if row is None:
        if tx.get(WebSession, session_id) is None:
            raise NotFound("not_found", f"There is no session with the id {session_id}.", kind="session", id=str(session_id))
        return
    user = tx.get_one(User, row.user_id)
    record(tx, "user.signed_out", user, user_id=user.id)
    touch(tx, "session", session_id, user_id=user.id)


def end_all(tx: Tx, user_id: UUID, now: datetime, *, but: UUID | None = None) -> list[UUID]:
    """End all of a person's sessions and API tokens, except the one named by `but`; answers the ids of the ended ones."""
    wanted = sa.update(WebSession).where(WebSession.user_id == user_id, WebSession.ended_at.is_(None))
    if but is not None:
        wanted = wanted.where(WebSession.id != but)
    ended = list(tx.scalars(
        wanted.values(ended_at=now).returning(WebSession.id).execution_options(synchronize_session=False)
    ))
    if ended:
        user = tx.get_one(User, user_id)
        record(tx, "user.sessions_ended", user, user_id=user_id, count=len(ended))
    for session_id in ended:
        touch(tx, "session", session_id, user_id=user_id)
    return ended


def end_of_device(tx: Tx, device_id: UUID, now: datetime, *, client: str | None = None) -> None:
    """End all sessions that were begun at this thin client; those of browsers or programs alone, if it is said."""
    wanted = sa.select(WebSession.id).where(WebSession.device_id == device_id, WebSession.ended_at.is_(None))
    for session_id in tx.scalars(wanted if client is None else wanted.where(WebSession.client == client)).all():
        end(tx, session_id, now)


def _facts(row: sa.Row) -> SessionFacts:  # type: ignore[type-arg]
    return SessionFacts(
        row.id, row.user_id, full_name(row.name, row.directory), row.display_name or row.name, row.client,
        row.address, row.created_at, row.seen_at, row.expires_at, row.launched, row.device_id, row.name, row.read_only,
        None if row.roles is None else tuple(row.roles),
    )


def hash_of(token: str) -> bytes:
    """What is kept of a token."""
    # a plain hash is enough: the token is 256 random bits, there is nothing to guess
    return hashlib.sha256(token.encode()).digest()
