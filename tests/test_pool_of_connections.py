"""The pool of database connections: in the order of asking, never more than there are, none lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from backend.db import FairPool


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    made = sa.create_engine(database_url, poolclass=FairPool, pool_size=2, max_overflow=0, pool_timeout=60)
    yield made
    made.dispose()


def waiting(engine: sa.Engine) -> int:
    return len(engine.pool.line)  # type: ignore[attr-defined]


def until(true: object) -> None:
    for _ in range(6000):
        if true():  # type: ignore[operator]
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited in vain")


def test_first_come_first_served(engine: sa.Engine) -> None:
    held, order = [engine.connect(), engine.connect()], list[int]()

    def one(n: int) -> None:
        with engine.connect() as connection:
            order.append(n)
            connection.execute(sa.text("SELECT 1"))

    people = []
    for n in range(6):
        people.append(threading.Thread(target=one, args=(n,)))
        people[-1].start()
        until(lambda n=n: waiting(engine) == n + 1)
    held[0].close()
    for thread in people:
        thread.join(60)
    assert order == list(range(6))
    held[1].close()
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_who_waits_too_long_is_told_and_leaves_no_gap(database_url: str) -> None:
    engine = sa.create_engine(database_url, poolclass=FairPool, pool_size=1, max_overflow=0, pool_timeout=0.05)
    for _ in range(3):
        with engine.connect():
            with pytest.raises(sa.exc.TimeoutError, match="No database connection was free"):
                engine.connect()
        assert waiting(engine) == 0
    engine.dispose()


def test_a_database_that_cannot_be_reached_costs_no_place(database_url: str) -> None:
    nowhere = database_url + "&dbname=nothing_here"
    engine = sa.create_engine(nowhere, poolclass=FairPool, pool_size=1, max_overflow=0, pool_timeout=5)
    for _ in range(3):
        with pytest.raises(sa.exc.OperationalError):
            engine.connect()
    engine.dispose()


def test_many_at_once(engine: sa.Engine) -> None:
    most, now, lock = [0], [0], threading.Lock()

    def one() -> None:
        for _ in range(5):
            with engine.connect() as connection:
                with lock:
                    now[0] += 1
                    most[0] = max(most[0], now[0])
                connection.execute(sa.text("SELECT 1"))
                with lock:
                    now[0] -= 1

    people = [threading.Thread(target=one) for _ in range(40)]
    for thread in people:
        thread.start()
    for thread in people:
        thread.join(120)
    assert most[0] <= 2 and waiting(engine) == 0 and engine.pool.checkedout() == 0  # type: ignore[attr-defined]
