"""`Event` row, the catalogue of sentences, `record()`, and `move()`: the only writer of any `.state`."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.catalogue import CATALOGUE
from backend.changes import touch
from backend.db import Base, Json, Tx
from backend.errors import Busy
from backend.states import StateTable


class Event(Base):
    """Who, what, on which thing, why, in which task. `sentence` is what people read."""

    __tablename__ = "event"
    __table_args__ = (sa.Index(None, "object_kind", "object_id"),)
    kind = "event"
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp(), index=True)
    severity: Mapped[str]  # info | warning | error
    code: Mapped[str] = mapped_column(index=True)
    sentence: Mapped[str]
    object_kind: Mapped[str | None]
    object_id: Mapped[UUID | None]
    actor_name: Mapped[str] = mapped_column(default="", server_default="")
    user_id: Mapped[UUID | None]  # the person it is about
    pool_id: Mapped[UUID | None]
    task_id: Mapped[int | None] = mapped_column(sa.BigInteger)
    facts: Mapped[Json] = mapped_column(default=dict, server_default="{}")


_INSERT = sa.insert(Event.__table__)  # type: ignore[arg-type] # past the ORM: events are many, and nobody edits them


def record(
    tx: Tx,
    code: str,
    thing: Any = None,
    *,
    actor: str = "",
    user_id: UUID | None = None,
    pool_id: UUID | None = None,
    task_id: int | None = None,
    **facts: Any,
) -> None:
    """Write the event of this code. The catalogue's sentence is filled from `facts` and `{name}` of the thing."""
    severity, sentence = CATALOGUE[code]
    words = {"name": getattr(thing, "name", ""), "actor": actor or "Leasehold", **facts}
    thing_id = getattr(thing, "id", None)  # a task's is a number, and stands in `task_id`
    pool_id = pool_id or getattr(thing, "pool_id", None) or (thing.id if getattr(thing, "kind", "") == "pool" else None)
    user_id = user_id or getattr(thing, "user_id", None)
    tx.execute(_INSERT, {
        "severity": severity,
        "code": code,
        "sentence": sentence.format(**words),
        "object_kind": getattr(thing, "kind", None),
        "object_id": thing_id if isinstance(thing_id, UUID) else None,
        "actor_name": actor,
        "user_id": user_id,
        "pool_id": pool_id,
        "task_id": task_id,
        "facts": {k: v if isinstance(v, (int, float, bool, type(None))) else str(v) for k, v in facts.items()},
    })
    touch(tx, "event", code, user_id=user_id, pool_id=pool_id)


def move(tx: Tx, row: Any, event: str, *, words: dict[str, Any] | None = None, **changes: Any) -> str:
    """Move the row along its table and set `changes` with it; answers the new state.

    Compare-and-set: `Busy` when another transaction moved it meanwhile, `Impossible` when the table has no
    such move. Records the event `<kind>.<event>` when the catalogue has a sentence for it (filled from
    `words` and `changes`), and touches the change stream.
    """
    table: StateTable = row.machine
    was, name = row.state, getattr(row, "name", None) or _short(row)
    now = table.next(was, event, name)
    tx.flush()
    id = sa.inspect(row).identity[0]
    moved = tx.execute(_moving(type(row).__table__), {"this_row": id, "was": was, "state": now, **changes})
    if moved.rowcount != 1:  # type: ignore[attr-defined]
        raise Busy("changed_meanwhile", f"{table.label.capitalize()} {name} changed meanwhile; look again.", kind=row.kind)
    for field, value in {"state": now, **changes}.items():
        sa.orm.attributes.set_committed_value(row, field, value)
    if f"{row.kind}.{event}" in CATALOGUE:
        plain = {k: v for k, v in changes.items() if isinstance(v, (str, int, float))}
        record(tx, f"{row.kind}.{event}", row, **{**plain, **(words or {})})
    touch(tx, row.kind, id, user_id=getattr(row, "user_id", None), pool_id=getattr(row, "pool_id", None))
    return now


@cache
def _moving(table: sa.Table) -> sa.Update:
    """Compare-and-set in this table; what is set is what it is executed with."""
    key = table.primary_key.columns[0]
    return sa.update(table).where(key == sa.bindparam("this_row"), table.c.state == sa.bindparam("was"))


def _short(row: Any) -> str:
    return str(sa.inspect(row).identity[0])[:8]
