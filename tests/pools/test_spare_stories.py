"""Spares by the hour and by past weeks, and how fast they are started; on simulated hosts."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.calendars.commands import RemoveCalendar
from backend.errors import Impossible, Invalid
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from pools import burden, facts
from pools.models import Lease, Pool, SparePlan
from pools.spare_commands import PlanSpares, UnplanSpares
from sim import make
from sim.installation import Installation
from tests.pools.test_kinds import do
from tests.pools.test_story import states


def test_spares_by_the_hour(world: Installation) -> None:
    """The told clock starts on Monday 2026-03-02 at 08:00 UTC."""
    pool_id = world.add_pool(size=4, spares=1)
    with world.tx() as tx:
        calendar_id = make.a_calendar(tx, "Mon 08:10-08:20").id
    with pytest.raises(Invalid, match="between 0 and 4 spares"):
        do(world, PlanSpares(pool_id, calendar_id, 5))
    do(world, PlanSpares(pool_id, calendar_id, 4))
    do(world, PlanSpares(pool_id, calendar_id, 3))
    world.run_for(300, step_s=10)
    assert counts(world, pool_id) == {"spare": 1}
    world.run_until(lambda tx: world.clock.now().minute == 10, step_s=10)
    assert counts(world, pool_id)["spare"] == 3, "they are up when the hour begins"
    world.run_until(lambda tx: world.clock.now().minute == 21, limit_s=900, step_s=10)
    world.run_until(lambda tx: states(tx, pool_id).get("spare") == 1, "surplus goes")
    with pytest.raises(Impossible, match=r"used by 1 plan\(s\) of spares"):
        do(world, RemoveCalendar(calendar_id))
    with world.tx() as tx:
        plan_id = tx.scalar(sa.select(SparePlan.id))
    do(world, UnplanSpares(plan_id))
    do(world, RemoveCalendar(calendar_id))


def counts(world: Installation, pool_id: UUID) -> dict[str, int]:
    with world.tx() as tx:
        return states(tx, pool_id)


def test_spares_as_past_weeks_were(world: Installation) -> None:
    pool_id = world.add_pool(size=6, spares=0, spares_learn=True)
    with world.tx() as tx:
        pool, alice = tx.get_one(Pool, pool_id), make.a_user(tx)
        for week, people in ((1, 3), (2, 5), (3, 0), (4, 1)):
            for n in range(people):
                then = world.clock.now() - timedelta(weeks=week) + timedelta(minutes=3, seconds=n)
                make.a_lease(tx, pool, alice, "ended", now=then)
    world.run_until(lambda tx: states(tx, pool_id).get("spare") == 3, "the second most of four weeks")
    world.run_until(lambda tx: world.clock.now().minute >= 5, step_s=10)
    world.run_until(lambda tx: "spare" not in states(tx, pool_id), "the time is over", limit_s=300)


def test_starts_at_once_grow_with_what_hosts_bear(world: Installation) -> None:
    """Simulated guests boot in three seconds however many do: so the pool need not keep to a trickle."""
    pool_id = world.add_pool(size=40, spares=40)
    most = 0
    for _ in range(120):
        world.tick()
        with world.tx() as tx:
            now_starting = facts.counts(tx, pool_id).get("warming", 0)
            most = max(most, now_starting)
            assert now_starting <= 64
        if counts(world, pool_id).get("spare") == 40:
            break
    assert counts(world, pool_id)["spare"] == 40
    assert most >= 8, "more than the four of the beginning"
    with world.tx() as tx:
        assert burden.starts(tx, tx.get_one(Pool, pool_id), world.clock.now()) > 4


def test_a_plan_is_written_once(world: Installation) -> None:
    pool_id = world.add_pool(size=4)
    with world.tx() as tx:
        calendar_id = make.a_calendar(tx, "Mon 08:10-08:20").id
        for spares in (1, 2):
            submit(tx, PlanSpares(pool_id, calendar_id, spares), SYSTEM, world.clock.now())
        assert tx.scalars(sa.select(SparePlan.spares)).all() == [2]
        assert tx.scalars(sa.select(Lease)).all() == []
