"""Failover: from a host's death to its highly available VMs running elsewhere, in told seconds, and what deciding costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from time import process_time
from uuid import uuid4

import sqlalchemy as sa

import assembly  # noqa: F401 -- every table must be known before the first row
from backend.db import new_sessions
from backend.ha.rules import FencingPolicy, HostView, RestartView, View, decide
from backend.vms.models import Vm
from bench.figures import Figure
from sim import protected
from sim.clock import ToldClock
from sim.installation import Installation
from sim.postgres import Cluster

VMS, GOAL_S = 20, 30.0
FAULTS = {"loses its power": "power", "is cut off": "network"}


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    """A host with twenty VMs dies in each way; then a decision about 2,000 hosts and 1,000 VMs."""
    cluster = Cluster()
    cluster.start()
    try:
        for words, fault in FAULTS.items():
            name = cluster.new_database()
            yield from _failover(Installation(new_sessions(cluster.url(name)), ToldClock(), boot_s=0.0), words, fault, say)
    finally:
        cluster.stop()
    yield _deciding()


def _failover(place: Installation, words: str, fault: str, say: Callable[[str], None]) -> Iterator[Figure]:
    for name in ("alpha", "beta", "gamma"):
        place.add_host(name)
        protected.add_power_agents(place, name, [1])
    place.add_shared_domain()
    for number in range(VMS):
        protected.add_vm(place, f"vm-{number}", on="alpha", high_availability=True)
    place.run_for(5)
    place.sim.do(f"{fault} alpha off")
    began = place.clock.now()
    up = sa.select(sa.func.count()).where(Vm.state == "up", Vm.started_at > began)
    place.run_until(lambda tx: tx.scalar(up), "the first runs", step_s=0.5)
    first = (place.clock.now() - began).total_seconds()
    place.run_until(lambda tx: tx.scalar(up) == VMS, "all run", step_s=0.5)
    last = (place.clock.now() - began).total_seconds()
    say(f"a host {words}: the first VM runs after {first:.1f} s, the last of {VMS} after {last:.1f} s of told time")
    yield Figure(f"a host {words}: until its last VM of {VMS} runs", last, "s", less_is_better=True, value_wanted=GOAL_S)


def _deciding() -> Figure:
    """The rules alone: a data center in which a tenth is silent."""
    clock, cluster, center = ToldClock(), uuid4(), uuid4()
    long_ago = clock.now() - timedelta(seconds=60)
    hosts = [
        HostView(uuid4(), f"h{n}", cluster, center, "up" if n % 10 else "non_responsive", long_ago, 0 if n % 10 else 30, 1,
                 softened_at=None if n % 10 else long_ago, outage=not n % 10)
        for n in range(2000)
    ]  # fmt: skip
    view = View(hosts, [RestartView(uuid4(), f"vm{n}", "down", True, n % 100) for n in range(1000)], {cluster: FencingPolicy()})
    began = process_time()
    decide(view, clock.now())
    return Figure("one decision: 2,000 hosts, 200 of them silent", (process_time() - began) * 1000, "ms", less_is_better=True)
