"""Why: every decision is kept, and a lease's story is told in full to administrators and without names to its holder."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.directory import rights
from backend.directory.models import Permission, User
from backend.errors import Impossible, NotFound
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.submit import submit
from broker import connect as broker
from broker.explain import Explanation, explain
from pools.commands import EditPool, ReclaimLease
from pools.models import Decision, Pool
from sim.installation import Installation
from sim.make import a_permission
from tests.pools.test_story import connect, lease_of, until_ready


def told(world: Installation, lease_id: UUID, who: UUID) -> Explanation:
    with world.tx() as tx:
        return explain(tx, lease_id, user_id=who, grants=rights.grants_of(tx, who), now=world.clock.now())


def kept(world: Installation, lease_id: UUID) -> list[tuple[str, str]]:
    with world.tx() as tx:
        rows = sa.select(Decision.outcome, Decision.sentence).where(Decision.lease_id == lease_id).order_by(Decision.at)
        return [tuple(row) for row in tx.execute(rows)]


def keeper(world: Installation, pool_id: UUID) -> UUID:
    who, _ = world.a_user("keeper")
    with world.tx() as tx:
        a_permission(tx, tx.get(User, who), tx.get(Pool, pool_id), role="pool_admin")
    return who


def test_a_lease_taken_back_is_explained_to_each_in_their_way(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    runs = keeper(world, pool_id)
    until_ready(world, alice, pool_id)
    waits = connect(world, bob, pool_id).lease
    with world.tx() as tx:
        lease_id = lease_of(world, alice).id
        submit(tx, ReclaimLease(lease_id, "Fire drill."), Actor(runs, "keeper"), world.clock.now())
    world.run_until(lambda tx: lease_of(world, alice).state == "ended", "it is over")
    full, own = told(world, lease_id, runs), told(world, lease_id, alice[0])
    assert full.sentence == own.sentence == "An administrator took it back. Fire drill."
    assert [m.what for m in full.moments if m.who == "keeper"] == ["lease.reclaimed"]
    assert ("ended", "Fire drill.") in kept(world, lease_id)
    assert "lease.ready" in [m.what for m in own.moments]
    assert "keeper" not in str(own.moments)
    in_full = [c["reason"] for m in told(world, waits.id, runs).moments for c in m.candidates.get("members", ())]
    assert in_full[0] == "leased by alice"
    bobs = told(world, waits.id, bob[0])
    assert "1 desktop was looked at: 1 in use." in str(bobs.moments) and "alice" not in str(bobs.moments)
    with pytest.raises(NotFound):
        told(world, waits.id, alice[0])


def test_an_extension_that_is_refused_is_a_decision(world: Installation) -> None:
    pool_id = world.add_pool(size=1, extensions=0)
    alice = world.a_user("alice", on=[pool_id])
    lease = until_ready(world, alice, pool_id).lease
    with world.tx() as tx, pytest.raises(Impossible) as no:
        broker.extend(tx, user_id=alice[0], lease_id=lease.id, now=world.clock.now())
    with world.tx() as tx:
        broker.extension_refused(tx, user_id=alice[0], lease_id=lease.id, why=no.value.message, now=world.clock.now())
    assert kept(world, lease.id)[-1] == ("not_extended", "Leases of this pool cannot be extended.")


def test_a_call_without_answer_and_a_right_that_ends_are_decisions(world: Installation) -> None:
    pool_id = world.add_pool(size=1, spares=1, call_s=30)
    alice, bob = (world.a_user(name, on=[pool_id]) for name in ("alice", "bob"))
    first = until_ready(world, alice, pool_id).lease
    waits = connect(world, bob, pool_id).lease
    with world.tx() as tx:
        tx.execute(sa.delete(Permission).where(Permission.user_id == alice[0]))
    world.run_until(lambda tx: lease_of(world, bob).state == "ended", "nobody answers")
    assert kept(world, first.id)[-1] == ("ended", "Your right to pool Desktops has ended.")
    assert kept(world, waits.id)[-1] == ("ended", "You did not open your desktop in time; the next person gets it.")


def test_who_may_not_now_is_refused_and_that_is_kept(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    alice = world.a_user("alice", on=[pool_id])
    connect(world, alice, pool_id)
    with world.tx() as tx:
        submit(tx, EditPool(pool_id, extensions=1), SYSTEM, world.clock.now())
        tx.execute(sa.delete(Permission).where(Permission.user_id == alice[0]))
    answer: Any = connect(world, alice, pool_id)
    assert answer.state == "refused" and answer.refusal.code == "entitlement_ended"
    with world.tx() as tx:
        rows = sa.select(Decision.outcome).where(Decision.user_id == alice[0])
        assert "refused" in tx.scalars(rows).all()
