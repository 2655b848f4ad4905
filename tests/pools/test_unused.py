"""Desktops that nobody uses: warned, locked, suspended, given back; on simulated hosts, with consoles as rows tell them."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backend.errors import Invalid
from backend.events import Event
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.models import Vm
from broker import consoles
from broker.models import ConsoleSession, Ticket
from pools.commands import EditPool
from pools.models import Lease
from sim.installation import Installation
from tests.pools.test_kinds import lease_of
from tests.pools.test_story import connect, states


def hold(world: Installation, **policy: Any) -> tuple[UUID, tuple[UUID, UUID]]:
    """A pool with this policy, and alice, who holds its desktop."""
    pool_id = world.add_pool(size=1, spares=1, lease_s=None, **policy)
    alice = world.a_user("alice", on=[pool_id])
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1})
    assert connect(world, alice, pool_id).state == "ready"
    return pool_id, alice


def open_console(world: Installation, who: tuple[UUID, UUID]) -> UUID:
    """A console of her desktop, as the gateway writes it down."""
    with world.tx() as tx:
        lease = tx.scalars(sa.select(Lease).where(Lease.user_id == who[0])).one()
        id, now = uuid4(), world.clock.now()
        ticket = Ticket(user_id=who[0], session_id=who[1], vm_id=lease.vm_id, lease_id=lease.id, protocol="vnc", client="browser",
                        state="redeemed", created_at=now, expires_at=now)  # fmt: skip
        tx.add(ticket)
        tx.flush()
        tx.add(ConsoleSession(
            id=id, ticket_id=ticket.id, user_id=who[0], vm_id=lease.vm_id, lease_id=lease.id, protocol="vnc", client="browser",
            address="192.0.2.1", gateway="gateway", started_at=now, seen_at=now, input_at=now))  # fmt: skip
        return id


def close(world: Installation, id: UUID) -> None:
    with world.tx() as tx:
        assert consoles.end(tx, id, why="The viewer was closed.", now=world.clock.now())


def touch(world: Installation, id: UUID) -> None:
    """The gateway says that somebody pressed a key."""
    with world.tx() as tx:
        consoles.seen(tx, {id: (10, 10)}, [id], world.clock.now())


def happened(world: Installation, code: str) -> list[str]:
    with world.tx() as tx:
        return list(tx.scalars(sa.select(Event.sentence).where(Event.code == code).order_by(Event.id)))


def test_an_idle_holder_is_warned_comes_back_and_at_last_loses_the_desktop(world: Installation) -> None:
    _, alice = hold(world, idle_s=300, idle_action="end")
    console = open_console(world, alice)
    world.run_for(239, step_s=3)
    assert not happened(world, "lease.quiet_soon")
    world.run_until(lambda tx: "Press a key to go on." in lease_of(world, alice).why, limit_s=30)
    with world.tx() as tx:
        shown = tx.scalars(sa.select(Task.args).where(Task.command == "vm.message")).all()
    assert len(shown) == 1 and "Press a key" in shown[0]["text"], "it is told inside the guest too"
    touch(world, console)
    world.run_for(2)
    assert lease_of(world, alice).why == ""
    world.run_for(290, step_s=2)
    assert lease_of(world, alice).state == "active" and len(happened(world, "lease.quiet_soon")) == 2
    world.run_until(lambda tx: lease_of(world, alice).state == "ended", limit_s=60)
    lease = lease_of(world, alice)
    assert (lease.end_reason, lease.why) == ("idle", "Nothing was done for a while, so the desktop went back to its pool.")


def test_a_left_desktop_is_locked_once_and_given_back_later(world: Installation) -> None:
    _, alice = hold(world, idle_s=600, idle_action="end", disconnect_s=20, disconnect_action="lock")
    console = open_console(world, alice)
    world.run_for(60, step_s=2)
    close(world, console)
    world.run_for(60, step_s=2)
    with world.tx() as tx:
        assert len(tx.scalars(sa.select(Task.id).where(Task.command == "vm.lock_guest")).all()) == 1
    close(world, open_console(world, alice))
    world.run_for(40)
    with world.tx() as tx:
        assert len(tx.scalars(sa.select(Task.id).where(Task.command == "vm.lock_guest")).all()) == 2, "once in each absence"
    world.run_until(lambda tx: lease_of(world, alice).state == "ended", limit_s=700, step_s=5)
    assert not happened(world, "lease.quiet_soon"), "nobody was there to be warned"


def test_a_suspended_desktop_stays_its_holders_and_connect_resumes_it(world: Installation) -> None:
    pool_id, alice = hold(world, disconnect_s=0, disconnect_action="suspend")
    close(world, open_console(world, alice))
    vm_id = lease_of(world, alice).vm_id
    world.run_until(lambda tx: tx.get(Vm, vm_id).state == "suspended", limit_s=60)
    world.run_for(60, step_s=2)
    assert lease_of(world, alice).state == "active", "it did not die: it is asleep"
    assert connect(world, alice, pool_id).state == "starting"
    world.run_until(lambda tx: tx.get(Vm, vm_id).state == "up", limit_s=60)
    assert connect(world, alice, pool_id).state == "ready"
    open_console(world, alice)
    world.run_for(30)
    with world.tx() as tx:
        assert tx.get(Vm, vm_id).state == "up"


def test_a_left_desktop_is_shut_down_and_a_lease_ended_under_a_suspended_one_is_reset(world: Installation) -> None:
    pool_id, alice = hold(world, disconnect_s=0, disconnect_action="shutdown")
    close(world, open_console(world, alice))
    vm_id = lease_of(world, alice).vm_id
    world.run_until(lambda tx: tx.get(Vm, vm_id).state == "down", limit_s=60)
    world.run_for(20)
    assert lease_of(world, alice).state == "active"
    with world.tx() as tx:
        submit(tx, EditPool(pool_id, disconnect_action="suspend", idle_s=120, idle_action="end"), SYSTEM, world.clock.now())
    assert connect(world, alice, pool_id).state == "starting"
    world.run_until(lambda tx: tx.get(Vm, vm_id).state == "up", limit_s=60)
    close(world, open_console(world, alice))
    world.run_until(lambda tx: tx.get(Vm, vm_id).state == "suspended", limit_s=60)
    with world.tx() as tx:
        tx.scalars(sa.select(Lease)).one().ends_at = world.clock.now()
    world.run_until(lambda tx: lease_of(world, alice).state == "ended", limit_s=200)
    world.run_until(lambda tx: states(tx, pool_id) == {"spare": 1}, limit_s=200)


def test_a_policy_that_makes_no_sense_is_told(world: Installation) -> None:
    pool_id = world.add_pool(size=1)
    with pytest.raises(Invalid, match="choose from nothing, lock"), world.tx() as tx:
        submit(tx, EditPool(pool_id, idle_action="explode"), SYSTEM, world.clock.now())
