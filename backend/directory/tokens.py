"""API tokens: a name, an end date, and no more rights than their owner has at that moment, or fewer. They are sessions of
the client `token`: what ends a person's sessions everywhere ends these too."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx
from backend.directory import rights
from backend.directory.models import User, WebSession
from backend.directory.rules import ROLES
from backend.directory.sessions import TOKEN, TOKEN_BYTES, hash_of
from backend.errors import Impossible, Invalid, NotFound
from backend.events import record
from backend.tasks.command import Actor

PREFIX = "leasehold_"  # so that whoever finds one in a file knows what it is
LONGEST, MOST, NAME_LENGTH = timedelta(days=366), 50, 60
_LIVE = sa.and_(WebSession.client == TOKEN, WebSession.ended_at.is_(None))


def create(
    tx: Tx, owner: Actor, name: str, *, expires_at: datetime, read_only: bool, roles: Sequence[str] | None, address: str,
    now: datetime,
) -> tuple[UUID, str]:
    """A new token of this person: its id and its text, which is told only here."""
    assert owner.user_id is not None
    name = name.strip()
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise Invalid("bad_name", f"Name the token after what will use it, in at most {NAME_LENGTH} characters.", fields=["name"])
    if not now < expires_at <= now + LONGEST:
        raise Invalid("bad_end", "A token ends within 366 days.", fields=["expires_at", "days"])
    if roles is not None and (not roles or set(roles) - ROLES.keys()):
        raise Invalid("bad_role", f"Hold the token to some of these roles: {', '.join(ROLES)}.", fields=["roles"])
    tx.execute(sa.select(User.id).where(User.id == owner.user_id).with_for_update())  # one at a time
    mine = sa.and_(_LIVE, WebSession.user_id == owner.user_id, WebSession.expires_at > now)
    names = list(tx.scalars(sa.select(WebSession.name).where(mine)))
    if name in names:
        raise Invalid("name_taken", f"You have a token named {name} already: revoke it, or choose another name.", fields=["name"])
    if len(names) >= MOST:
        raise Impossible("too_many_tokens", f"You have {MOST} tokens already: revoke those that nothing uses any more.")
    id, text = uuid4(), PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    tx.add(WebSession(
        id=id, token_hash=hash_of(text), user_id=owner.user_id, client=TOKEN, address=address, created_at=now, seen_at=now,
        expires_at=expires_at, name=name, read_only=read_only, roles=list(roles) if roles is not None else None,
    ))
    tx.flush()
    user = tx.get_one(User, owner.user_id)
    record(tx, "token.created", user, user_id=user.id, user=owner.name, token=name, until=f"{expires_at:%Y-%m-%d}")
    touch(tx, "token", id, user_id=user.id)
    return id, text


def revoke(tx: Tx, id: UUID, actor: Actor, now: datetime) -> None:
    """The token is worth nothing from now on; its owner may, and who may edit people. Done twice, it is done."""
    token = tx.get(WebSession, id, with_for_update=True, populate_existing=True)
    if token is None or token.client != TOKEN:
        raise NotFound("not_found", f"There is no token with the id {id}.", kind="token", id=str(id))
    if token.user_id != actor.user_id:
        rights.require(tx, actor, "user.edit", "user", token.user_id, now)
    if token.ended_at is not None:
        return
    token.ended_at = now
    user = tx.get_one(User, token.user_id)
    record(tx, "token.revoked", user, user_id=user.id, actor=actor.name, token=token.name)
    for kind in ("token", "session"):  # streams and consoles look for the latter
        touch(tx, kind, id, user_id=user.id)
