"""Hours, priorities, calls to answer, dedicated and kept desktops, pauses: on simulated hosts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.directory.models import Permission
from backend.errors import Denied, Impossible
from backend.events import Event
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from backend.vms.models import Vm
from broker import connect as broker
from pools import facts
from pools.commands import EditPool, PausePool, RemovePool, ResumePool
from pools.member_commands import AssignMember, RemoveMember, UnassignMember
from pools.models import Assignment, Lease, Pool, PoolMember
from sim import make
from sim.installation import Installation
from tests.pools.test_story import connect, states

Who = tuple[UUID, UUID]


def do(world: Installation, command: Any) -> Any:
    """The system carries it out, or begins to."""
    with world.tx() as tx:
        return submit(tx, command, SYSTEM, world.clock.now()).result


def lease_of(world: Installation, who: Who) -> Lease:
    with world.tx() as tx:
        return tx.scalars(sa.select(Lease).where(Lease.user_id == who[0]).order_by(Lease.queue_place.desc()).limit(1)).one()


def give_back(world: Installation, who: Who) -> None:
    with world.tx() as tx:
        broker.give_back(tx, user_id=who[0], lease_id=lease_of(world, who).id, now=world.clock.now())


def entitle(world: Installation, who: Who, pool_id: UUID, *hours: str, **fields: Any) -> None:
    with world.tx() as tx:
        if hours:
            fields["calendar_id"] = make.a_calendar(tx, *hours).id
        tx.add(Permission(user_id=who[0], role="user", object_type="pool", object_id=pool_id, **fields))


# -- hours ------------------------------------------------------------------------------------------
def test_a_lease_ends_with_the_hours_of_its_entitlement(world: Installation) -> None:
    """The told clock starts on Monday 2026-03-02 at 08:00 UTC."""
    pool_id = world.add_pool(size=1, spares=1, lease_s=7200, warn_s=300)
    alice = world.a_user("alice")
    entitle(world, alice, pool_id, "Mon 08:00-09:00")
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1})
    lease = connect(world, alice, pool_id).lease
    assert lease is not None and f"{lease.ends_at:%H:%M}" == "09:00"
    world.run_until(lambda tx: tx.get(Lease, lease.id).state == "expiring", limit_s=3600, step_s=30)
    world.run_until(lambda tx: tx.get(Lease, lease.id).state == "ended", limit_s=900, step_s=10)
    with world.tx() as tx:
        assert tx.get(Lease, lease.id).ended_at.hour == 9
    refused = connect(world, alice, pool_id)
    assert isinstance(refused.refusal, Denied) and "again from Monday, 9 March 2026, 08:00 (UTC)" in refused.sentence


def test_hours_that_get_shorter_shorten_the_lease(world: Installation) -> None:
    pool_id = world.add_pool(size=1, spares=1, lease_s=None, warn_s=300)
    alice = world.a_user("alice")
    entitle(world, alice, pool_id, "Mon 08:00-18:00")
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1})
    lease = connect(world, alice, pool_id).lease
    with world.tx() as tx:
        tx.scalars(sa.select(Calendar)).one().windows = ["Mon 08:00-10:00"]
    world.tick()
    with world.tx() as tx:
        assert f"{tx.get(Lease, lease.id).ends_at:%H:%M}" == "10:00"
        assert tx.scalar(sa.select(Event.sentence).where(Event.code == "lease.shorten")).endswith("at 2026-03-02 10:00 UTC.")


# -- priorities -------------------------------------------------------------------------------------
def test_the_higher_priority_goes_first_and_nobody_of_the_same_is_overtaken(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    holder, first, second = (world.a_user(n, on=[pool_id]) for n in ("holder", "first", "second"))
    chief = world.a_user("chief")
    entitle(world, chief, pool_id, priority=10)
    connect(world, holder, pool_id)
    world.run_until(lambda tx: states(tx, pool_id) == {"leased": 1})
    assert [connect(world, who, pool_id).position for who in (first, second, chief)] == [1, 2, 1]
    assert connect(world, first, pool_id).position == 2
    order = []
    for who in (holder, chief, first):
        give_back(world, who)
        world.run_until(lambda tx: tx.scalar(sa.select(Lease.user_id).where(Lease.state == "active")))
        with world.tx() as tx:
            order.append(tx.scalar(sa.select(Lease.user_id).where(Lease.state == "active")))
    assert order == [chief[0], first[0], second[0]]


# -- calls ------------------------------------------------------------------------------------------
def test_who_waited_is_called_and_answers_or_the_next_gets_it(world: Installation) -> None:
    pool_id = world.add_pool(size=1, spares=1, call_s=60)
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1})
    holder, gone, there = (world.a_user(n, on=[pool_id]) for n in ("holder", "gone", "there"))
    assert connect(world, holder, pool_id).state == "ready", "nobody calls who did not wait"
    connect(world, gone, pool_id)
    connect(world, there, pool_id)
    give_back(world, holder)
    called = lambda who: lambda tx: tx.scalar(sa.select(Lease.called_until).where(Lease.user_id == who[0]))  # noqa: E731
    world.run_until(called(gone), "the first is called")
    with world.tx() as tx:
        (desktop,) = broker.desktops(tx, gone[0], world.clock.now())
        assert desktop.state == "called" and "Open it by" in desktop.sentence
    world.run_until(called(there), "the second is called, as the first does not answer")
    assert lease_of(world, gone).end_reason == "no_answer"
    assert connect(world, there, pool_id).state == "ready"
    lease = lease_of(world, there)
    assert (lease.state, lease.called_until) == ("active", None)


# -- dedicated and kept -----------------------------------------------------------------------------
def test_a_dedicated_desktop_stays_its_first_holders(world: Installation) -> None:
    pool_id = world.add_pool(size=2, type="dedicated", stateless=False)
    alice, bob = world.a_user("alice", on=[pool_id]), world.a_user("bob", on=[pool_id])
    first = connect(world, alice, pool_id)
    world.run_until(lambda tx: tx.scalar(sa.select(Lease.id).where(Lease.state == "active")))
    mine = lease_of(world, alice).vm_id
    give_back(world, alice)
    world.run_until(lambda tx: states(tx, pool_id) == {"kept": 1})
    resets = _resets(world)
    assert connect(world, bob, pool_id).state == "queued", "alice's is nobody else's: another one is made"
    world.run_until(lambda tx: tx.scalar(sa.select(Lease.id).where(Lease.state == "active", Lease.user_id == bob[0])))
    assert lease_of(world, bob).vm_id != mine
    again = connect(world, alice, pool_id)
    assert (again.state, again.vm_id) == ("starting", mine) and first.lease is not None
    assert _resets(world) == resets, "what she kept is still there"
    carol = world.a_user("carol", on=[pool_id])
    assert connect(world, carol, pool_id).state == "queued"


def _resets(world: Installation) -> int:
    return sum(sum(storage.resets.values()) for storage in world.sim.storage.values())


def test_a_fresh_desktop_and_one_taken_away_are_made_as_new(world: Installation) -> None:
    pool_id = world.add_pool(size=1, type="dedicated", stateless=False, rights=["reset"])
    alice = world.a_user("alice", on=[pool_id])
    connect(world, alice, pool_id)
    world.run_until(lambda tx: tx.scalar(sa.select(Lease.id).where(Lease.state == "active")))
    before, mine = _resets(world), lease_of(world, alice).vm_id
    with world.tx() as tx:
        broker.act(tx, user_id=alice[0], desktop_id=pool_id, verb="reset", now=world.clock.now())
    world.run_until(lambda tx: tx.scalar(sa.select(Lease.id).where(Lease.state == "active", Lease.vm_id == mine)))
    assert _resets(world) == before + 1
    with world.tx() as tx:
        member_id = tx.scalar(sa.select(PoolMember.id))
    with pytest.raises(Impossible, match="is leased; it cannot be taken away"):
        do(world, UnassignMember(member_id))
    give_back(world, alice)
    world.run_until(lambda tx: states(tx, pool_id) == {"kept": 1})
    with pytest.raises(Impossible, match="belongs to alice"):
        do(world, RemoveMember(member_id))
    do(world, UnassignMember(member_id))
    world.run_until(lambda tx: states(tx, pool_id) == {"ready": 1})
    assert _resets(world) == before + 2
    with world.tx() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(Assignment)) == 0


def test_a_desktop_is_given_beforehand_and_one_set_aside_is_told(world: Installation) -> None:
    pool_id = world.add_pool(size=3, spares=2, type="dedicated", stateless=False)
    alice, bob = world.a_user("alice", on=[pool_id]), world.a_user("bob", on=[pool_id])
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 2})
    with world.tx() as tx:
        member = tx.scalars(sa.select(PoolMember).order_by(PoolMember.id)).first()
        member_id, vm_id = member.id, member.vm_id
    do(world, AssignMember(member_id, alice[0]))
    with pytest.raises(Impossible, match="belongs to alice already"):
        do(world, AssignMember(member_id, bob[0]))
    assert connect(world, bob, pool_id).vm_id != vm_id
    with world.tx() as tx:
        name = tx.get(Vm, vm_id).name
    world.sim.do(f"vm {name} crash")
    world.sim.do(f"vm {name} boot_fails")
    assert connect(world, alice, pool_id).vm_id == vm_id
    world.run_until(lambda tx: tx.get(PoolMember, member_id).state == "broken")
    world.run_until(lambda tx: tx.scalar(sa.select(Lease.id).where(Lease.user_id == alice[0], Lease.state == "ended")))
    assert "set aside" in lease_of(world, alice).why
    answer = connect(world, alice, pool_id)
    assert answer.refusal is not None and answer.refusal.code == "own_desktop_broken"


def test_a_removed_dedicated_pool_takes_its_kept_desktops_along(world: Installation) -> None:
    pool_id = world.add_pool(size=1, type="dedicated")
    alice = world.a_user("alice", on=[pool_id])
    connect(world, alice, pool_id)
    world.run_until(lambda tx: tx.scalar(sa.select(Lease.id).where(Lease.state == "active")))
    give_back(world, alice)
    world.run_until(lambda tx: states(tx, pool_id) == {"kept": 1})
    do(world, RemovePool(pool_id))
    world.run_until(lambda tx: tx.get(Pool, pool_id) is None)


# -- pauses -----------------------------------------------------------------------------------------
def test_a_paused_pool_keeps_the_queue_and_lets_leases_go_on(world: Installation) -> None:
    pool_id = world.add_pool(size=2, spares=1)
    alice, bob = world.a_user("alice", on=[pool_id]), world.a_user("bob", on=[pool_id])
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1})
    connect(world, alice, pool_id)
    do(world, PausePool(pool_id, "back at ten"))
    answer = connect(world, bob, pool_id)
    assert answer.state == "queued" and "paused: back at ten" in answer.sentence
    assert connect(world, alice, pool_id).state == "ready"
    world.run_for(20)
    assert lease_of(world, bob).state == "queued"
    do(world, EditPool(pool_id, size=1))
    do(world, ResumePool(pool_id))
    give_back(world, alice)
    world.run_until(lambda tx: tx.scalar(sa.select(Lease.id).where(Lease.user_id == bob[0], Lease.state == "active")))


def test_the_wait_that_was_told_is_kept(world: Installation) -> None:
    pool_id = world.add_pool(size=1, lease_s=600)
    alice, bob = world.a_user("alice", on=[pool_id]), world.a_user("bob", on=[pool_id])
    connect(world, alice, pool_id)
    world.run_until(lambda tx: states(tx, pool_id) == {"leased": 1})
    connect(world, bob, pool_id)
    told = lease_of(world, bob).told_s
    assert told is not None and 660 <= told <= 800  # a boot, the lease, its grace, and another boot
    with world.tx() as tx:
        assert facts.position(tx, lease_of(world, bob)) == 1
