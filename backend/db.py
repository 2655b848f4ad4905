"""`Base`, `new_sessions`, column types: PostgreSQL through SQLAlchemy, one dialect everywhere."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg2
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from backend.errors import NotFound
from backend.line import Line

Json = dict[str, Any]
Tx = Session
Sessions = sessionmaker[Session]
T = TypeVar("T")
# A database host that has gone without a word, as in a failover, is noticed within about 20 s: unanswered probes end an
# idle connection and one that waits for an answer, the time-out one whose question was never acknowledged.
LIFE_SIGNS = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 20_000}


class Base(DeclarativeBase):
    """All rows. Ids are UUIDs unless people read them aloud (tasks, events)."""

    type_annotation_map = {
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


class FairPool(sa.QueuePool):
    """Connections are given out in the order of asking, and stay open.

    SQLAlchemy's own pool lets whoever comes at the right moment go before those who wait, who then wait anew: when 500
    people sign in at once, some get no connection within the time-out."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.line = Line(self.size())

    def _do_get(self) -> ConnectionPoolEntry:
        if not self.line.enter(self.timeout()):
            raise sa.exc.TimeoutError(f"No database connection was free within {self.timeout():g} s.")
        try:
            return super()._do_get()
        except BaseException:
            self.line.leave()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self.line.leave()


def new_sessions(url: str, pool: int = 10) -> Sessions:
    """Sessions on this database, over at most twice `pool` connections, opened as they are needed. They are tested
    before use, so a PostgreSQL restart costs one retry; over the network, TCP's own life signs end those whose host is gone."""
    engine = sa.create_engine(url, poolclass=FairPool, pool_size=2 * pool, max_overflow=0, pool_timeout=60, pool_pre_ping=True,
                              hide_parameters=True,  # errors are logged, and hashes and sealed passwords are among the parameters
                              connect_args={"options": "-c timezone=UTC -c lock_timeout=10s", **LIFE_SIGNS})
    return sessionmaker(engine, expire_on_commit=False)


def is_silent(error: BaseException) -> bool:
    """Whether the database was not there, went away or was too busy: no fault of what was asked, which may be asked again."""
    gone = isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
    return gone or isinstance(error, (
        sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, psycopg2.OperationalError, psycopg2.InterfaceError,
    ))  # fmt: skip


_AFRESH = {"populate_existing": True}


@cache
def _held(cls: Any) -> Any:
    """The row by its key, held: made once, for putting a statement together takes longer than asking it."""
    (key,) = sa.inspect(cls).primary_key
    return sa.select(cls).where(key == sa.bindparam("id")).with_for_update()


def get(tx: Tx, cls: type[T], id: Any, *, lock: bool = False) -> T:
    """The row, or `NotFound` in words. With `lock`, held until the transaction ends and read afresh."""
    known: Any = cls
    row: T | None = tx.scalars(_held(known), {"id": id}, execution_options=_AFRESH).first() if lock else tx.get(cls, id)
    if row is None:
        kind = getattr(cls, "kind", cls.__name__.lower())
        raise NotFound("not_found", f"There is no {kind.replace('_', ' ')} with the id {id}.", kind=kind, id=str(id))
    return row
