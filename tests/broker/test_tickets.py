"""Tickets as rows: minted and armed by a task, their secrets, their one viewer file, their ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backend.db import Sessions, Tx
from backend.directory.models import Permission, User
from backend.errors import Denied, Impossible, NotFound
from backend.secrets import Keyring
from backend.tasks.models import Step, Task
from backend.vms.models import Vm
from broker import consoles, tickets
from broker.loop import TicketsLoop
from broker.models import ConsoleSession, Ticket
from broker.viewer import Face
from pools.models import PoolMember
from sim.installation import Installation
from sim.make import a_permission
from tests.conftest import ToldClock

FACE = Face("localhost:8444", "CA", "CN=gateway")


@dataclass
class Person:
    """Somebody signed in, and a running VM."""

    world: Installation
    user_id: UUID
    session_id: UUID
    vm_id: UUID

    def mint(self, tx: Tx, **values: object) -> Ticket:
        return tickets.mint(tx, **{  # type: ignore[arg-type]
            "user_id": self.user_id, "session_id": self.session_id, "vm_id": self.vm_id, "lease_id": None, "protocol": "vnc",
            "client": "browser", "now": self.world.clock.now(), **values})

    def redeem(self, tx: Tx, ticket: Ticket, **values: object) -> tickets.Redeemed:
        return tickets.redeem(tx, ticket.id, **{  # type: ignore[arg-type]
            "console_id": uuid4(), "protocols": (ticket.protocol,), "client": ticket.client, "session_id": self.session_id,
            "address": "192.0.2.7", "gateway": "gateway", "now": self.world.clock.now(), **values})


@pytest.fixture
def person(world: Installation) -> Person:
    pool_id = world.add_pool(size=1, spares=1)
    vm_id = world.run_until(
        lambda tx: tx.scalar(
            sa.select(PoolMember.vm_id).where(PoolMember.pool_id == pool_id, PoolMember.state == "spare")),
        "a VM is up")
    user_id, session_id = world.a_user()
    return Person(world, user_id, session_id, vm_id)


def test_a_minted_ticket_is_armed_by_its_task(person: Person, sessions: Sessions) -> None:
    world = person.world
    with sessions.begin() as tx:
        ticket = person.mint(tx)
        assert ticket.armed_at is None
        assert not tickets.armed(tx, ticket.id)
    world.tick()
    with sessions.begin() as tx:
        assert tickets.armed(tx, ticket.id)
        task = tx.get_one(Task, ticket.task_id)
        assert task.state == "succeeded" and "Console for" in task.reason
        assert world.keyring.display_password(ticket.id) not in repr([s.args for s in _steps(tx, task.id)])
    shown = world.sim.machines["alpha"].host.password(person.vm_id, "vnc")
    assert shown == world.keyring.display_password(ticket.id)


def _steps(tx: Tx, task_id: int):  # type: ignore[no-untyped-def]
    return tx.scalars(sa.select(Step).where(Step.task_id == task_id)).all()


def test_a_vm_without_a_screen_gets_no_ticket(person: Person, tx: Tx) -> None:
    with pytest.raises(Impossible, match="has no screen now: it is down"):
        vm = tx.get_one(Vm, person.vm_id)
        tx.execute(sa.update(Vm).where(Vm.id == vm.id).values({"state": "down"}))
        tx.refresh(vm)
        person.mint(tx)


def test_a_ticket_that_cannot_be_armed_is_revoked_in_words(person: Person, sessions: Sessions) -> None:
    with sessions.begin() as tx:
        ticket = person.mint(tx, protocol="vnc")
        person.world.sim.do("vm desktops-1 crash")
    person.world.tick()
    person.world.tick()
    with sessions() as tx:
        after = tx.get_one(Ticket, ticket.id)
        assert (after.state, after.armed_at) == ("revoked", None) and after.why
        with pytest.raises(Impossible, match="could not be opened"):
            tickets.armed(tx, ticket.id)


def test_redeemed_once(person: Person, tx: Tx) -> None:
    ticket = person.mint(tx)
    got = person.redeem(tx, ticket)
    assert (got.vm_id, got.address, got.port) == (person.vm_id, "alpha", 8446)
    assert tx.get_one(ConsoleSession, got.console_id).ticket_id == ticket.id
    with pytest.raises(Denied, match="used already"):
        person.redeem(tx, ticket)


def test_not_redeemed_by_the_wrong_client(person: Person, tx: Tx) -> None:
    with pytest.raises(Denied, match="another kind of viewer"):
        person.redeem(tx, person.mint(tx), client="native", session_id=None)
    with pytest.raises(Denied, match="another kind of viewer"):
        person.redeem(tx, person.mint(tx), protocols=("spice",))
    with pytest.raises(Denied, match="another sign-in"):
        person.redeem(tx, person.mint(tx), session_id=uuid4())


def test_valid_for_thirty_seconds(person: Person, sessions: Sessions, clock: ToldClock) -> None:
    with sessions.begin() as tx:
        ticket = person.mint(tx)
    clock.sleep(30)
    with sessions.begin() as tx, pytest.raises(Denied, match="has expired"):
        person.redeem(tx, tx.get_one(Ticket, ticket.id))
    with sessions.begin() as tx:
        TicketsLoop(clock).apply(tx, None)
    with sessions() as tx:
        assert tx.get_one(Ticket, ticket.id).state == "expired"


def test_a_newer_ticket_revokes_the_older(person: Person, tx: Tx) -> None:
    older, other = person.mint(tx), person.mint(tx, protocol="spice", client="native")
    newer = person.mint(tx)
    assert [t.state for t in (older, other, newer)] == ["revoked", "minted", "minted"]
    with pytest.raises(Denied, match="a newer ticket took its place"):
        person.redeem(tx, older)


@pytest.mark.parametrize("by", ["vm_id", "user_id", "session_id"])
def test_revoke_for(person: Person, tx: Tx, by: str) -> None:
    used, unused = person.mint(tx), person.mint(tx, protocol="spice", client="native")
    console_id = person.redeem(tx, used).console_id
    tickets.revoke_for(tx, **{by: uuid4()}, why="Not theirs.", now=person.world.clock.now())  # type: ignore[arg-type]
    tickets.revoke_for(tx, why="Nobody's.", now=person.world.clock.now())
    assert unused.state == "minted"
    tickets.revoke_for(tx, **{by: getattr(person, by)}, why="Over.", now=person.world.clock.now())
    assert (unused.state, unused.why) == ("revoked", "Over.")
    console = tx.get_one(ConsoleSession, console_id)
    tx.refresh(console)
    assert console.end_wanted == "Over."
    tickets.revoke_for(tx, **{by: getattr(person, by)}, why="Again.", now=person.world.clock.now())
    tx.refresh(console)
    assert console.end_wanted == "Over."  # the first reason stays


def test_tokens(person: Person, tx: Tx) -> None:
    ticket, keyring = person.mint(tx), person.world.keyring
    token = tickets.token(keyring, ticket)
    assert len(token) == 64 and tickets.ticket_of(keyring, token) == ticket.id
    assert tickets.ticket_of(Keyring(b"x" * 32), token) is None
    for wrong in ("", "x", token[:-1], token + "A", "é" * 64, token[:-4] + "AAAA"):
        assert tickets.ticket_of(keyring, wrong) is None
    assert tickets.ticket_named(tickets.spice_name(ticket.id)) == ticket.id
    assert len(tickets.spice_password(keyring, ticket.id)) == 43
    for wrong in ("", "ticket-", "ticket-xyz", f"tickets-{ticket.id.hex}", f"ticket-{ticket.id}"):
        assert tickets.ticket_named(wrong) is None


def test_a_viewer_file_is_taken_once(person: Person, tx: Tx) -> None:
    keyring, now = person.world.keyring, person.world.clock.now()
    ticket = person.mint(tx, protocol="spice", client="native")

    def take(**values: object) -> str:
        return tickets.take_viewer_file(tx, **{  # type: ignore[arg-type]
            "ticket_id": ticket.id, "session_id": person.session_id, "keyring": keyring, "face": FACE, "now": now, **values})

    with pytest.raises(NotFound):
        take(session_id=uuid4())
    with pytest.raises(Denied, match="expired"):
        take(now=now + timedelta(seconds=30))
    with pytest.raises(Impossible, match="for the browser"):
        take(ticket_id=person.mint(tx).id)
    text = take()
    assert f"host={tickets.spice_name(ticket.id)}\n" in text
    assert f"password={tickets.spice_password(keyring, ticket.id)}\n" in text
    with pytest.raises(Impossible, match="fetched already"):
        take()


def test_a_new_spice_console_ends_the_one_before(person: Person, sessions: Sessions, clock: ToldClock) -> None:
    with sessions.begin() as tx:
        first = person.redeem(tx, person.mint(tx, protocol="spice", client="native"), session_id=None)
    clock.sleep(1)
    with sessions.begin() as tx:
        second = person.redeem(tx, person.mint(tx, protocol="spice", client="native"), session_id=None)
    with sessions.begin() as tx:
        assert "opened again" in (tx.get_one(ConsoleSession, first.console_id).end_wanted or "")
        assert consoles.others_live(tx, person.vm_id, but=second.console_id, now=clock.now())
        assert not consoles.others_live(tx, person.vm_id, but=first.console_id, now=clock.now())
        assert consoles.end(tx, first.console_id, why="Over.", now=clock.now())
        assert not consoles.end(tx, first.console_id, why="Over again.", now=clock.now())
        assert not consoles.others_live(tx, person.vm_id, but=second.console_id, now=clock.now())


def test_the_console_of_a_vm_that_is_ones_own_no_more_is_closed(person: Person, sessions: Sessions, clock: ToldClock) -> None:
    loop = TicketsLoop(clock)
    with sessions.begin() as tx:
        user, vm = tx.get_one(User, person.user_id), tx.get_one(Vm, person.vm_id)
        permission_id = a_permission(tx, user, vm, valid_until=clock.now() + timedelta(hours=1)).id
        console_id = person.redeem(tx, person.mint(tx)).console_id
        loop.apply(tx, None)
        assert tx.get_one(ConsoleSession, console_id, populate_existing=True).end_wanted is None
        clock.sleep(3600)
        loop.apply(tx, None)
        assert tx.get_one(ConsoleSession, console_id, populate_existing=True).end_wanted == "This desktop is not yours any more."
        assert tx.get_one(Permission, permission_id)
