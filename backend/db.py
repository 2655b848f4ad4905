"""`Base`, `new_sessions`, column types: PostgreSQL through SQLAlchemy, one dialect everywhere."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from threading import Event, Lock
from typing import Any, TypeVar
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from backend.errors import NotFound

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
    people sign in at once, some get no connection within the time-out. Here whoever returns a connection hands the
    place over to the one who has waited longest."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._places, self._line, self._lock = self.size(), deque[Event](), Lock()

    def _do_get(self) -> ConnectionPoolEntry:
        self._enter()
        try:
            return super()._do_get()
        except BaseException:
            self._leave()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self._leave()

    def _enter(self) -> None:
        with self._lock:
            if self._places and not self._line:
                self._places -= 1
                return
            self._line.append(mine := Event())
        try:
            if mine.wait(self.timeout()):
                return
        except BaseException:  # who is killed while waiting must not be given a place any more
            if not self._withdraw(mine):
                self._leave()
            raise
        if self._withdraw(mine):
            raise sa.exc.TimeoutError(f"No database connection was free within {self.timeout():g} s.")

    def _withdraw(self, mine: Event) -> bool:
        """Whether it was still in the line; else a place was handed over in the last moment."""
        with self._lock:
            if mine.is_set():
                return False
            self._line.remove(mine)
            return True

    def _leave(self) -> None:
        with self._lock:
            if self._line:
                self._line.popleft().set()
            else:
                self._places += 1


def new_sessions(url: str, pool: int = 10) -> Sessions:
    """Sessions on this database, over at most twice `pool` connections, opened as they are needed. They are tested
    before use, so a PostgreSQL restart costs one retry; over the network, TCP's own life signs end those whose host is gone."""
    engine = sa.create_engine(url, poolclass=FairPool, pool_size=2 * pool, max_overflow=0, pool_timeout=60, pool_pre_ping=True,
                              hide_parameters=True,  # errors are logged, and hashes and sealed passwords are among the parameters
                              connect_args={"options": "-c timezone=UTC -c lock_timeout=10s", **LIFE_SIGNS})
    return sessionmaker(engine, expire_on_commit=False)


def get(tx: Tx, cls: type[T], id: Any, *, lock: bool = False) -> T:
    """The row, or `NotFound` in words. With `lock`, held until the transaction ends and read afresh."""
    row = tx.get(cls, id, with_for_update=lock or None, populate_existing=lock)
    if row is None:
        kind = getattr(cls, "kind", cls.__name__.lower())
        raise NotFound("not_found", f"There is no {kind.replace('_', ' ')} with the id {id}.", kind=kind, id=str(id))
    return row
