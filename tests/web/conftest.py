"""The portal on a real database, with one of everything in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import sessionmaker

from backend.db import Sessions, new_sessions
from sim.postgres import Cluster
from tests.conftest import ToldClock
from tests.pki import Pki
from tests.web.place import Place


@pytest.fixture
def place(sessions: Sessions, clock: ToldClock, pki: Pki) -> Place:
    files = pki.issue("gateway", "gateway")
    return Place(sessions, clock, ca_file=str(files.ca_file), hosts_ca_file=str(files.ca_file),
                tls_cert_file=str(files.cert_file))


@pytest.fixture(scope="module")
def shared_place(cluster: Cluster, pki: Pki) -> Iterator[Place]:
    """One place for a module's tests; see `undone_place`."""
    name = cluster.new_database()
    sessions = new_sessions(cluster.url(name))
    files = pki.issue("gateway", "gateway")
    yield Place(sessions, ToldClock(), ca_file=str(files.ca_file), hosts_ca_file=str(files.ca_file),
                tls_cert_file=str(files.cert_file))
    sessions.kw["bind"].dispose()
    cluster.drop(name)


@pytest.fixture
def undone_place(shared_place: Place) -> Iterator[Place]:
    """The place as it was made: whatever a test does is undone afterwards, its commits are savepoints."""
    kept, time = shared_place.sessions, shared_place.clock.time
    with kept.kw["bind"].connect() as connection:
        whole = connection.begin()
        undone = sessionmaker(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
        object.__setattr__(shared_place.parts, "sessions", undone)
        shared_place.sessions = undone
        yield shared_place
        object.__setattr__(shared_place.parts, "sessions", kept)
        shared_place.sessions, shared_place.clock.time = kept, time
        whole.rollback()
