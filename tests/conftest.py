"""Fixtures everybody shares: a throw-away PostgreSQL, sessions, a clock that stands still until told."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

import assembly  # noqa: F401 -- every table must be known before the first flush
from backend import garbage
from backend.db import Sessions, Tx, new_sessions
from sim.clock import ToldClock
from sim.installation import Installation
from sim.postgres import Cluster
from tests.libvirtd import PrivateLibvirtd
from tests.pki import Pki
from tests.samba import SambaDomain

garbage.look_seldom()
# What holds few tests that take long, mostly waiting, comes first, so that no worker is left alone with it at the end
# (the Makefile's PYTEST keeps this order).
LONG = (
    "lab", "chaos", "standalone", "e2e", "tasks", "test_scenarios.py", "contract", "broker", "cli", "directory", "install",
    "pools",
)  # fmt: skip
STORIES, SHARES = "tests/test_scenarios.py", 4
TOGETHER = "tests/install/"  # the SSH server's accounts are the machine's


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write the golden files anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.relative_to(item.config.rootpath / "tests").parts[0], len(LONG)))


class ByFile(LoadFileScheduling):
    """A file's tests go to one worker, and so do those of `TOGETHER`; the stories, which are many and alike, to several."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        if file.startswith(TOGETHER):
            return TOGETHER
        return f"{file} {zlib.crc32(nodeid.encode()) % SHARES}" if file == STORIES else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile | None:
    """How `--dist loadfile` gives tests to workers; other ways stay as they are."""
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


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


@pytest.fixture(scope="session")
def samba() -> Iterator[SambaDomain]:
    """A running domain controller, shared by the whole run: add people of your own, leave others' alone."""
    folder = Path(tempfile.mkdtemp(prefix="lh-ad-"))  # short: it holds Unix sockets
    domain = SambaDomain(folder)
    try:
        yield domain.start()
    finally:
        domain.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def clock() -> ToldClock:
    return ToldClock()


@pytest.fixture(scope="session")
def private_libvirtd() -> Iterator[PrivateLibvirtd]:
    """A libvirtd of this test run alone, with real QEMU guests under emulation; can be killed."""
    daemon = PrivateLibvirtd()
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(scope="session")
def private_libvirt(private_libvirtd: PrivateLibvirtd) -> str:
    """The URI of this test run's own libvirtd."""
    return private_libvirtd.uri


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """A certificate authority of this test run."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def world(sessions: Sessions, clock: ToldClock) -> Installation:
    """A manager in this process on one simulated host, alpha; see sim/installation.py."""
    made = Installation(sessions, clock)
    made.add_host("alpha")
    return made
