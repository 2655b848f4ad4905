"""`Base`, `new_sessions`, column types: PostgreSQL through SQLAlchemy, one dialect everywhere."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from backend.errors import NotFound

Json = dict[str, Any]
Tx = Session
Sessions = sessionmaker[Session]
T = TypeVar("T")


class Base(DeclarativeBase):
    """All rows. Ids are UUIDs unless people read them aloud (tasks, events)."""

    type_annotation_map = {  # noqa: RUF012
        datetime: sa.DateTime(timezone=True),
        Json: pg.JSONB,
        UUID: pg.UUID(as_uuid=True),
        str: sa.Text,
        list[str]: pg.ARRAY(sa.Text),
    }
    metadata = sa.MetaData(naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    })


class HasId:
    """A row known by a UUID."""

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)


def ref(target: str, *, ondelete: str | None = None, **options: Any) -> Any:
    """A column that points at another table's row, by table name, so that rooms need not import each other."""
    return mapped_column(sa.ForeignKey(target, ondelete=ondelete), **options)


def new_sessions(url: str, pool: int = 10) -> Sessions:
    """Sessions on this database. Connections are tested before use, so a PostgreSQL restart costs one retry."""
    engine = sa.create_engine(url, pool_size=pool, max_overflow=pool, pool_pre_ping=True,
                              connect_args={"options": "-c timezone=UTC -c lock_timeout=10s"})
    return sessionmaker(engine, expire_on_commit=False)


def get(tx: Tx, cls: type[T], id: Any, *, lock: bool = False) -> T:
    """The row, or `NotFound` in words. With `lock`, held until the transaction ends and read afresh."""
    row = tx.get(cls, id, with_for_update=lock or None, populate_existing=lock)
    if row is None:
        kind = getattr(cls, "kind", cls.__name__.lower())
        raise NotFound("not_found", f"There is no {kind.replace('_', ' ')} with the id {id}.", kind=kind, id=str(id))
    return row
