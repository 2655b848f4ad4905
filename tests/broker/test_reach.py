"""Access rules where they count: connecting, the list of desktops, auto-launch; and their commands."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.db import Tx
from backend.errors import Denied, Invalid
from backend.events import Event
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from broker import connect as broker
from broker import reach
from broker.access import Whence
from broker.access_commands import CreateAccessRule, EditAccessRule, MoveAccessRule, RemoveAccessRule
from broker.models import AccessRule
from pools.models import Lease
from sim import make
from sim.make import NOW
from tests.broker.test_connect import ask, decisions, entitled

OFFICE, HOME = "10.1.2.3", "203.0.113.9"


def test_who_asks_from_elsewhere_is_told_why_gets_nothing_and_the_decision_is_kept(tx: Tx) -> None:
    pool = make.a_pool(tx, "Desktops", members=1, member_state="spare")
    make.an_access_rule(tx, "allow", name="Office", pool_id=pool.id, network="10.1.0.0/16")
    make.an_access_rule(tx, "deny", name="Nowhere else", pool_id=pool.id, sentence="Desktops are for the office.")
    alice = entitled(tx, pool, "alice")
    no = ask(tx, alice, pool.id, from_=Whence(HOME))
    assert (no.state, no.refusal.code, no.sentence) == ("refused", "not_from_here", "Desktops are for the office.")
    assert not tx.scalars(sa.select(Lease)).all()
    [kept] = decisions(tx, alice)
    assert (kept.outcome, kept.sentence) == ("refused", "Desktops are for the office.")
    assert kept.candidates["access"]["rule"] == "Nowhere else" and kept.candidates["access"]["from"] == HOME
    assert ask(tx, alice, pool.id, from_=Whence(OFFICE)).state == "ready"
    assert decisions(tx, alice)[-1].candidates["access"]["rule"] == "Office"
    # the desktop that they hold by now is not to be reached from home either, by whichever of its names
    held = tx.scalars(sa.select(Lease)).one()
    for id in (pool.id, held.vm_id):
        assert ask(tx, alice, id, from_=Whence(HOME)).refusal.code == "not_from_here"


def test_protocols_are_those_that_rules_and_device_leave(tx: Tx) -> None:
    pool = make.a_pool(tx, "Desktops", members=1, member_state="spare")
    make.an_access_rule(tx, "allow", network="203.0.113.0/24", protocols=["spice"])
    alice = entitled(tx, pool, "alice")
    assert ask(tx, alice, pool.id, from_=Whence(OFFICE)).protocol == "vnc"
    assert ask(tx, alice, pool.id, from_=Whence(HOME)).protocol == "spice"
    with pytest.raises(Invalid, match="offers SPICE, not VNC"):
        ask(tx, alice, pool.id, from_=Whence(HOME), protocol="vnc")


def test_a_persons_own_vm_obeys_the_rules_for_every_desktop(tx: Tx) -> None:
    alice = make.a_user(tx)
    vm = make.a_vm(tx, "own", state="up")
    make.a_permission(tx, alice, vm)
    make.an_access_rule(tx, "deny", network="203.0.113.0/24")
    assert ask(tx, alice, vm.id, from_=Whence(OFFICE)).state == "ready"
    with pytest.raises(Denied) as no:
        ask(tx, alice, vm.id, from_=Whence(HOME))
    assert no.value.code == "not_from_here"


def test_what_cannot_be_reached_is_shown_with_its_reason(tx: Tx) -> None:
    pool = make.a_pool(tx, "Desktops", members=1)
    device = make.a_device(tx, "Lab 1", token="t")
    make.an_access_rule(tx, "allow", enrolled=True, protocols=["vnc"])
    make.an_access_rule(tx, "deny", sentence="Only at the lab.")
    alice = entitled(tx, pool, "alice")
    at_home, at_lab = make.a_session(tx, alice), make.a_session(tx, alice, device_id=device.id)
    [card] = broker.desktops(tx, alice.id, NOW, reach.whence(tx, at_home.id, HOME))
    assert (card.blocked, card.actions, card.protocols) == ("Only at the lab.", (), ())
    [card] = broker.desktops(tx, alice.id, NOW, reach.whence(tx, at_lab.id, HOME))
    assert (card.blocked, card.actions, card.protocols) == ("", ("connect",), ("vnc",))


@pytest.mark.parametrize(
    "device, expected",
    [
        ({"auto_launch": False}, None),
        ({"auto_launch": True}, None),  # they have two, and the device names none
        ({"pool": "first", "auto_launch": False}, "first"),
        ({"pool": "other", "auto_launch": True}, None),  # not theirs
    ],
)
def test_a_devices_pool_is_where_people_are_taken(tx: Tx, device: dict, expected: str | None) -> None:
    pools = {name: make.a_pool(tx, name) for name in ("first", "second", "other")}
    alice = entitled(tx, pools["first"], "alice")
    make.a_permission(tx, alice, pools["second"])
    here = make.a_device(tx, token="t", pool_id=pools[device["pool"]].id if "pool" in device else None,
                         auto_launch=device["auto_launch"])
    session = make.a_session(tx, alice, device_id=here.id)
    assert broker.auto_launch(tx, session, NOW) == (pools[expected].id if expected else None)
    assert broker.auto_launch(tx, session, NOW) is None  # once a session


@pytest.mark.parametrize("auto_launch", [True, False])
def test_a_devices_auto_launch_counts_beside_the_persons(tx: Tx, auto_launch: bool) -> None:
    pool = make.a_pool(tx)
    alice = entitled(tx, pool, "alice")
    device = make.a_device(tx, token="t", auto_launch=auto_launch)
    session = make.a_session(tx, alice, device_id=device.id)
    assert broker.auto_launch(tx, session, NOW) == (pool.id if auto_launch else None)


def test_nobody_is_taken_to_what_cannot_be_reached(tx: Tx) -> None:
    pool = make.a_pool(tx)
    alice = entitled(tx, pool, "alice")
    device = make.a_device(tx, token="t", pool_id=pool.id)
    make.an_access_rule(tx, "deny", network="203.0.113.0/24")
    assert broker.auto_launch(tx, make.a_session(tx, alice, device_id=device.id), NOW, HOME) is None
    assert broker.auto_launch(tx, make.a_session(tx, alice, device_id=device.id), NOW, OFFICE) == pool.id


def rules(tx: Tx) -> list[tuple[int, str]]:
    return [(r.position, r.name) for r in tx.scalars(sa.select(AccessRule).order_by(AccessRule.position))]


def test_rules_are_made_moved_edited_and_removed(tx: Tx) -> None:
    pool = make.a_pool(tx, "Desktops")
    ids = {}
    for name in ("a", "b", "c"):
        made = submit(tx, CreateAccessRule(name, "deny", pool_id=pool.id, network="10.1.2.3/16"), SYSTEM, NOW)
        ids[name] = UUID(made.result["id"])
    assert rules(tx) == [(1, "a"), (2, "b"), (3, "c")]
    submit(tx, MoveAccessRule(ids["c"], by=-1), SYSTEM, NOW)
    assert rules(tx) == [(1, "a"), (2, "c"), (3, "b")]
    submit(tx, MoveAccessRule(ids["a"], position=99), SYSTEM, NOW)
    assert rules(tx) == [(1, "c"), (2, "b"), (3, "a")]
    submit(tx, RemoveAccessRule(ids["c"]), SYSTEM, NOW)
    assert rules(tx) == [(1, "b"), (2, "a")]
    submit(tx, EditAccessRule(ids["a"], effect="allow", pool_id=None, network="", protocols=("spice",)), SYSTEM, NOW)
    said = tx.scalars(sa.select(Event.sentence).where(Event.code.like("accessrule.%")).order_by(Event.id)).all()
    assert said[0] == "Leasehold made the access rule a: deny Desktops from 10.1.0.0/16."
    assert said[-1] == "Leasehold changed the access rule a: deny Desktops from 10.1.0.0/16 → allow every desktop over SPICE."


@pytest.mark.parametrize("fields", [{"rule_name": ""}, {"rule_name": "a"}, {"network": "home"}, {"protocols": ("telnet",)}])
def test_a_rule_that_makes_no_sense_is_refused(tx: Tx, fields: dict) -> None:
    submit(tx, CreateAccessRule("a", "deny"), SYSTEM, NOW)
    with pytest.raises(Invalid):
        submit(tx, CreateAccessRule(**{"rule_name": "new", "effect": "deny", **fields}), SYSTEM, NOW)
