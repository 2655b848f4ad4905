"""A pool's life from the first desktop to the last, on simulated hosts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from backend.vms.models import Vm
from broker import connect as broker
from pools import facts
from pools.models import Lease
from tests.world import World


def states(tx: Any, pool_id: UUID) -> dict[str, int]:
    return {k: v for k, v in facts.counts(tx, pool_id).items() if v}


def connect(world: World, who: tuple[UUID, UUID], pool_id: UUID, **more: Any) -> broker.Answer:
    with world.tx() as tx:
        return broker.connect(
            tx, user_id=who[0], session_id=who[1], desktop_id=pool_id, now=world.clock.now(),
            **{"protocol": None, "client": "browser", **more},
        )  # fmt: skip


def test_spares_are_made_and_kept(world: World) -> None:
    pool_id = world.add_pool(size=4, spares=1)
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1}, "one spare")
    world.run_for(5)
    with world.tx() as tx:
        assert states(tx, pool_id) == {"spare": 1}


def test_a_spare_is_given_at_once_with_a_ticket_and_replaced(world: World) -> None:
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
