"""Connecting, at the rows: what is decided and kept, who may what, and what racing requests get."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backend.db import Sessions, Tx
from backend.directory.models import User, WebSession
from backend.errors import Denied, Impossible, Invalid, NotFound
from backend.tasks.models import Task
from backend.vms.models import Vm
from broker import connect as broker
from broker.models import Ticket
from pools.models import Decision, Lease, Pool, PoolMember
from pools.rules import HOLDING
from sim import make
from sim.make import NOW


def ask(tx: Tx, user: User, desktop_id: UUID, **more: Any) -> broker.Answer:
    session = tx.scalars(sa.select(WebSession).where(WebSession.user_id == user.id)).first() or make.a_session(tx, user)
    wish = {"protocol": None, "client": "browser", "now": NOW, **more}
    return broker.connect(tx, user_id=user.id, session_id=session.id, desktop_id=desktop_id, **wish)


def entitled(tx: Tx, pool: Pool, name: str = "") -> User:
    user = make.a_user(tx, name)
    make.a_permission(tx, user, pool)
    return user


def decisions(tx: Tx, user: User) -> list[Decision]:
    return list(tx.scalars(sa.select(Decision).where(Decision.user_id == user.id).order_by(Decision.at)))


def test_a_spare_is_ready_and_the_decision_says_why(tx: Tx) -> None:
    pool = make.a_pool(tx, "Desktops", members=2, member_state="spare", size=4)
    make.a_member(tx, pool, "ready")
    bob = entitled(tx, pool, "bob")
    ask(tx, bob, pool.id)
    make.a_member(tx, pool, "broken", why="VM desktops-4 did not boot.")
    alice = entitled(tx, pool, "alice")
    answer = ask(tx, alice, pool.id)
    assert (answer.state, answer.sentence) == ("ready", "Desktop desktops-2 is ready.")
    assert answer.lease.starts_at == NOW and answer.lease.ends_at == NOW + timedelta(seconds=pool.lease_s)
    assert answer.protocol == "vnc" and answer.ticket.lease_id == answer.lease.id
    [kept] = decisions(tx, alice)
    assert (kept.outcome, kept.vm_id, kept.lease_id) == ("given", answer.vm_id, answer.lease.id)
    assert [(m["name"], m["reason"]) for m in kept.candidates["members"]] == [
        ("desktops-2", "spare, free and up: chosen"),
        ("desktops-1", "leased by bob"),
        ("desktops-3", "free, must be started"),
        ("desktops-4", "set aside: VM desktops-4 did not boot."),
    ]


def test_asking_again_decides_nothing_new(tx: Tx) -> None:
    pool = make.a_pool(tx, members=1, member_state="spare")
    alice = entitled(tx, pool)
    first, again = ask(tx, alice, pool.id), ask(tx, alice, pool.id)
    assert first.lease.id == again.lease.id and len(decisions(tx, alice)) == 1
    assert first.ticket.id != again.ticket.id and first.ticket.state == "revoked"  # the newer one counts


def test_a_warming_member_is_taken_before_one_that_is_down(tx: Tx) -> None:
    pool = make.a_pool(tx, members=1, member_state="ready", size=2)
    warming = make.a_member(tx, pool, "warming")
    answer = ask(tx, entitled(tx, pool), pool.id)
    assert (answer.state, answer.vm_id) == ("starting", warming.vm_id)
    assert tx.scalars(sa.select(Task).where(Task.command == "vm.start")).all() == []  # it is being started already
    assert answer.lease.ends_at is None  # the time begins when it is up
    tx.get(Vm, warming.vm_id).state = "up"
    ready = ask(tx, tx.get(User, answer.lease.user_id), pool.id, now=NOW + timedelta(seconds=30))
    assert ready.state == "ready" and ready.lease.ends_at == NOW + timedelta(seconds=30 + pool.lease_s)


def test_a_member_that_is_down_is_started(tx: Tx) -> None:
    pool = make.a_pool(tx, members=1)
    answer = ask(tx, entitled(tx, pool), pool.id)
    assert answer.state == "starting" and answer.task_id is not None and answer.estimate_s == 45
    assert tx.get(Task, answer.task_id).command == "vm.start"


def test_nobody_passes_the_queue_though_a_desktop_is_free(tx: Tx) -> None:
    pool = make.a_pool(tx, members=2, member_state="spare")
    make.a_lease(tx, pool, make.a_user(tx), "queued")
    alice = entitled(tx, pool)
    answer = ask(tx, alice, pool.id)
    assert (answer.state, answer.position) == ("queued", 2)
    assert decisions(tx, alice)[0].sentence.startswith("1 person is before you")


def test_queued_says_place_and_estimate(tx: Tx) -> None:
    pool = make.a_pool(tx, size=1, members=0)
    make.a_lease(tx, pool, make.a_user(tx), "active", ends_at=NOW + timedelta(seconds=600))
    answer = ask(tx, entitled(tx, pool), pool.id)
    assert (answer.state, answer.position, answer.estimate_s) == ("queued", 1, 600 + 60 + 10 + 45)
    assert answer.sentence == "All desktops are in use. You are next."


def test_strangers_learn_nothing(tx: Tx) -> None:
    pool = make.a_pool(tx, members=1, member_state="spare")
    admin, stranger = make.a_user(tx), make.a_user(tx)
    make.a_permission(tx, admin, None, "system_admin")
    own = make.a_vm(tx)
    alice = entitled(tx, pool)
    held = ask(tx, alice, pool.id)
    for user in (admin, stranger):
        for desktop_id in (pool.id, own.id, held.vm_id, uuid4()):
            with pytest.raises(NotFound, match="You have no such desktop"):
                ask(tx, user, desktop_id)
    other = entitled(tx, pool)
    with pytest.raises(NotFound):  # entitled to the pool, but this desktop is alice's
        ask(tx, other, held.vm_id)
    assert ask(tx, alice, held.vm_id).lease.id == held.lease.id


def test_an_entitlement_that_is_over_is_none(tx: Tx) -> None:
    pool, alice = make.a_pool(tx, members=1), make.a_user(tx)
    make.a_permission(tx, alice, pool, valid_until=NOW)
    assert broker.desktops(tx, alice.id, NOW) == []
    with pytest.raises(NotFound):
        ask(tx, alice, pool.id)


@pytest.mark.parametrize("hours", [None, "Tue 08:00-12:00"])
def test_an_entitlement_at_another_time_is_shown_and_refused(tx: Tx, hours: str | None) -> None:
    pool, alice, opens = make.a_pool(tx, members=1), make.a_user(tx), NOW + timedelta(1)
    period = {"valid_from": opens} if hours is None else {"calendar_id": make.a_calendar(tx, hours).id}
    make.a_permission(tx, alice, pool, **period)
    (desktop,) = broker.desktops(tx, alice.id, NOW)
    assert (desktop.state, desktop.actions, desktop.opens_at) == ("closed", (), opens)
    refused = ask(tx, alice, pool.id)
    when = "2026-03-03 08:00 UTC" if hours is None else "Tuesday 08:00 (UTC)"
    assert isinstance(refused.refusal, Denied) and f"again from {when}" in refused.sentence
    assert broker.auto_launch(tx, make.a_session(tx, alice), NOW) is None


def test_an_entitlement_by_group_and_from_above(tx: Tx) -> None:
    pool, group = make.a_pool(tx, members=2, member_state="spare"), make.a_group(tx)
    alice, bob = make.a_user(tx, groups=[group]), make.a_user(tx)
    make.a_permission(tx, group, pool)
    make.a_permission(tx, bob, make.a_cluster(tx))
    assert ask(tx, alice, pool.id).state == ask(tx, bob, pool.id).state == "ready"


def test_protocol_and_client_are_checked(tx: Tx) -> None:
    pool = make.a_pool(tx, members=1, member_state="spare", protocols=["spice"])
    alice = entitled(tx, pool)
    with pytest.raises(Invalid, match="offers SPICE, not VNC"):
        ask(tx, alice, pool.id, protocol="vnc")
    with pytest.raises(Invalid, match="browser or native"):
        ask(tx, alice, pool.id, client="toaster")
    answer = ask(tx, alice, pool.id, client="native")
    assert answer.protocol == answer.ticket.protocol == "spice" and answer.ticket.client == "native"


def test_a_second_desktop_when_the_pool_allows_it(tx: Tx) -> None:
    pool = make.a_pool(tx, "Desktops", members=3, member_state="spare", per_user=2)
    alice = entitled(tx, pool)
    first, second = ask(tx, alice, pool.id), ask(tx, alice, pool.id, another=True)
    assert first.vm_id != second.vm_id
    third = ask(tx, alice, pool.id, another=True)
    assert third.state == "refused" and "You may have 2 desktops" in third.sentence and third.refusal.code == "per_user_reached"
    assert decisions(tx, alice)[-1].outcome == "refused"
    cards = broker.desktops(tx, alice.id, NOW)
    assert [(c.id, c.vm_id) for c in cards] == [(pool.id, first.vm_id), (second.vm_id, second.vm_id)]
    assert ask(tx, alice, second.vm_id).lease.id == second.lease.id


def test_racing_requests_of_one_person_get_one_desktop(sessions: Sessions) -> None:
    with sessions.begin() as tx:
        pool = make.a_pool(tx, members=6, member_state="spare", per_user=2)
        alice = entitled(tx, pool)
        session_id = make.a_session(tx, alice).id
        user_id, pool_id = alice.id, pool.id
    answers: list[broker.Answer] = []
    together = threading.Barrier(12)

    def race(another: bool) -> None:
        together.wait()
        with sessions.begin() as tx:
            answers.append(
                broker.connect(
                    tx, user_id=user_id, session_id=session_id, desktop_id=pool_id, protocol=None, client="browser", now=NOW,
                    another=another,
                )
            )  # fmt: skip

    threads = [threading.Thread(target=race, args=(n % 2 == 1,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sessions.begin() as tx:
        assert tx.scalar(sa.select(sa.func.count()).where(Lease.state.in_(HOLDING))) == 2
        assert tx.scalar(sa.select(sa.func.count()).where(Ticket.state == "minted")) == 2
    assert len(answers) == 12 and {a.state for a in answers} <= {"ready", "refused"}


def test_postgresql_itself_refuses_a_second_holder(tx: Tx) -> None:
    pool = make.a_pool(tx, members=0)
    lease = make.a_lease(tx, pool, make.a_user(tx))
    member = tx.scalars(sa.select(PoolMember).where(PoolMember.vm_id == lease.vm_id)).one()
    with pytest.raises(sa.exc.IntegrityError, match="uq_lease_live_vm|one_holder_at_a_time"), tx.begin_nested():
        make.a_lease(tx, pool, make.a_user(tx), member=member)
    with pytest.raises(sa.exc.IntegrityError, match="one_holder_at_a_time"), tx.begin_nested():
        late = make.a_lease(tx, pool, make.a_user(tx), "ended")
        late.vm_id, late.period = lease.vm_id, lease.period
        tx.flush()


def test_giving_back_twice_is_giving_back(tx: Tx) -> None:
    pool = make.a_pool(tx, members=1, member_state="spare")
    alice = entitled(tx, pool)
    answer = ask(tx, alice, pool.id)
    for _ in range(2):
        lease = broker.give_back(tx, user_id=alice.id, lease_id=answer.lease.id, now=NOW)
        assert (lease.state, lease.end_reason) == ("returning", "returned")
    assert answer.ticket.state == "revoked"
    assert ask(tx, alice, pool.id).state == "queued"  # the old one is not theirs any more
    with pytest.raises(NotFound):
        broker.give_back(tx, user_id=make.a_user(tx).id, lease_id=lease.id, now=NOW)


def test_leaving_the_queue(tx: Tx) -> None:
    pool = make.a_pool(tx, size=1)
    alice, bob = entitled(tx, pool), entitled(tx, pool)
    make.a_lease(tx, pool, make.a_user(tx))
    waits = ask(tx, alice, pool.id)
    assert ask(tx, bob, pool.id).position == 2
    assert broker.leave_queue(tx, user_id=alice.id, lease_id=waits.lease.id, now=NOW).end_reason == "left_queue"
    assert ask(tx, bob, pool.id).position == 1
    held = make.a_lease(tx, pool, alice, member=make.a_member(tx, pool, "leased"))
    with pytest.raises(Impossible, match="you have a desktop"):
        broker.leave_queue(tx, user_id=alice.id, lease_id=held.id, now=NOW)


def test_the_list_of_desktops(tx: Tx) -> None:
    pool = make.a_pool(tx, "Desktops", size=4, members=1, member_state="ready")
    busy, hidden = make.a_pool(tx, "Busy", size=1), make.a_pool(tx, "Hidden")
    alice = entitled(tx, pool)
    make.a_permission(tx, alice, busy)
    mine = make.a_vm(tx, "w7")
    make.a_permission(tx, alice, mine)
    make.a_lease(tx, busy, make.a_user(tx))
    make.a_lease(tx, busy, alice, "queued")
    lease = make.a_lease(tx, hidden, alice)  # held, though the right is gone by now
    cards = {c.name: c for c in broker.desktops(tx, alice.id, NOW)}
    assert {n: (c.kind, c.state, c.position) for n, c in cards.items()} == {
        "Busy": ("pool", "queued", 1), "Desktops": ("pool", "available", None), "Hidden": ("pool", "running", None),
        "w7": ("vm", "off", None),
    }  # fmt: skip
    assert cards["Hidden"].lease.id == lease.id and cards["Hidden"].extensions_left == 2
    assert cards["Hidden"].actions == ("connect", "extend", "give_back", "shutdown", "reset")
    assert cards["Busy"].actions == ("connect", "leave")
    assert cards["w7"].actions == ("connect", "start")
    assert broker.desktops(tx, make.a_user(tx).id, NOW) == []


@pytest.mark.parametrize("state, words", [("starting", "is still starting"), ("grace", "is about to be taken back")])
def test_actions_need_a_running_lease(tx: Tx, state: str, words: str) -> None:
    pool = make.a_pool(tx)
    alice = entitled(tx, pool)
    make.a_lease(tx, pool, alice, state)
    with pytest.raises(Impossible, match=words):
        broker.act(tx, user_id=alice.id, desktop_id=pool.id, verb="shutdown", now=NOW)


def test_actions_follow_the_pools_rights(tx: Tx) -> None:
    pool = make.a_pool(tx, rights=["start"])
    alice = entitled(tx, pool)
    lease = make.a_lease(tx, pool, alice)
    with pytest.raises(Denied, match="You may not reset this desktop; possible: start"):
        broker.act(tx, user_id=alice.id, desktop_id=pool.id, verb="reset", now=NOW)
    own = make.a_vm(tx, state="up")
    make.a_permission(tx, alice, own)
    done = broker.act(tx, user_id=alice.id, desktop_id=own.id, verb="shutdown", now=NOW)
    task = tx.get(Task, done.task_id)
    assert (task.command, task.actor_name) == ("vm.shutdown", alice.name)
    assert lease.off_wanted is False


@pytest.mark.parametrize(
    "mine, by_group, pools, expected",
    [(True, False, 1, True), (False, True, 1, True), (False, False, 1, False), (True, False, 2, False), (True, False, 0, False)],
)
def test_auto_launch_needs_the_setting_and_exactly_one(tx: Tx, mine: bool, by_group: bool, pools: int, expected: bool) -> None:
    alice = make.a_user(tx, auto_launch=mine, groups=[make.a_group(tx, auto_launch=by_group)])
    made = [make.a_pool(tx) for _ in range(pools)]
    for pool in made:
        make.a_permission(tx, alice, pool)
    session = make.a_session(tx, alice)
    assert broker.auto_launch(tx, session, NOW) == (made[0].id if expected else None)
    assert broker.auto_launch(tx, session, NOW) is None  # once a session, whatever it said
    assert (broker.auto_launch(tx, make.a_session(tx, alice), NOW) is not None) == expected  # the next sign-in


def test_auto_launch_in_two_windows_at_once(sessions: Sessions) -> None:
    with sessions.begin() as tx:
        pool = make.a_pool(tx)
        alice = make.a_user(tx, auto_launch=True)
        make.a_permission(tx, alice, pool)
        session = make.a_session(tx, alice)
    said: list[UUID | None] = []

    def window() -> None:
        with sessions.begin() as tx:
            said.append(broker.auto_launch(tx, session, NOW))

    windows = [threading.Thread(target=window) for _ in range(6)]
    for w in windows:
        w.start()
    for w in windows:
        w.join()
    assert sorted(said, key=str) == sorted([pool.id, *[None] * 5], key=str)


def test_by_its_vm_too_a_lease_ends_with_the_entitlement(tx: Tx) -> None:
    pool, alice = make.a_pool(tx, members=1), make.a_user(tx)
    given = make.a_permission(tx, alice, pool, valid_until=NOW + timedelta(seconds=600))
    vm_id = ask(tx, alice, pool.id).vm_id
    tx.get(Vm, vm_id).state = "up"
    tx.get(Vm, vm_id).host_id = make.a_host(tx).id
    assert ask(tx, alice, vm_id).lease.ends_at == given.valid_until
    tx.delete(given)
    tx.flush()
    with pytest.raises(Denied, match="has ended"):
        ask(tx, alice, vm_id)
