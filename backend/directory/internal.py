"""Internal users: their directory's row, their passwords' rules and hashes (argon2id)."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.dialects import postgresql as pg

from backend.changes import touch
from backend.db import Tx, get
from backend.directory import rights, sessions
from backend.directory.models import Directory, User
from backend.directory.names import INTERNAL
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.tasks.command import Actor

SHORTEST, LONGEST = 10, 1024

# OWASP's password storage cheat sheet: argon2id with 19 MiB, two rounds, one lane
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

# What a name nobody has is checked against, so that it costs the same time as a wrong password. Nobody's password.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$0SoHQk8lRTIbEHEIguqUdw$GlnM43pJV2CtEl04ejoZTBNUN1DL1Rp9zJLOPWMftzk"


def directory(tx: Tx) -> Directory:
    """The internal directory's row, made when there is none yet."""
    tx.execute(pg.insert(Directory).values(name=INTERNAL, type="internal").on_conflict_do_nothing())
    return tx.scalars(sa.select(Directory).where(Directory.name == INTERNAL)).one()


def require_good(password: str, account: str = "") -> None:
    """Refuse a password that is too short, too long, or the user's own name."""
    if len(password) < SHORTEST:
        raise Invalid("password_too_short", f"The password is too short: at least {SHORTEST} characters are needed.",
                      fields=["password"])
    if len(password) > LONGEST:
        raise Invalid("password_too_long", f"The password is too long: at most {LONGEST:,} characters are kept.",
                      fields=["password"])
    if len(set(password)) < 4 or (account and password.lower() == account.lower()):
        raise Invalid("password_too_plain", "The password is too easy to guess: use at least four different "
                      "characters, and not the user's own name.", fields=["password"])


def hash_password(password: str, account: str = "") -> str:
    """The password's argon2id hash, after `require_good`. Takes some 40 CPU ms: call it outside any transaction."""
    require_good(password, account)
    return _HASHER.hash(_normal(password))


def verify(password_hash: str | None, password: str) -> bool:
    """Whether this is the password. Without a hash it takes as long and answers no."""
    try:
        return _HASHER.verify(password_hash or _NOBODY, _normal(password[:LONGEST])) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


def better_hash(password_hash: str, password: str) -> str | None:
    """A new hash when the kept one was made with older settings than today's, else None."""
    return _HASHER.hash(_normal(password)) if _HASHER.check_needs_rehash(password_hash) else None


def set_password(
    tx: Tx, user_id: UUID, password_hash: str, actor: Actor, now: datetime, *, keep: UUID | None = None,
) -> None:
    """Give an internal user the password with this hash; end their sessions, but for the one to `keep`.

    This is no Command: a Command's fields are written into its task's row, and neither a password nor its hash
    has any business there. So the caller makes the hash first (`hash_password`, outside the transaction), and
    what people can read about it later is the event.
    """
    user = get(tx, User, user_id, lock=True)
    if actor.user_id != user.id:
        rights.require(tx, actor, "user.edit", "user", user.id, now)
    if user.directory_id != directory(tx).id:
        raise Impossible("not_internal", f"The password of {user.name} is kept by their own directory; change it there.")
    user.password_hash = password_hash
    sessions.end_all(tx, user.id, now, but=keep)
    record(tx, "user.password_set", user, actor=actor.name, user_id=user.id)
    touch(tx, "user", user.id, user_id=user.id)


def _normal(password: str) -> bytes:
    # the same letters typed on another system may arrive composed differently (RFC 8265, 4.2)
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
