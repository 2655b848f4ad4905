"""What happens to a VM is known at once: the manager listens to hosts over the wire and asks those that heard something."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.clock import WallClock
from backend.db import Sessions
from backend.hosts.watching import Watch
from backend.loops import tick
from backend.vms.models import Vm
from hostapi.client import HostClient
from hostapi.server import HostServer
from hostapi.tls import client_context, server_context
from sim import make
from sim.rows import simulate
from sim.world import World
from tests.broker.processes import wait_until
from tests.pki import Pki


@pytest.fixture
def watch(sessions: Sessions, tmp_path: Path) -> Iterator[tuple[Watch, World]]:
    """One host with one VM, served over mutual TLS and watched."""
    clock, pki = WallClock(), Pki(tmp_path)
    with sessions.begin() as tx:
        host = make.a_host(tx, "alpha", reported_at=clock.now())
        domain = make.a_domain(tx, host)
        pool = make.a_pool(tx, host=host, domain=domain, members=1, member_state="spare")
        assert pool.id
    world = World(clock)
    simulate(world, sessions)
    server = HostServer(world.desk("alpha"), "127.0.0.1", 0, server_context(*pki.issue("host", "localhost")))
    server.start()
    client = HostClient("localhost", server.port, client_context(*pki.issue("manager")))
    made = Watch(lambda *_: client, clock)
    yield made, world
    made.stop()
    server.stop()
    client.close()


def state(sessions: Sessions) -> str:
    with sessions() as tx:
        return tx.query(Vm).one().state


def test_a_death_is_known_at_once(sessions: Sessions, watch: tuple[Watch, World]) -> None:
    """In much less than a second; the bound is generous, for machines are slow."""
    loop, world = watch
    stopping = threading.Event()

    def run() -> None:
        while not stopping.wait(loop.every_s):
            tick(sessions, loop)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: loop.listening, "the host is listened to")
        assert state(sessions) == "up"
        began = time.monotonic()
        world.do(f"vm {next(iter(world.host('alpha').runs.values())).spec.name} crash")
        wait_until(lambda: state(sessions) == "down", "its death is known")
        took = time.monotonic() - began
        print(f"known after {took:.2f} s")
        assert took < 8  # the answer would be kept back for ten seconds
    finally:
        stopping.set()
        thread.join()
