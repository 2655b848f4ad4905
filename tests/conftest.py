"""Fixtures everybody shares: a throw-away PostgreSQL, sessions, a clock that stands still until told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import assembly  # noqa: F401 -- every table must be known before the first flush
from backend.db import Sessions, Tx, new_sessions
from tests.postgres import Cluster


class ToldClock:
    """A clock that moves when a test says so."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def database_url(cluster: Cluster) -> Iterator[str]:
    name = cluster.new_database()
    yield cluster.url(name)
    cluster.drop(name)


@pytest.fixture
def sessions(database_url: str) -> Iterator[Sessions]:
    made = new_sessions(database_url)
    yield made
    made.kw["bind"].dispose()


@pytest.fixture
def tx(sessions: Sessions) -> Iterator[Tx]:
    """A transaction that is rolled back at the end."""
    with sessions() as session:
        yield session
        session.rollback()


@pytest.fixture
def clock() -> ToldClock:
    return ToldClock()
