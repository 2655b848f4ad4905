"""A pool's life from the first desktop to the last, on simulated hosts."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend import loops as loops_run
from backend.directory.models import Permission, User, WebSession
from backend.errors import Denied, Impossible, NotFound
from backend.events import Event
from backend.hosts.models import Host
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.models import Vm
from broker import connect as broker
from pools import facts
from pools.commands import EditPool, ReclaimLease, RemovePool
from pools.loop import LeaseLoop
from pools.member_commands import RepairMember
from pools.models import Decision, Lease, Pool, PoolMember
from pools.spare_loop import SpareLoop
from sim.installation import Installation
from sim.make import a_permission, a_vm


def states(tx: Any, pool_id: UUID) -> dict[str, int]:
    return {k: v for k, v in facts.counts(tx, pool_id).items() if v}


def connect(world: Installation, who: tuple[UUID, UUID], pool_id: UUID, **more: Any) -> broker.Answer:
    with world.tx() as tx:
        return broker.connect(
            tx, user_id=who[0], session_id=who[1], desktop_id=pool_id, now=world.clock.now(),
            **{"protocol": None, "client": "browser", **more},
        )  # fmt: skip


def test_spares_are_made_and_kept(world: Installation) -> None:
    pool_id = world.add_pool(size=4, spares=1)
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1}, "one spare")
    world.run_for(5)
    with world.tx() as tx:
        assert states(tx, pool_id) == {"spare": 1}


def test_a_spare_is_given_at_once_with_a_ticket_and_replaced(world: Installation) -> None:
    pool_id = world.add_pool(size=4, spares=1)
    alice = world.a_user("alice", on=[pool_id])
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1}, "one spare")
    answer = connect(world, alice, pool_id)
    assert answer.state == "ready" and answer.ticket is not None
    assert answer.ticket.vm_id == answer.vm_id and answer.lease.state == "active"
    again = connect(world, alice, pool_id)
    assert again.lease.id == answer.lease.id and again.vm_id == answer.vm_id
    world.run_until(lambda tx: states(tx, pool_id) == {"leased": 1, "spare": 1}, "the next spare")
    with world.tx() as tx:
        broker.give_back(tx, user_id=alice[0], lease_id=answer.lease.id, now=world.clock.now())
    world.run_until(lambda tx: tx.get(Lease, answer.lease.id).state == "ended", "the lease is over")
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1, "ready": 1}, "the desktop is ready again")
    with world.tx() as tx:
        vm = tx.get(Vm, answer.vm_id)
        assert vm.state == "down"
        assert sum(f.resets.get(d, 0) for f in world.sim.storage.values() for d in f.volumes) == 1


def give_back(world: Installation, who: tuple[UUID, UUID], lease: Lease) -> None:
    with world.tx() as tx:
        broker.give_back(tx, user_id=who[0], lease_id=lease.id, now=world.clock.now())


def until_ready(world: Installation, who: tuple[UUID, UUID], pool_id: UUID) -> broker.Answer:
    """Ask as a page does until the answer is ready; every answer on the way is a whole sentence."""

    def asked(tx: Any) -> broker.Answer | None:
        answer = connect(world, who, pool_id)
        assert answer.sentence.endswith((".", "!")), answer.sentence
        return answer if answer.state == "ready" else None

    return world.run_until(asked, "ready")


def lease_of(world: Installation, who: tuple[UUID, UUID]) -> Lease:
    with world.tx() as tx:
        return tx.scalars(sa.select(Lease).where(Lease.user_id == who[0]).order_by(Lease.queue_place.desc())).first()


def member_of(world: Installation, vm_id: UUID) -> PoolMember:
    with world.tx() as tx:
        return tx.scalars(sa.select(PoolMember).where(PoolMember.vm_id == vm_id)).one()


def told(world: Installation, code: str) -> list[str]:
    with world.tx() as tx:
        return list(tx.scalars(sa.select(Event.sentence).where(Event.code == code).order_by(Event.id)))


def test_who_waited_while_a_desktop_came_back_gets_it_from_then_on(world: Installation) -> None:
    """A request that was held up has an older time than the end of the lease before it."""
    pool_id = world.add_pool(size=1, spares=1)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    first = until_ready(world, alice, pool_id)
    asked_at = world.clock.now()
    give_back(world, alice, first.lease)
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1}, "it is free again")
    with world.tx() as tx:
        answer = broker.connect(
            tx, user_id=bob[0], session_id=bob[1], desktop_id=pool_id, protocol=None, client="browser", now=asked_at
        )
        assert answer.vm_id == first.vm_id and answer.state == "ready"
    with world.tx() as tx:
        before, after = (tx.get_one(Lease, id).period for id in (first.lease.id, answer.lease.id))
        assert before.upper == after.lower > asked_at


def test_a_desktop_that_boots_when_its_host_loses_power_is_not_set_aside(world: Installation) -> None:
    pool_id = world.add_pool(size=1, spares=1)
    world.run_until(lambda tx: states(tx, pool_id) == {"warming": 1} and tx.scalars(sa.select(Vm.state)).all(), "it starts")
    world.run_until(lambda tx: tx.scalars(sa.select(Vm.state)).all() == ["powering_up"], "it boots")
    for sentence in ("power alpha off", "power alpha on"):
        world.sim.do(sentence)
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1}, "it is started again")
    assert told(world, "member.broke") == []


def test_desktops_are_made_on_demand(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice = world.a_user("alice", on=[pool_id])
    answer = connect(world, alice, pool_id)
    assert (answer.state, answer.position) == ("queued", 1)
    assert answer.sentence == "A desktop is being prepared. You are next."
    assert answer.estimate_s == round(facts.BOOT_S)
    ready = until_ready(world, alice, pool_id)
    assert ready.vm_name == "desktops-1" and ready.lease.id == answer.lease.id


def test_a_full_pool_queues_and_the_next_is_served(world: Installation) -> None:
    pool_id = world.add_pool(size=1, spares=1)
    alice, bob, carol = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob", "carol"))
    first = until_ready(world, alice, pool_id)
    waits = [connect(world, who, pool_id) for who in (bob, carol)]
    assert [(w.state, w.position) for w in waits] == [("queued", 1), ("queued", 2)]
    assert waits[1].sentence == "All desktops are in use. 1 person is before you."
    assert 3500 < waits[0].estimate_s < 3800 and 7000 < waits[1].estimate_s < 7600
    give_back(world, alice, first.lease)
    world.run_until(lambda tx: tx.get(Lease, waits[0].lease.id).state == "active", "bob's turn")
    second = connect(world, bob, pool_id)
    assert second.state == "ready" and second.vm_id == first.vm_id
    assert connect(world, carol, pool_id).position == 1
    with world.tx() as tx:
        kept = list(tx.scalars(sa.select(Decision).where(Decision.user_id == bob[0]).order_by(Decision.at)))
        assert [d.outcome for d in kept] == ["queued", "starting"] or [d.outcome for d in kept] == ["queued", "given"]
        assert kept[1].sentence.startswith("Your turn: desktop desktops-1 is")
        assert kept[1].candidates["members"][0]["reason"].endswith(": chosen")
    with world.tx() as tx:
        broker.leave_queue(tx, user_id=carol[0], lease_id=waits[1].lease.id, now=world.clock.now())
    assert lease_of(world, carol).state == "ended"


def test_warned_expired_grace_returned_reset(world: Installation) -> None:
    pool_id = world.add_pool(size=1, lease_s=600, warn_s=120, grace_s=30)
    alice = world.a_user("alice", on=[pool_id])
    lease = until_ready(world, alice, pool_id).lease
    seen = []

    def watch(tx: Any) -> bool:
        state = tx.get(Lease, lease.id).state
        if not seen or seen[-1][0] != state:
            seen.append((state, world.clock.now()))
        return state == "ended"

    world.run_until(watch, "the end", limit_s=1000, step_s=4)
    assert [state for state, _ in seen] == ["active", "expiring", "grace", "returning", "ended"]
    at = {state: (time - lease.ends_at).total_seconds() for state, time in seen}
    assert -120 <= at["expiring"] <= -112 and 0 <= at["grace"] <= 8 and 30 <= at["returning"] <= 38
    assert told(world, "lease.warn") and told(world, "lease.expire")
    assert lease_of(world, alice).end_reason == "expired"
    world.run_until(lambda tx: states(tx, pool_id) == {"ready": 1}, "reset")


def test_what_should_have_ended_during_an_outage_ends_at_once_after_it(world: Installation) -> None:
    pool_id = world.add_pool(size=1, lease_s=600)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    lease = until_ready(world, alice, pool_id).lease
    connect(world, bob, pool_id)
    world.clock.sleep(5 * 3600)
    world.tick()
    assert lease_of(world, alice).state == "returning"
    until_ready(world, bob, pool_id)
    assert lease_of(world, alice).end_reason == "expired" and lease.id == lease_of(world, alice).id


def test_a_guest_that_hangs_is_powered_off(world: Installation) -> None:
    pool_id = world.add_pool(size=1, shutdown_s=5)
    alice = world.a_user("alice", on=[pool_id])
    ready = until_ready(world, alice, pool_id)
    world.sim.do(f"vm {ready.vm_name} hangs")
    give_back(world, alice, ready.lease)
    world.run_until(lambda tx: states(tx, pool_id) == {"ready": 1}, "reset all the same")
    assert lease_of(world, alice).state == "ended"


def test_given_back_while_it_starts(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice = world.a_user("alice", on=[pool_id])
    connect(world, alice, pool_id)
    world.run_until(lambda tx: lease_of(world, alice).state == "starting", "starting")
    world.tick(0.1)
    give_back(world, alice, lease_of(world, alice))
    world.run_until(lambda tx: lease_of(world, alice).state == "ended", "over")
    world.run_until(lambda tx: states(tx, pool_id) == {"ready": 1}, "free again")


def test_extending(world: Installation) -> None:
    pool_id = world.add_pool(size=1, lease_s=600, extensions=1, extend_s=300)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    lease = until_ready(world, alice, pool_id).lease
    with world.tx() as tx:
        end = broker.extend(tx, user_id=alice[0], lease_id=lease.id, now=world.clock.now()).ends_at
    assert (end - lease.ends_at).total_seconds() == 300
    with world.tx() as tx, pytest.raises(Impossible, match="has been extended once already"):
        broker.extend(tx, user_id=alice[0], lease_id=lease.id, now=world.clock.now())
    with world.tx() as tx:
        submit(tx, EditPool(pool_id, extensions=5), SYSTEM, world.clock.now())
    connect(world, bob, pool_id)
    with world.tx() as tx, pytest.raises(Impossible, match="1 person is waiting"):
        broker.extend(tx, user_id=alice[0], lease_id=lease.id, now=world.clock.now())
    with world.tx() as tx, pytest.raises(NotFound):
        broker.extend(tx, user_id=bob[0], lease_id=lease.id, now=world.clock.now())


def test_an_entitlement_taken_away_ends_the_lease(world: Installation) -> None:
    pool_id = world.add_pool(size=2)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    until_ready(world, alice, pool_id)
    with world.tx() as tx:
        tx.execute(sa.delete(Permission).where(Permission.user_id == alice[0]))
    world.tick()
    assert lease_of(world, alice).state == "returning" and lease_of(world, alice).end_reason == "entitlement_ended"
    with world.tx() as tx, pytest.raises(NotFound):
        broker.connect(
            tx, user_id=alice[0], session_id=alice[1], desktop_id=pool_id, protocol=None, client="browser",
            now=world.clock.now(),
        )  # fmt: skip
    assert connect(world, bob, pool_id).state in ("queued", "starting")


def test_a_lease_never_runs_past_the_entitlement(world: Installation) -> None:
    pool_id = world.add_pool(size=1, lease_s=3600)
    alice = world.a_user("alice")
    with world.tx() as tx:
        until = world.clock.now() + timedelta(minutes=20)
        a_permission(tx, tx.get(User, alice[0]), tx.get(Pool, pool_id), valid_until=until)
    lease = until_ready(world, alice, pool_id).lease
    assert lease.ends_at == until
    with world.tx() as tx, pytest.raises(Impossible, match="your right to this pool ends"):
        broker.extend(tx, user_id=alice[0], lease_id=lease.id, now=world.clock.now())


def test_a_desktop_that_does_not_boot_is_set_aside_and_the_person_gets_another(world: Installation) -> None:
    pool_id = world.add_pool(size=3)
    alice = world.a_user("alice", on=[pool_id])
    world.sim.do("vm desktops-1 boot_fails")
    ready = until_ready(world, alice, pool_id)
    assert ready.vm_name == "desktops-2"
    with world.tx() as tx:
        broken = tx.scalars(sa.select(PoolMember).where(PoolMember.state == "broken")).one()
        assert "did not boot within" in broken.why
        assert tx.get(Lease, ready.lease.id).attempts == 1
    assert told(world, "lease.requeue")[0].startswith("Desktop desktops-1 failed alice: VM desktops-1 did not boot")
    world.sim.do("vm desktops-1 boots")
    with world.tx() as tx:
        submit(tx, RepairMember(broken.id), SYSTEM, world.clock.now())
    world.run_until(lambda tx: tx.get(PoolMember, broken.id).state == "ready", "repaired")
    assert member_of(world, broken.vm_id).why == ""


def test_nothing_boots_and_the_person_is_told(world: Installation) -> None:
    pool_id = world.add_pool(size=5)
    alice = world.a_user("alice", on=[pool_id])
    for n in range(1, 6):
        world.sim.do(f"vm desktops-{n} start_fails")
    connect(world, alice, pool_id)
    world.run_until(lambda tx: lease_of(world, alice).state == "ended", "an answer")
    lease = lease_of(world, alice)
    assert lease.end_reason == "failed" and lease.why.startswith("3 desktops in a row failed. The last one said: VM desktops-")
    with world.tx() as tx:
        assert states(tx, pool_id) == {"broken": 3}


def test_all_set_aside_and_the_person_is_told(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    world.sim.do("vm desktops-1 start_fails")
    connect(world, alice, pool_id)
    world.run_until(lambda tx: lease_of(world, alice).state == "ended", "an answer")
    assert "all of them have been set aside" in lease_of(world, alice).why
    answer = connect(world, bob, pool_id)
    assert answer.state == "refused" and answer.refusal.code == "no_working_desktop"
    with world.tx() as tx:
        kept = tx.scalars(sa.select(Decision).where(Decision.user_id == bob[0])).one()
        assert kept.outcome == "refused" and kept.lease_id is None
        assert kept.candidates["members"][0]["reason"].startswith("set aside: VM desktops-1 could not be started")


def test_no_room_on_any_host_is_said_and_waited_for(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice = world.a_user("alice", on=[pool_id])
    with world.tx() as tx:
        tx.execute(sa.update(Host).values(memory_mib=100))
    world.sim.host("alpha").memory_mib = 100
    connect(world, alice, pool_id)
    world.run_until(lambda tx: tx.get(Pool, pool_id).trouble, "trouble is told")
    answer = connect(world, alice, pool_id)
    assert answer.state == "queued" and answer.sentence == (
        "No host that is up has enough free memory for another desktop. It goes on by itself as soon as that is over. "
        "You are next."
    )
    before = world.live_tasks()
    world.run_for(30)
    assert world.live_tasks() == before == 0 and len(told(world, "pool.trouble")) == 1
    with world.tx() as tx:
        assert not tx.scalars(sa.select(Task)).all()  # nothing was tried
    world.sim.host("alpha").memory_mib = 4096
    assert until_ready(world, alice, pool_id).lease.attempts == 0
    with world.tx() as tx:
        assert tx.get(Pool, pool_id).trouble == ""


def test_full_storage_is_said_and_tried_again(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice = world.a_user("alice", on=[pool_id])
    path = next(iter(world.sim.host("alpha").domains))
    world.sim.do(f"storage {path} full")
    connect(world, alice, pool_id)
    world.run_until(lambda tx: tx.get(Pool, pool_id).trouble, "trouble is told")
    assert connect(world, alice, pool_id).sentence == (
        "Storage domain alpha-disks is full. It goes on by itself as soon as that is over. You are next."
    )
    world.run_for(30)
    with world.tx() as tx:
        assert not states(tx, pool_id) and tx.scalar(sa.select(sa.func.count()).select_from(Task)) < 2
        assert not tx.scalars(sa.select(Vm)).all()
    world.sim.do(f"storage {path} ok")
    until_ready(world, alice, pool_id)


def test_a_desktop_that_dies_under_its_holder_is_replaced(world: Installation) -> None:
    pool_id = world.add_pool(size=2, spares=1)
    alice = world.a_user("alice", on=[pool_id])
    ready = until_ready(world, alice, pool_id)
    world.run_until(lambda tx: states(tx, pool_id).get("spare") == 1, "a spare")
    world.sim.do(f"vm {ready.vm_name} crash")
    world.run_until(lambda tx: tx.get(Lease, ready.lease.id).vm_id not in (None, ready.vm_id), "another desktop")
    lease = lease_of(world, alice)
    assert lease.id == ready.lease.id
    assert lease.ends_at == ready.lease.ends_at  # the time goes on
    assert "went down by itself" in told(world, "lease.requeue")[0]
    again = until_ready(world, alice, pool_id)
    assert again.vm_id != ready.vm_id and again.lease.id == ready.lease.id
    world.run_until(lambda tx: states(tx, pool_id) == {"leased": 1, "spare": 1}, "the dead one is as new")


def test_what_the_holder_may_do(world: Installation) -> None:
    pool_id = world.add_pool(size=2, rights=["start", "shutdown", "reset"])
    alice = world.a_user("alice", on=[pool_id])
    ready = until_ready(world, alice, pool_id)

    def act(verb: str) -> str:
        with world.tx() as tx:
            return broker.act(tx, user_id=alice[0], desktop_id=pool_id, verb=verb, now=world.clock.now()).sentence

    assert act("shutdown") == "Desktop desktops-1 is shutting down."
    world.settle()
    world.run_for(5)
    lease = lease_of(world, alice)
    assert lease.state == "active" and lease.vm_id == ready.vm_id  # switched off by its holder is not broken
    with world.tx() as tx:
        [card] = broker.desktops(tx, alice[0], world.clock.now())
        assert card.state == "off" and "start" in card.actions and "shutdown" not in card.actions
    assert act("start") == "Desktop desktops-1 is starting."
    again = until_ready(world, alice, pool_id)
    assert again.vm_id == ready.vm_id
    assert act("reset").startswith("You get a fresh desktop")
    world.run_until(lambda tx: lease_of(world, alice).state == "active", "a fresh one")
    assert lease_of(world, alice).id == ready.lease.id and lease_of(world, alice).ends_at == ready.lease.ends_at
    with pytest.raises(Denied, match="You may not stop this desktop; possible: start, shutdown, reset"):
        act("stop")
    mallory = world.a_user("mallory", on=[pool_id])
    with world.tx() as tx, pytest.raises(NotFound):
        broker.act(tx, user_id=mallory[0], desktop_id=again.vm_id, verb="shutdown", now=world.clock.now())


def test_a_silent_host_is_said_and_another_desktop_given_if_there_is_one(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice = world.a_user("alice", on=[pool_id])
    ready = until_ready(world, alice, pool_id)
    world.sim.do("network alpha off")
    world.run_until(lambda tx: tx.get(Vm, ready.vm_id).state == "unknown", "the host is lost")
    answer = connect(world, alice, pool_id)
    assert answer.state == "starting" and "its host does not answer" in answer.sentence and answer.estimate_s is None
    assert lease_of(world, alice).state == "active"  # no time-out concludes that it is off
    world.sim.do("network alpha on")
    assert until_ready(world, alice, pool_id).vm_id == ready.vm_id


def test_an_administrator_takes_a_lease_back(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice = world.a_user("alice", on=[pool_id])
    ready = until_ready(world, alice, pool_id)
    with world.tx() as tx:
        submit(tx, ReclaimLease(ready.lease.id, "The room is needed."), SYSTEM, world.clock.now())
    assert (lease_of(world, alice).state, lease_of(world, alice).why) == ("returning", "The room is needed.")
    world.run_until(lambda tx: states(tx, pool_id) == {"ready": 1}, "free again")
    with world.tx() as tx, pytest.raises(Impossible, match="over already"):
        submit(tx, ReclaimLease(ready.lease.id), SYSTEM, world.clock.now())


def test_shrinking_takes_free_members_first_and_leased_ones_when_they_come_back(world: Installation) -> None:
    pool_id = world.add_pool(size=3, spares=2)
    alice = world.a_user("alice", on=[pool_id])
    ready = until_ready(world, alice, pool_id)
    world.run_until(lambda tx: states(tx, pool_id) == {"leased": 1, "spare": 2}, "all there")
    with world.tx() as tx:
        submit(tx, EditPool(pool_id, size=1, spares=0), SYSTEM, world.clock.now())
    world.run_until(lambda tx: states(tx, pool_id) == {"leased": 1}, "the free ones are gone")
    assert lease_of(world, alice).vm_id == ready.vm_id
    assert told(world, "pool.edited") == ["Leasehold changed pool Desktops: size 3 → 1, spares 2 → 0."]
    give_back(world, alice, ready.lease)
    world.run_until(lambda tx: states(tx, pool_id) == {"ready": 1}, "one stays")


def test_removing_a_pool(world: Installation) -> None:
    pool_id = world.add_pool(size=3, spares=1)
    alice, bob, carol, dora = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob", "carol", "dora"))
    ready = until_ready(world, alice, pool_id)
    for who in (bob, carol, dora):
        connect(world, who, pool_id)
    world.run_for(3)
    with world.tx() as tx, pytest.raises(Impossible, match="4 leases of pool Desktops are still live"):
        submit(tx, RemovePool(pool_id), SYSTEM, world.clock.now())
    with world.tx() as tx:
        submit(tx, RemovePool(pool_id, force=True), SYSTEM, world.clock.now())
    assert lease_of(world, alice).state == "returning" and lease_of(world, dora).state == "ended"
    assert connect(world, dora, pool_id).refusal.code == "pool_removing"
    world.run_until(lambda tx: tx.get(Pool, pool_id) is None, "the pool is gone")
    with world.tx() as tx:
        assert not tx.scalars(sa.select(Vm)).all() and tx.get(Lease, ready.lease.id) is None
        assert not tx.scalars(sa.select(Permission)).all()
    assert told(world, "pool.removed") == ["Pool Desktops was removed."]
    assert not world.sim.host("alpha").runs


def test_a_vm_of_ones_own_and_auto_launch(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice, bob = world.a_user("alice", auto_launch=True), world.a_user("bob", auto_launch=True, on=[pool_id])
    with world.tx() as tx:
        vm = a_vm(tx, "w1")
        a_permission(tx, tx.get(User, alice[0]), vm)
        a_permission(tx, tx.get(User, bob[0]), vm)
    assert until_ready(world, alice, vm.id).ticket.lease_id is None
    with world.tx() as tx:
        assert [d.name for d in broker.desktops(tx, bob[0], world.clock.now())] == ["Desktops", "w1"]
        [card] = broker.desktops(tx, alice[0], world.clock.now())
        assert (card.kind, card.state, card.actions) == ("vm", "running", ("connect", "shutdown", "stop"))
        session = tx.get(WebSession, alice[1])
        assert broker.auto_launch(tx, session, world.clock.now()) == vm.id
        assert broker.auto_launch(tx, session, world.clock.now()) is None
        assert broker.auto_launch(tx, tx.get(WebSession, bob[1]), world.clock.now()) is None


def test_two_managers_at_once(world: Installation) -> None:
    """Their loops and runners work on the same rows at the same time; everybody gets one desktop, nobody two."""
    pool_id = world.add_pool(size=4, spares=2)
    people = [world.a_user(f"p{n}", on=[pool_id]) for n in range(6)]
    stop = threading.Event()
    failed: list[BaseException] = []

    def manage(name: str) -> None:
        runner, loops = world.new_runner(name), [LeaseLoop(world.clock), SpareLoop(world.clock)]
        while not stop.is_set():
            try:
                for loop in loops:
                    loops_run.tick(world.sessions, loop)
                runner.step()
            except sa.exc.OperationalError as deadlock:  # one of two is chosen by PostgreSQL and tries again
                if "deadlock" not in str(deadlock):
                    failed.append(deadlock)
                    raise
            except BaseException as wrong:
                failed.append(wrong)
                raise

    managers = [threading.Thread(target=manage, args=(f"m{n}",)) for n in range(2)]
    for manager in managers:
        manager.start()
    try:
        for who in people:
            connect(world, who, pool_id)
        world.run_until(lambda tx: live(tx) == 4 and states(tx, pool_id).get("leased") == 4, "four have one", step_s=0.2)
        for who in people[:4]:
            give_back(world, who, lease_of(world, who))
        for who in people[4:]:
            until_ready(world, who, pool_id)
    finally:
        stop.set()
        for manager in managers:
            manager.join()
    assert not failed
    with world.tx() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(PoolMember)) == 4


def live(tx: Any) -> int:
    return tx.scalar(sa.select(sa.func.count()).where(Lease.state == "active"))
