"""A database whose host goes without a word, as in a failover, is noticed; a process with many files is woken all the same."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from backend.db import LIFE_SIGNS, Sessions, new_sessions
from backend.tasks.submit import WAKE
from sim.postgres import Cluster
from tests.conftest import ToldClock
from tests.tasks.bench import Bench

HERE, THERE, PORT = "198.51.100.1", "198.51.100.2", "5432"
RELAY = """
import socket, sys, threading
def copy(a, b):
    while data := a.recv(65536):
        b.sendall(data)
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    near, _ = listener.accept()
    far = socket.socket(socket.AF_UNIX)
    far.connect(sys.argv[3])
    for pair in ((near, far), (far, near)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


@pytest.fixture
def namespace() -> Iterator[str]:
    """Another network, one cable away, at the address THERE."""
    name = f"lh-{os.getpid()}"
    ip(f"netns add {name}")
    try:
        ip(f"link add {name} type veth peer name {name} netns {name}")
        ip(f"addr add {HERE}/30 dev {name}")
        ip(f"link set {name} up")
        ip(f"-n {name} addr add {THERE}/30 dev {name}")
        ip(f"-n {name} link set {name} up")
        yield name
    finally:
        ip(f"netns del {name}")


@contextmanager
def database_there(namespace: str, cluster: Cluster) -> Iterator[None]:
    """The cluster's socket is reached over TCP at THERE."""
    argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", RELAY, THERE, PORT, f"{cluster.folder}/.s.PGSQL.5432"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as relay:
        try:
            assert relay.stdout is not None and relay.stdout.readline() == b"ready\n"
            yield
        finally:
            relay.kill()


def test_a_host_that_falls_silent_is_noticed(namespace: str, cluster: Cluster, database_url: str) -> None:
    sessions = new_sessions(f"postgresql+psycopg2://leasehold@{THERE}:{PORT}/{sa.make_url(database_url).database}")
    told: list[BaseException] = []

    def ask() -> None:
        try:
            with sessions.begin() as tx:
                tx.execute(sa.text("SELECT pg_sleep(3600)"))
        except sa.exc.OperationalError as gone:
            told.append(gone)

    with database_there(namespace, cluster):
        with sessions.begin() as tx:
            raw = tx.connection().connection.driver_connection
            assert raw is not None
            with socket.socket(fileno=os.dup(raw.fileno())) as sock:
                wanted = {socket.TCP_KEEPIDLE: "keepalives_idle", socket.TCP_KEEPINTVL: "keepalives_interval",
                          socket.TCP_KEEPCNT: "keepalives_count", socket.TCP_USER_TIMEOUT: "tcp_user_timeout"}
                for option, name in wanted.items():
                    assert sock.getsockopt(socket.IPPROTO_TCP, option) == LIFE_SIGNS[name], name
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        while not _asks(cluster):
            threading.Event().wait(0.05)
        ip(f"-n {namespace} route add blackhole {HERE}")  # what comes is swallowed: no answer, no RST
        asking.join(120)
        assert told and "timed out" in str(told[0]).lower()
    sessions.kw["bind"].dispose()


def _asks(cluster: Cluster) -> bool:
    sessions = new_sessions(cluster.url("postgres"))
    with sessions.begin() as tx:
        asks = sa.text("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3600)' AND state = 'active')")
        found = bool(tx.scalar(asks))
    sessions.kw["bind"].dispose()
    return found


@pytest.fixture
def many_files() -> Iterator[None]:
    """All descriptors below 1,100 are taken."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2048), limits[1]))
    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] < 1100:
        taken.append(os.dup(taken[0]))
    yield
    for one in taken:
        os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_runner_with_many_files_is_woken(many_files: None, sessions: Sessions, clock: ToldClock) -> None:
    runner = Bench(sessions, clock).runner()
    listening = threading.Thread(target=runner._listen_forever)
    listening.start()
    try:
        for _ in range(600):
            with sessions.begin() as tx:
                tx.execute(sa.text(f"NOTIFY {WAKE}"))
            if runner._wake.wait(0.1):
                break
        assert runner._wake.is_set()
    finally:
        runner.stopping.set()
        listening.join()
