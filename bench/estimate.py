"""What people in the queue of a simulated pool are told when they ask, against what it was; by told time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backend.db import new_sessions
from bench.figures import Figure
from sim.clock import ToldClock
from sim.installation import Installation
from sim.postgres import Cluster
from sim.queueing import how_far_off, queue

PEOPLE, DESKTOPS, LEASE_S = 12, 3, 300


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    """Everybody stays to the end; then half of them, and three quarters, give back early."""
    cluster = Cluster()
    cluster.start()
    try:
        for early in (0.0, 0.5, 0.75):
            sessions = new_sessions(cluster.url(cluster.new_database()))
            place = Installation(sessions, ToldClock())
            place.add_host("alpha")
            waits = queue(place, PEOPLE, DESKTOPS, lease_s=LEASE_S, early=early)
            sessions.kw["bind"].dispose()
            average, p50, p90 = how_far_off(waits)
            long = sum(wait.error > 0 for wait in waits)
            say(f"{len(waits)} of {PEOPLE} people queued for {DESKTOPS} desktops; {early:.0%} give back early: "
                f"{long} were told too long, {len(waits) - long} too short")
            yield Figure(f"estimate's error, {early:.0%} give back early: mean", average * 100, "%", less_is_better=True)
            yield Figure("  p50", p50 * 100, "%", less_is_better=True)
            yield Figure("  p90", p90 * 100, "%", less_is_better=True)
    finally:
        cluster.stop()
