"""Versions of a template rolled out to a pool: proved first, in batches, at once, on return; halted and rolled back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.errors import Impossible
from backend.storage.models import Disk, StorageDomain
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.runner import Question
from backend.tasks.submit import submit
from backend.vms.commands.templates import RemoveTemplate
from backend.vms.models import Template, Vm
from pools import facts
from pools.models import Lease, Pool, PoolMember, Rollout
from pools.rollout_commands import CancelRollout, HaltRollout, ResumeRollout, RollBack, RollOut
from sim.installation import Installation
from sim.make import a_template
from tests.pools.test_story import connect, give_back, states, told, until_ready


def next_version(world: Installation, pool_id: UUID, **fields: Any) -> UUID:
    """The next version of what the pool is made from."""
    with world.tx() as tx:
        pool = tx.get(Pool, pool_id)
        old, domain = tx.get(Template, pool.template_id), tx.get(StorageDomain, pool.domain_id)
        new = a_template(tx, old.name, domain=domain, version=old.version + 1, **{"boot_timeout_s": 20, **fields})
        return new.id


def do(world: Installation, command: Any) -> Task:
    with world.tx() as tx:
        return submit(tx, command, SYSTEM, world.clock.now())


def roll_out(world: Installation, pool_id: UUID, template_id: UUID, **how: Any) -> UUID:
    return UUID(do(world, RollOut(pool_id, template_id, **how)).result["rollout_id"])


def rollout(world: Installation, id: UUID) -> Rollout:
    with world.tx() as tx:
        return tx.get(Rollout, id)


def versions(world: Installation, pool_id: UUID) -> list[int]:
    with world.tx() as tx:
        of = sa.select(Template.version).join(Vm, Vm.template_id == Template.id)
        return sorted(tx.scalars(of.where(Vm.pool_id == pool_id)))


def until(world: Installation, id: UUID, state: str) -> Rollout:
    world.run_until(lambda tx: tx.get(Rollout, id).state == state, f"the rollout is {state}", limit_s=300)
    return rollout(world, id)


def until_spares(world: Installation, pool_id: UUID, count: int) -> None:
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": count}, "the spares")


def test_a_version_is_proved_then_rolled_out_in_batches_that_never_exceed_the_limit(world: Installation) -> None:
    pool_id = world.add_pool(size=6, spares=6)
    until_spares(world, pool_id, 6)
    alice = world.a_user("alice", on=[pool_id])
    held = connect(world, alice, pool_id)
    new = next_version(world, pool_id, memory_mib=512)
    id = roll_out(world, pool_id, new, mode="batches", batch=2)
    most, unproved = 0, []

    def watch(tx: Any) -> bool:
        nonlocal most
        out = tx.scalar(sa.select(sa.func.count()).select_from(PoolMember).where(PoolMember.state == "resetting"))
        most = max(most, out)
        if not tx.get(Rollout, id).proved:
            unproved.append(out)
        return tx.get(Rollout, id).done == 5

    world.run_until(watch, "the free ones are of the new version")
    assert most == 2 and max(unproved) == 1
    assert versions(world, pool_id) == [1, 2, 2, 2, 2, 2] and rollout(world, id).state == "running"
    with world.tx() as tx:
        assert tx.get(Lease, held.lease.id).state == "active", "nobody is disturbed"
    give_back(world, alice, held.lease)
    got = until(world, id, "succeeded")
    assert (got.done, got.total, got.failures, got.ended_at is not None) == (6, 6, 0, True)
    with world.tx() as tx:
        assert set(tx.scalars(sa.select(Vm.memory_mib).where(Vm.pool_id == pool_id))) == {512}
        backing = set(tx.scalars(sa.select(Disk.backing_id).join(Vm, Vm.id == Disk.vm_id).where(Vm.pool_id == pool_id)))
        assert backing == {tx.scalar(sa.select(Disk.id).where(Disk.template_id == new))}
        assert tx.get(Pool, pool_id).template_id == new
    assert len(told(world, "rollout.proved")) == len(told(world, "rollout.succeed")) == 1
    assert told(world, "rollout.begun")[0].endswith("2 at a time, in place of " + label(world, pool_id, 1) + ".")


def label(world: Installation, pool_id: UUID, version: int) -> str:
    with world.tx() as tx:
        return f"{tx.get(Template, tx.get(Pool, pool_id).template_id).name}, version {version}"


def image(world: Installation, template_id: UUID, how: str) -> None:
    """Whether the version's image boots."""
    with world.tx() as tx:
        world.sim.do(f"image {tx.scalar(sa.select(Disk.path).where(Disk.template_id == template_id))} {how}")


def test_a_broken_version_halts_before_the_others_follow_and_is_rolled_back(world: Installation) -> None:
    pool_id = world.add_pool(size=4, spares=4, boot_timeout_s=10)
    until_spares(world, pool_id, 4)
    new = next_version(world, pool_id, boot_timeout_s=6)
    image(world, new, "boot_fails")
    id = roll_out(world, pool_id, new, mode="at_once")
    world.run_until(lambda tx: tx.get(Rollout, id).state == "halted", "it halts")
    got = rollout(world, id)
    assert got.failures == 1 and not got.proved
    assert got.why.startswith(f"1 desktop of {label(world, pool_id, 2)} failed. The last one said: ")
    assert got.why.endswith(" Roll back, or resume.")
    assert versions(world, pool_id) == [1, 1, 1, 2], "one tried it, the others were left alone"
    world.run_for(20)
    with world.tx() as tx:
        assert states(tx, pool_id) == {"spare": 3, "broken": 1}
    do(world, RollBack(id))
    world.run_until(lambda tx: tx.get(Rollout, id).state == "rolled_back", "it is rolled back")
    assert versions(world, pool_id) == [1, 1, 1, 1]
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 4}, "all of them work")
    assert len(told(world, "rollout.halt")) == len(told(world, "rollout.rolled_back")) == 1


def test_more_failures_are_allowed_and_resuming_allows_as_many_again(world: Installation) -> None:
    pool_id = world.add_pool(size=3, spares=3, boot_timeout_s=10)
    until_spares(world, pool_id, 3)
    new = next_version(world, pool_id, boot_timeout_s=6)
    image(world, new, "boot_fails")
    id = roll_out(world, pool_id, new, max_failures=2)
    world.run_until(lambda tx: tx.get(Rollout, id).state == "halted", "it halts")
    assert rollout(world, id).failures == 2 and versions(world, pool_id) == [1, 2, 2]
    do(world, ResumeRollout(id))
    image(world, new, "boots")
    got = until(world, id, "succeeded")
    assert got.failures == 2 and versions(world, pool_id) == [2, 2, 2]


def test_at_once_people_are_warned_and_get_a_desktop_of_the_new_version(world: Installation) -> None:
    pool_id = world.add_pool(size=2, grace_s=30)
    alice, bob = world.a_user("alice", on=[pool_id]), world.a_user("bob", on=[pool_id])
    first, second = until_ready(world, alice, pool_id), until_ready(world, bob, pool_id)
    new = next_version(world, pool_id)
    id = roll_out(world, pool_id, new, mode="at_once", message="Security updates.")

    def lease(tx: Any, of: Any) -> Lease:
        return tx.get(Lease, of.lease.id)

    world.run_until(lambda tx: lease(tx, first).state == "grace", "somebody is warned")
    with world.tx() as tx:
        assert lease(tx, first).why.startswith("Security updates. Save your work now")
        assert lease(tx, second).state == "active", "the others are left alone until the version has booted"
    world.run_until(lambda tx: lease(tx, first).state == "ended", "the first is over")
    with world.tx() as tx:
        assert lease(tx, first).end_reason == "new_version"
    world.run_until(lambda tx: tx.get(Rollout, id).proved, "it boots")
    world.run_until(lambda tx: lease(tx, second).state == "grace", "then the others are told")
    got = until(world, id, "succeeded")
    assert (got.done, got.total) == (2, 2) and versions(world, pool_id) == [2, 2]
    again = until_ready(world, alice, pool_id)
    with world.tx() as tx:
        assert tx.get(Vm, again.vm_id).template_id == new


def test_a_full_pool_in_use_is_moved_on_return_and_who_asks_meanwhile_gets_a_desktop(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice, bob = world.a_user("alice", on=[pool_id]), world.a_user("bob", on=[pool_id])
    held = until_ready(world, alice, pool_id)
    id = roll_out(world, pool_id, new := next_version(world, pool_id))
    assert connect(world, bob, pool_id).state == "queued"
    world.run_for(10)
    assert rollout(world, id).done == 0 and not rollout(world, id).proved
    give_back(world, alice, held.lease)
    got = until_ready(world, bob, pool_id)
    with world.tx() as tx:
        assert tx.get(Vm, got.vm_id).template_id == new
    until(world, id, "succeeded")


def test_an_empty_pool_makes_one_desktop_to_prove_the_version(world: Installation) -> None:
    pool_id = world.add_pool(size=2)
    id = roll_out(world, pool_id, next_version(world, pool_id))
    until(world, id, "succeeded")
    assert versions(world, pool_id) == [2]


def test_desktops_made_meanwhile_are_of_the_version_once_it_is_proved(world: Installation) -> None:
    pool_id = world.add_pool(size=3, spares=1)
    until_spares(world, pool_id, 1)
    alice = world.a_user("alice", on=[pool_id])
    connect(world, alice, pool_id)
    until_spares_more(world, pool_id)
    id = roll_out(world, pool_id, next_version(world, pool_id))
    world.run_until(lambda tx: tx.get(Rollout, id).proved, "proved")
    bob = world.a_user("bob", on=[pool_id])
    until_ready(world, bob, pool_id)
    world.run_until(lambda tx: facts.counts(tx, pool_id).get("spare") == 1, "one more is made")
    assert versions(world, pool_id) == [1, 2, 2]


def until_spares_more(world: Installation, pool_id: UUID) -> None:
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1, "leased": 1}, "the next spare")


def test_halt_lets_nothing_more_move_and_cancel_ends_it_there(world: Installation) -> None:
    pool_id = world.add_pool(size=4, spares=4)
    until_spares(world, pool_id, 4)
    with world.tx() as tx:
        old = tx.get(Pool, pool_id).template_id
    new = next_version(world, pool_id)
    id = roll_out(world, pool_id, new, mode="batches", batch=1)
    world.run_until(lambda tx: tx.get(Rollout, id).done >= 2, "two have moved")
    do(world, HaltRollout(id))
    world.settle()
    done = rollout(world, id).done
    world.run_for(20)
    assert rollout(world, id).done == done < 4
    with pytest.raises(Impossible, match="is being rolled out"):
        do(world, RemoveTemplate(new) if not versions(world, pool_id).count(2) else RollOut(pool_id, new))
    do(world, CancelRollout(id))
    with world.tx() as tx:
        assert tx.get(Pool, pool_id).template_id == old
    again = roll_out(world, pool_id, new)
    assert until(world, again, "succeeded").done == 4


def test_what_people_keep_is_lost_only_when_it_is_said_so(world: Installation) -> None:
    pool_id = world.add_pool(size=1, spares=1, stateless=False)
    until_spares(world, pool_id, 1)
    new = next_version(world, pool_id)
    with pytest.raises(Impossible, match="keep what people change"):
        roll_out(world, pool_id, new)
    until(world, roll_out(world, pool_id, new, force=True), "succeeded")
    with pytest.raises(Impossible, match="already"):
        roll_out(world, pool_id, new, force=True)


def test_a_host_without_room_halts_nothing(world: Installation) -> None:
    pool_id = world.add_pool(size=2)
    alice = world.a_user("alice", on=[pool_id])
    give_back(world, alice, until_ready(world, alice, pool_id).lease)
    world.run_until(lambda tx: states(tx, pool_id) == {"ready": 1}, "it is back")
    id = roll_out(world, pool_id, next_version(world, pool_id, memory_mib=10_000_000))
    world.run_for(60)
    got = rollout(world, id)
    assert (got.state, got.failures, got.proved) == ("running", 0, False)
    with world.tx() as tx:
        tx.execute(sa.update(Vm).values(memory_mib=256))
        tx.execute(sa.update(Template).values(memory_mib=256))
    until(world, id, "succeeded")


def test_managers_that_die_between_any_two_steps_lose_nothing(world: Installation) -> None:
    """Each runner is gone after one step or within it; each loop's round is undone half of the time."""
    pool_id = world.add_pool(size=3, spares=2)
    until_spares(world, pool_id, 2)
    alice = world.a_user("alice", on=[pool_id])
    connect(world, alice, pool_id)
    id = roll_out(world, pool_id, next_version(world, pool_id), mode="at_once")
    for n in range(400):
        world.runner = world.new_runner(f"manager-{n}")
        for loop in world.loops:
            with world.sessions() as tx:
                loop.apply(tx, loop.gather(loop.read(tx)))
                tx.rollback() if n % 2 else tx.commit()
        task_id, claim = world.runner.claim()
        if task_id is not None and n % 3:  # each third is gone with what it has claimed, each third with what it has asked
            planned = world.runner.plan(task_id, claim)
            if isinstance(planned, Question) and n % 3 == 1:
                world.runner.record(task_id, claim, planned.uid, world.runner.ask(planned))
        world.clock.sleep(31 if n % 5 == 0 else 1)  # past the beat of the one that died
        for machine in world.sim.machines.values():
            machine.host.wake()
        if rollout(world, id).state == "succeeded":
            break
    assert rollout(world, id).state == "succeeded", world.story()
    assert set(versions(world, pool_id)) == {2} and rollout(world, id).failures == 0
