"""What people in the queue are told when they ask, against what it was, by told time."""

from __future__ import annotations

from statistics import mean

from sim.installation import Installation
from sim.queueing import how_far_off, queue


def test_who_queues_waits_as_long_as_they_were_told_when_leases_end_by_themselves(world: Installation) -> None:
    waits = queue(world, 12, 3, lease_s=300, early=0)
    assert len(waits) == 9
    average, _, p90 = how_far_off(waits)
    assert average < 0.10 and p90 < 0.15, waits


def test_who_queues_waits_no_longer_than_told_when_others_give_back_early(world: Installation) -> None:
    waits = queue(world, 12, 3, lease_s=300, early=0.7)
    assert mean(wait.error for wait in waits) > -0.05, waits
    average, _, p90 = how_far_off(waits)
    assert 0.05 < average < 0.6 and p90 < 1.0, waits  # they do give back early, which nobody could know
