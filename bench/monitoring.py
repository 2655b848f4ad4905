"""Monitoring: one round of one manager over 200 and 2,000 simulated hosts with ten VMs each, in CPU seconds and statements."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from time import process_time

import sqlalchemy as sa

import assembly  # noqa: F401 -- every table must be known before the first row
from backend.db import new_sessions
from backend.hosts.loop import Monitor
from backend.loops import tick
from bench.figures import Figure
from bench.processes import cpu_s
from sim.clock import ToldClock
from sim.furnish import PEOPLE, Wanted, furnish
from sim.postgres import Cluster
from sim.rows import Machines, simulate
from sim.world import World

SIZES = (200, 2000)
VMS_ON_A_HOST = 10
ROUNDS, PACE_S = 10, 5.0  # so that every VM's usage is sampled in every second round
ROUND_GOAL_S = 5.0  # on one core


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    """Rounds after the first one, in which everything is new."""
    cluster = Cluster()
    cluster.start()
    try:
        for hosts in SIZES:
            yield from _rounds(cluster, hosts, say)
    finally:
        cluster.stop()


def _rounds(cluster: Cluster, hosts: int, say: Callable[[str], None]) -> Iterator[Figure]:
    clock, name = ToldClock(), cluster.new_database()
    sessions = new_sessions(cluster.url(name))
    engine, statements = sessions.kw["bind"], [0]
    with sessions.begin() as tx:
        place = Wanted(hosts, VMS_ON_A_HOST * hosts, lambda n: ("127.0.0.1", 1, 2))
        furnish(tx, place, dict.fromkeys(PEOPLE, "correct horse battery"), clock.now())
    world = World(clock, lively=True)
    monitor = Monitor(Machines(world, simulate(world, sessions)), clock)
    sa.event.listen(engine, "before_cursor_execute", lambda *_: statements.__setitem__(0, statements[0] + 1))
    postmaster = int((cluster.folder / "data" / "postmaster.pid").read_text().split()[0])
    took, written, asked = [], [], []
    for number in range(ROUNDS + 1):
        clock.sleep(PACE_S)
        statements[0], began, before = 0, process_time(), cpu_s(postmaster)
        tick(sessions, monitor)
        took.append(process_time() - began)
        written.append(cpu_s(postmaster) - before)
        asked.append(statements[0])
        say(f"{hosts:,} hosts, round {number}: {took[-1]:.2f} CPU s, PostgreSQL {written[-1]:.2f}, {asked[-1]:,} statements")
    mean = sum(took[1:]) / ROUNDS
    what = f"monitoring round, {hosts:,} hosts, {VMS_ON_A_HOST * hosts:,} VMs"
    goal = ROUND_GOAL_S if hosts == max(SIZES) else None
    yield Figure(f"{what}: manager", mean, "CPU s", less_is_better=True, value_wanted=goal)
    yield Figure(f"{what}: the slowest of {ROUNDS}", max(took[1:]), "CPU s")
    yield Figure(f"{what}: PostgreSQL", sum(written[1:]) / ROUNDS, "CPU s")
    yield Figure(f"{what}: statements", sum(asked[1:]) / ROUNDS, "")
    yield Figure(f"{what}: memory of manager and simulator", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB")
    engine.dispose()
    cluster.drop(name)
