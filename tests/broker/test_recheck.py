"""Access rules looked at again: when a ticket is redeemed, and while a console is open."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backend.db import Tx
from backend.devices.commands import EditDevice, RevokeDevice
from backend.errors import Denied
from backend.events import Event
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from broker import consoles, recheck, tickets
from broker.access import Whence
from broker.models import ConsoleSession, Ticket
from pools.models import Lease, Pool
from sim import make
from sim.make import NOW
from tests.broker.test_connect import ask, entitled

OFFICE, HOME = "10.1.2.3", "203.0.113.9"


def a_ticket(tx: Tx, pool: Pool, *, client: str = "browser", device: Any = None, at: str = OFFICE) -> Ticket:
    """Alice connects from there."""
    alice = entitled(tx, pool, "alice")
    make.a_session(tx, alice, device_id=device.id if device else None)
    seen = Whence(at, device.id, device.name, tuple(device.protocols)) if device else Whence(at)
    answer = ask(tx, alice, pool.id, client=client, from_=seen,
                 protocol="spice" if client == "native" else "vnc")  # fmt: skip
    assert answer.ticket is not None
    return answer.ticket


def redeem(tx: Tx, ticket: Ticket, address: str) -> UUID:
    """The ticket shown to the gateway from there; the console."""
    return tickets.redeem(
        tx, ticket.id, console_id=uuid4(), protocols=(ticket.protocol,), client=ticket.client,
        session_id=ticket.session_id if ticket.client == "browser" else None, address=address, gateway="g", now=NOW,
    ).console_id  # fmt: skip


def why_ended(tx: Tx, console_id: UUID) -> str | None:
    recheck.end_barred(tx)
    return tx.get_one(ConsoleSession, console_id, populate_existing=True).end_wanted


@pytest.fixture
def pool(tx: Tx) -> Pool:
    return make.a_pool(tx, "Desktops", members=1, member_state="spare")


def test_a_ticket_handed_to_another_network_is_refused_and_told(tx: Tx, pool: Pool) -> None:
    make.an_access_rule(tx, "deny", name="Not at home", network="203.0.113.0/24", sentence="Not from home.")
    ticket = a_ticket(tx, pool)
    with pytest.raises(Denied, match=r"^Not from home\.$") as no:
        redeem(tx, ticket, HOME)
    tickets.refused(tx, ticket.id, no.value, address=HOME)
    event = tx.scalars(sa.select(Event).where(Event.code == "ticket.refused")).one()
    assert event.sentence == f"A console ticket was refused from {HOME}: Not from home."
    assert event.facts == {"address": HOME, "why": "Not from home.", "reason": "not_from_here", "rule": "Not at home"}
    assert redeem(tx, ticket, OFFICE), "it is not used up by who may not use it"


def test_a_viewer_file_carried_away_from_its_device_is_refused(tx: Tx, pool: Pool) -> None:
    ward = make.a_device(tx, "Ward 3", token="t")
    make.an_access_rule(tx, "allow", enrolled=True)
    make.an_access_rule(tx, "deny", name="Nowhere else")
    ticket = a_ticket(tx, pool, client="native", device=ward)
    with pytest.raises(Denied, match="made at Ward 3 and can be used there alone") as no:
        redeem(tx, ticket, HOME)
    assert no.value.facts["rule"] == "Nowhere else"
    assert why_ended(tx, redeem(tx, ticket, OFFICE)) is None


def test_a_browser_is_known_by_its_sign_in_whatever_its_address_is(tx: Tx, pool: Pool) -> None:
    ward = make.a_device(tx, "Ward 3", token="t")
    make.an_access_rule(tx, "allow", enrolled=True)
    make.an_access_rule(tx, "deny")
    assert why_ended(tx, redeem(tx, a_ticket(tx, pool, device=ward), HOME)) is None


def test_a_ticket_of_a_revoked_device_is_refused(tx: Tx, pool: Pool) -> None:
    ward = make.a_device(tx, "Ward 3", token="t")
    ticket = a_ticket(tx, pool, device=ward)
    submit(tx, RevokeDevice(ward.id), SYSTEM, NOW)
    with pytest.raises(Denied, match="This device is not enrolled any more"):
        redeem(tx, ticket, OFFICE)


def test_an_open_console_ends_with_the_rules_sentence_and_the_lease_stays(tx: Tx, pool: Pool) -> None:
    console_id = redeem(tx, a_ticket(tx, pool), OFFICE)
    assert why_ended(tx, console_id) is None
    make.an_access_rule(tx, "deny", network="203.0.113.0/24")
    assert why_ended(tx, console_id) is None, "another network's rule"
    make.an_access_rule(tx, "deny", pool_id=pool.id, network="10.1.0.0/16", sentence="Closed for today.")
    assert why_ended(tx, console_id) == "Closed for today."
    assert consoles.unwanted(tx, "g", NOW) == [(console_id, "Closed for today.")]
    assert tx.scalars(sa.select(Lease.state)).one() == "active"


def test_a_rule_that_leaves_other_protocols_says_which(tx: Tx, pool: Pool) -> None:
    console_id = redeem(tx, a_ticket(tx, pool), OFFICE)
    make.an_access_rule(tx, "allow", network="10.0.0.0/8", protocols=["spice"])
    assert why_ended(tx, console_id) == "From here Desktops can be reached over SPICE alone, not over VNC."


def test_what_the_pool_offers_by_now_ends_no_console(tx: Tx, pool: Pool) -> None:
    console_id = redeem(tx, a_ticket(tx, pool), OFFICE)
    pool.protocols = ["spice"]
    make.an_access_rule(tx, "allow", network="10.0.0.0/8")
    assert why_ended(tx, console_id) is None


def test_a_devices_state_and_protocols_count_for_its_open_consoles(tx: Tx, pool: Pool) -> None:
    ward = make.a_device(tx, "Ward 3", token="t")
    console_id = redeem(tx, a_ticket(tx, pool, device=ward), OFFICE)
    assert why_ended(tx, console_id) is None
    submit(tx, RevokeDevice(ward.id), SYSTEM, NOW)
    assert consoles.unwanted(tx, "g", NOW) == [(console_id, consoles.NOT_ENROLLED)]


def test_a_device_that_shows_another_protocol_alone_ends_its_console(tx: Tx, pool: Pool) -> None:
    ward = make.a_device(tx, "Ward 3", token="t")
    console_id = redeem(tx, a_ticket(tx, pool, device=ward), OFFICE)
    submit(tx, EditDevice(ward.id, protocols=("spice",)), SYSTEM, NOW)
    assert why_ended(tx, console_id) == "From here Desktops can be reached over SPICE alone, not over VNC."
