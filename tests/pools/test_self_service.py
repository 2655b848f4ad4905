"""What holders do with their desktops within the pool's rights: another one, a reboot, snapshots."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.errors import Denied, Impossible, Invalid, NotFound
from backend.vms.models import Vm, VmSnapshot
from broker import connect as broker
from pools.models import Decision, Lease
from pools.policy import RIGHTS
from sim.installation import Installation
from tests.pools.test_story import connect, lease_of, states, told, until_ready

ALL = list(RIGHTS)


def do(world: Installation, who: tuple[UUID, UUID], pool_id: UUID, verb: str, **more: Any) -> broker.Done:
    with world.tx() as tx:
        return broker.act(tx, user_id=who[0], desktop_id=pool_id, verb=verb, now=world.clock.now(), **more)


def offered(world: Installation, who: tuple[UUID, UUID]) -> broker.Desktop:
    with world.tx() as tx:
        (desktop,) = broker.desktops(tx, who[0], world.clock.now())
        return desktop


def test_another_desktop_for_the_rest_of_the_time(world: Installation) -> None:
    pool_id = world.add_pool(size=3, spares=1, rights=ALL)
    alice = world.a_user("alice", on=[pool_id])
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1}, "a spare")
    first = until_ready(world, alice, pool_id)
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1, "leased": 1}, "the next spare")
    assert "swap" in offered(world, alice).actions
    done = do(world, alice, pool_id, "swap")
    assert done.sentence == "You get desktop desktops-2 in place of desktops-1. Your time goes on."
    second = until_ready(world, alice, pool_id)
    assert (second.lease.id, second.lease.ends_at, second.vm_name) == (first.lease.id, first.lease.ends_at, "desktops-2")
    world.run_until(lambda tx: tx.get(Vm, first.vm_id).state == "down", "the old one is off")
    world.run_until(lambda tx: states(tx, pool_id).get("resetting") is None, "and made as new")
    with world.tx() as tx:
        kept = tx.scalars(sa.select(Decision).where(Decision.outcome == "swapped")).one()
        assert kept.candidates["members"][0]["reason"] == "spare, free and up: chosen"
    assert told(world, "lease.swap") == ["alice gave desktop desktops-1 of pool Desktops back for another one."]


def test_who_cannot_have_another_one_keeps_theirs_and_reads_why(world: Installation) -> None:
    pool_id = world.add_pool(size=1, rights=ALL)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    first = until_ready(world, alice, pool_id)
    done = do(world, alice, pool_id, "swap")
    assert isinstance(done.refusal, Impossible) and done.sentence == "You keep desktop desktops-1: no other desktop is free now."
    connect(world, bob, pool_id)
    assert do(world, alice, pool_id, "swap").sentence == "You keep desktop desktops-1: others wait for a desktop now."
    assert lease_of(world, alice).vm_id == first.vm_id
    with world.tx() as tx:
        assert tx.scalars(sa.select(Decision.outcome).order_by(Decision.at)).all().count("refused") == 2


def test_nobody_is_overtaken_by_who_swaps(world: Installation) -> None:
    """A desktop comes free while somebody waits: it is theirs, though a holder asks first."""
    pool_id = world.add_pool(size=2, rights=ALL)
    alice, bob, carol = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob", "carol"))
    until_ready(world, alice, pool_id)
    held = until_ready(world, bob, pool_id)
    connect(world, carol, pool_id)
    with world.tx() as tx:
        broker.give_back(tx, user_id=bob[0], lease_id=held.lease.id, now=world.clock.now())
    for _ in range(30):
        assert do(world, alice, pool_id, "swap").refusal is not None
        world.tick()
        if lease_of(world, carol).state != "queued":
            break
    assert lease_of(world, carol).vm_id == held.vm_id


def test_reboot_goes_on_with_the_same_desktop_and_lease(world: Installation) -> None:
    pool_id = world.add_pool(size=1, rights=ALL)
    alice = world.a_user("alice", on=[pool_id])
    first = until_ready(world, alice, pool_id)
    assert do(world, alice, pool_id, "reboot").sentence == "Desktop desktops-1 is rebooting."
    world.run_until(lambda tx: tx.get(Vm, first.vm_id).state != "up", "it reboots")
    world.run_until(lambda tx: tx.get(Vm, first.vm_id).state == "up", "it is up again")
    with world.tx() as tx:
        lease = tx.get(Lease, first.lease.id)
        assert (lease.state, lease.vm_id, lease.attempts) == ("active", first.vm_id, 0)


def test_snapshots_are_taken_gone_back_to_and_lost_with_the_desktop(world: Installation) -> None:
    pool_id = world.add_pool(size=1, rights=ALL)
    alice = world.a_user("alice", on=[pool_id])
    first = until_ready(world, alice, pool_id)
    with pytest.raises(Invalid, match="between 1 and 60"):
        do(world, alice, pool_id, "snapshot", name=" ")
    do(world, alice, pool_id, "snapshot", name="Before")
    world.settle()
    desktop = offered(world, alice)
    (snapshot,) = desktop.snapshots
    assert snapshot.name == "Before" and "go_back" not in desktop.actions and "remove_snapshot" in desktop.actions
    with pytest.raises(Impossible):
        do(world, alice, pool_id, "go_back", snapshot_id=snapshot.id)
    do(world, alice, pool_id, "shutdown")
    world.run_until(lambda tx: tx.get(Vm, first.vm_id).state == "down", "it is off")
    assert "go_back" in offered(world, alice).actions
    do(world, alice, pool_id, "go_back", snapshot_id=snapshot.id)
    world.settle()
    world.run_for(5)
    assert lease_of(world, alice).vm_id == first.vm_id, "off by its holder's wish: it did not die"
    with pytest.raises(NotFound):
        do(world, alice, pool_id, "go_back", snapshot_id=first.vm_id)
    until_ready(world, alice, pool_id)
    with world.tx() as tx:
        broker.give_back(tx, user_id=alice[0], lease_id=first.lease.id, now=world.clock.now())
    world.run_until(lambda tx: states(tx, pool_id) == {"ready": 1}, "it is made as new")
    with world.tx() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(VmSnapshot)) == 0


@pytest.mark.parametrize("verb", ["reboot", "swap", "snapshot", "go_back", "remove_snapshot"])
def test_what_the_pool_does_not_allow_is_refused(world: Installation, verb: str) -> None:
    pool_id = world.add_pool(size=1)
    alice = world.a_user("alice", on=[pool_id])
    until_ready(world, alice, pool_id)
    assert verb not in offered(world, alice).actions
    with pytest.raises(Denied, match="possible: start, shutdown, reset"):
        do(world, alice, pool_id, verb)
