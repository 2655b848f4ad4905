"""`Change` rows and `touch()`: one ordered stream of what changed, for pages and programs.

Order without gaps: ids are given at insert but rows appear at commit, so a reader takes only rows of
transactions older than every running one (`xid < pg_snapshot_xmin`), ordered by (xid, id).
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, SessionTransaction, mapped_column

from backend.db import Base, Tx


class Change(Base):
    """Something about a thing changed. `user_id` is the person it belongs to, `pool_id` the pool it is in."""

    __tablename__ = "change"
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    xid: Mapped[int] = mapped_column(sa.BigInteger, server_default=sa.text("pg_current_xact_id()::text::bigint"), index=True)
    at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    kind: Mapped[str]
    object_id: Mapped[str]
    user_id: Mapped[UUID | None]
    pool_id: Mapped[UUID | None]


_PENDING = "changes"  # what a transaction has touched so far, in its session's info


def touch(tx: Tx, kind: str, object_id: object, *, user_id: UUID | None = None, pool_id: UUID | None = None) -> None:
    """Tell whoever looks that this thing changed, when the transaction commits; touched twice, it is told once."""
    tx.info.setdefault(_PENDING, {})[kind, str(object_id), user_id, pool_id] = None


@sa.event.listens_for(Session, "before_commit")
def _write(tx: Session) -> None:
    """Everything that was touched, in one statement just before the commit. A savepoint's wait for the whole."""
    if not tx.in_nested_transaction() and (touched := tx.info.pop(_PENDING, None)):
        names = ("kind", "object_id", "user_id", "pool_id")
        tx.execute(sa.insert(Change.__table__), [dict(zip(names, one, strict=True)) for one in touched])  # type: ignore[arg-type]


@sa.event.listens_for(Session, "after_transaction_end")
def _forget(tx: Session, ended: SessionTransaction) -> None:
    """What was touched in vain is told to nobody. (By a savepoint alone that was taken back, it is told: harmless.)"""
    if ended.parent is None:
        tx.info.pop(_PENDING, None)


def since(tx: Tx, cursor: tuple[int, int], limit: int = 1000) -> list[tuple[int, int, str, str, UUID | None, UUID | None]]:
    """Settled changes after the cursor (xid, id), oldest first: (xid, id, kind, object_id, user_id, pool_id)."""
    rows = tx.execute(
        sa.select(Change.xid, Change.id, Change.kind, Change.object_id, Change.user_id, Change.pool_id)
        .where(sa.tuple_(Change.xid, Change.id) > sa.tuple_(sa.literal(cursor[0]), sa.literal(cursor[1])))
        .where(Change.xid < sa.text("pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
        .order_by(Change.xid, Change.id).limit(limit)
    )
    return [tuple(row) for row in rows]  # type: ignore[misc]


def newest(tx: Tx) -> tuple[int, int]:
    """The cursor of now: everything settled is before it."""
    return int(tx.scalar(sa.text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1"))), 2**62
