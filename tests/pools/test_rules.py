"""Tables of cases for pools' rules and state tables; no database, no clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from backend.directory.rules import Grant
from backend.errors import Impossible, Invalid
from backend.vms.machine import VM
from pools.choice import FREE, Candidate, free
from pools.estimate import Turn, estimate_s
from pools.machine import LEASE, MEMBER
from pools.member_rules import Wanted, hopeless, member_name, member_step, surplus, wanted
from pools.policy import Policy, require_policy
from pools.rules import HOLDING, LeaseFacts, entitled, extended_end, lease_end, lease_step, next_action

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"size": 0}, "between 1 and 10,000 desktops"),
        ({"size": 3, "spares": 4}, "4 spares cannot be kept in a pool of 3 desktops; lower the spares or raise the size"),
        ({"spares": -1}, "cannot be below 0"),
        ({"lease_s": 30}, "between one minute and 366 days"),
        ({"lease_s": 300, "warn_s": 300}, "300 s before the end, but the lease lasts only 300 s"),
        ({"grace_s": -1}, "grace is between"),
        ({"shutdown_s": 0}, "between 1 and 3,600 seconds to shut down"),
        ({"extensions": 1, "extend_s": 0}, "An extension lasts between"),
        ({"extensions": -1}, "between 0 and 1,000 times"),
        ({"per_user": 0}, "between 1 and 100 desktops"),
        ({"rights": ("start", "fly")}, "“fly” is not a right; choose from start, shutdown, reboot, reset"),
        ({"protocols": ()}, "at least one protocol"),
        ({"protocols": ("rdp",)}, "“rdp” is not a protocol"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_in_words(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence) as no:
        require_policy(Policy(**{"size": 4, **change}))
    assert set(no.value.facts["fields"]) <= {*change, "spares", "size", "warn_s", "lease_s"}


@pytest.mark.parametrize("change", [{}, {"lease_s": None, "warn_s": 5000}, {"spares": 4}, {"extensions": 0, "extend_s": 0}])
def test_a_policy_that_makes_sense(change: dict[str, Any]) -> None:
    require_policy(Policy(**{"size": 4, **change}))


@pytest.mark.parametrize(
    "lease_s, until, end",
    [(3600, None, at(3600)), (3600, at(60), at(60)), (3600, at(7200), at(3600)), (None, None, None), (None, at(9), at(9))],
)
def test_a_lease_ends_after_its_length_and_never_past_the_entitlement(
    lease_s: int | None, until: datetime | None, end: datetime | None
) -> None:
    assert lease_end(NOW, lease_s, until) == end


@pytest.mark.parametrize(
    "state, ends, grace, action",
    [
        ("active", 301, None, None),
        ("active", 300, None, "warn"),
        ("active", 1, None, "warn"),
        ("active", 0, None, "expire"),
        ("active", -9999, None, "expire"),  # the warning was missed in an outage
        ("active", None, None, None),
        ("expiring", 299, None, None),
        ("expiring", 0, None, "expire"),
        ("grace", -10, 1, None),
        ("grace", -60, 0, "take"),
        ("grace", -9999, -9939, "take"),
        ("queued", -5, None, None),
        ("starting", -5, None, None),
        ("returning", -5, -5, None),
    ],
)
def test_what_is_due(state: str, ends: int | None, grace: int | None, action: str | None) -> None:
    ends_at = None if ends is None else at(ends)
    assert next_action(state, ends_at, None if grace is None else at(grace), 300, NOW) == action


STARTING = {"state": "starting", "member_state": "leased"}
ACTIVE = {"state": "active", "member_state": "leased", "vm_state": "up", "ends_at": at(1000)}


@pytest.mark.parametrize(
    "lease, step",
    [
        ({"state": "queued"}, None),
        ({"state": "queued", "entitled": False}, "disentitle"),
        ({"state": "queued", "ends_at": at(0)}, "too_late"),
        ({**STARTING, "vm_state": "up", "task": "live"}, "ready"),
        ({**STARTING, "vm_state": "up", "entitled": False}, "disentitle"),
        ({**STARTING, "vm_state": "powering_up", "task": "live"}, None),
        ({**STARTING, "vm_state": "down", "task": "none"}, "start"),
        ({**STARTING, "vm_state": "down", "task": "done"}, "start"),
        ({**STARTING, "vm_state": "down", "task": "failed", "code": "no_host"}, "later"),
        ({**STARTING, "vm_state": "down", "task": "failed", "code": "start_failed"}, "broke"),
        ({**STARTING, "vm_state": "powering_up", "task": "failed", "code": "boot_timeout"}, "broke"),
        ({**STARTING, "vm_state": "powering_up", "task": "failed", "code": "cancelled"}, "broke"),
        ({**STARTING, "vm_state": "suspended"}, "start"),
        ({**STARTING, "vm_state": "restoring_state", "task": "live"}, None),
        ({**STARTING, "vm_state": "suspended", "task": "failed", "code": "no_host"}, "later"),
        ({**STARTING, "vm_state": "suspended", "task": "failed", "code": "saved_state_unusable"}, "spoiled"),
        ({**STARTING, "vm_state": "down", "task": "failed", "code": "saved_state_missing"}, "spoiled"),
        ({**STARTING, "vm_state": "unknown", "task": "live"}, "silent"),
        ({**STARTING, "vm_state": None, "member_state": None}, "broke"),
        (ACTIVE, None),
        ({**ACTIVE, "vm_state": "unknown"}, None),  # no time-out concludes that it is off
        ({**ACTIVE, "vm_state": "down"}, "died"),
        ({**ACTIVE, "vm_state": "down", "task": "live"}, None),
        ({**ACTIVE, "vm_state": "down", "off_wanted": True}, None),
        ({**ACTIVE, "vm_state": None, "member_state": None}, "died"),
        ({**ACTIVE, "vm_state": "down", "task": "failed", "code": "no_host"}, "off"),  # it could not be started again
        ({**ACTIVE, "ends_at": at(0), "vm_state": "down"}, "expire"),
        ({**ACTIVE, "state": "grace", "grace_until": at(5), "vm_state": "down"}, None),
        ({**ACTIVE, "state": "grace", "grace_until": at(5), "entitled": False}, "disentitle"),
        ({**ACTIVE, "state": "returning", "entitled": False}, "send_back"),
        ({"state": "returning", "member_state": "resetting", "vm_state": "up"}, None),
        ({"state": "returning", "member_state": "resetting", "vm_state": "powering_down"}, None),
        ({"state": "returning", "member_state": "resetting", "vm_state": "down"}, "over"),
        ({"state": "returning", "member_state": "broken", "vm_state": "unknown"}, None),
        ({"state": "returning", "member_state": "ready", "vm_state": "down"}, "over"),
        ({"state": "returning", "member_state": None, "vm_state": None}, "over"),
    ],
)
def test_the_next_step_of_a_lease(lease: dict[str, Any], step: str | None) -> None:
    assert lease_step(LeaseFacts(**lease), 300, NOW) == step


EVENTS = {
    "disentitle": ("give_back", "fail"),
    "too_late": ("fail",),
    "ready": ("ready",),
    "later": ("postpone",),
    "broke": ("requeue", "fail"),
    "spoiled": ("requeue",),
    "silent": ("requeue",),
    "died": ("requeue",),
    "over": ("end",),
    "warn": ("warn",),
    "expire": ("expire",),
    "take": ("give_back",),
}


@pytest.mark.parametrize("state", [s for s in LEASE.states if s != "ended"])
def test_every_step_is_in_the_table(state: str) -> None:
    """Whatever the rules want of a lease in a state, the state table allows."""
    for vm in (*VM.states, None):
        for member in ("leased", "resetting", "broken", "ready", None):
            for task, code in (("none", ""), ("live", ""), ("done", ""), ("failed", "no_host"), ("failed", "boot_timeout")):
                for ends in (None, at(-99), at(10), at(9999)):
                    for may in (True, False):
                        facts = LeaseFacts(state, ends, at(-1), may, False, member, vm, task, code)
                        step = lease_step(facts, 300, NOW)
                        if step in EVENTS:
                            assert any(LEASE.may(state, event) for event in EVENTS[step]), (state, step)


@pytest.mark.parametrize(
    "facts, step",
    [
        (("creating", "image_locked", "live", "", False), None),
        (("creating", "down", "done", "", False), "created"),
        (("creating", "image_locked", "failed", "storage_full", False), "broke"),
        (("ready", "down", "none", "", False), None),
        (("ready", "up", "none", "", False), "adopt"),
        (("warming", "powering_up", "live", "", False), None),
        (("warming", "up", "live", "", False), "warmed"),
        (("warming", "down", "failed", "no_host", False), "fell"),
        (("warming", "down", "failed", "start_failed", False), "broke"),
        (("warming", "powering_up", "failed", "boot_timeout", False), "broke"),
        (("warming", "down", "none", "", False), "fell"),
        (("warming", "powering_up", "none", "", False), None),
        (("spare", "up", "none", "", False), None),
        (("spare", "unknown", "none", "", False), None),
        (("spare", "down", "none", "", False), "reset"),
        (("spare", "suspended", "none", "", False), "saved"),  # somebody suspended it past the pool
        (("saving", "saving_state", "live", "", False), None),
        (("saving", "suspended", "done", "", False), "saved"),
        (("saving", "up", "failed", "storage_full", False), "unsaved"),
        (("saving", "up", "none", "", False), "unsaved"),
        (("saving", "down", "failed", "vm_not_running", False), "reset"),
        (("suspended", "suspended", "none", "", False), None),
        (("suspended", "restoring_state", "live", "", False), None),
        (("suspended", "up", "none", "", False), "adopt"),
        (("suspended", "down", "none", "", False), "reset"),
        (("warming", "restoring_state", "live", "", False), None),
        (("warming", "suspended", "failed", "no_host", False), "slept"),
        (("warming", "suspended", "none", "", False), "slept"),
        (("warming", "suspended", "failed", "saved_state_unusable", False), "spoiled"),
        (("warming", "down", "failed", "saved_state_missing", False), "spoiled"),
        (("leased", "suspended", "failed", "saved_state_unusable", False), "reset"),
        (("leased", "up", "none", "", True), None),
        (("leased", "up", "done", "", False), "reset"),  # its lease went elsewhere
        (("resetting", "powering_down", "live", "", False), None),
        (("resetting", "down", "none", "", False), "reset"),  # the task was lost
        (("resetting", "down", "failed", "cancelled", False), "reset"),
        (("resetting", "down", "failed", "storage_broken", False), "broke"),
        (("removing", "down", "failed", "volume_in_use", False), "broke"),
        (("removing", "down", "none", "", False), "remove"),
        (("broken", "up", "failed", "boot_timeout", False), None),
    ],
)
def test_the_next_step_of_a_member(facts: tuple[str, str, str, str, bool], step: str | None) -> None:
    assert member_step(*facts) == step


def test_every_step_of_a_member_is_in_the_table() -> None:
    events = {"created": "created", "warmed": "warmed", "fell": "fell", "broke": "broke", "adopt": "warm"}
    events |= {"saved": "saved", "unsaved": "unsaved", "slept": "slept", "spoiled": "slept"}
    for state in MEMBER.states:
        for vm in VM.states:
            for task, code in (("none", ""), ("live", ""), ("done", ""), ("failed", "no_host"), ("failed", "boot_timeout")):
                for held in (True, False):
                    step = member_step(state, vm, task, code, held)
                    if step in events:
                        assert MEMBER.may(state, events[step]), (state, vm, task, step)


@pytest.mark.parametrize(
    "counts, queued, size, spares, plan",
    [
        ({}, 0, 4, 0, Wanted()),
        ({}, 0, 4, 1, Wanted(create=1)),
        ({}, 1, 4, 1, Wanted(create=2)),
        ({}, 100, 4, 1, Wanted(create=4)),
        ({}, 100, 40, 1, Wanted(create=4)),  # some at a time
        ({"creating": 4}, 100, 40, 1, Wanted()),
        ({"creating": 1}, 0, 4, 1, Wanted()),
        ({"ready": 1}, 0, 4, 1, Wanted(warm=1)),
        ({"warming": 1}, 0, 4, 1, Wanted()),
        ({"leased": 3, "resetting": 1}, 1, 4, 1, Wanted()),
        ({"leased": 3}, 0, 4, 1, Wanted(create=1)),
        ({"leased": 4}, 9, 4, 1, Wanted()),
        ({"leased": 2, "broken": 2}, 9, 4, 1, Wanted()),
        ({"spare": 3}, 0, 4, 1, Wanted(cool=2)),
        ({"spare": 1, "warming": 2}, 0, 4, 1, Wanted(cool=1)),
        ({"spare": 3}, 2, 4, 1, Wanted()),  # they are about to be given out
        ({"leased": 4}, 0, 2, 0, Wanted()),  # never a leased one
        ({"leased": 3, "ready": 1}, 0, 2, 0, Wanted(remove=1)),
        ({"leased": 1, "ready": 1, "spare": 2}, 0, 2, 0, Wanted(remove=1, cool=1)),
        ({"broken": 1, "ready": 2}, 0, 1, 0, Wanted(remove=2)),
        ({"removing": 4}, 1, 4, 0, Wanted(create=1)),
    ],
)
def test_what_the_members_need(counts: dict[str, int], queued: int, size: int, spares: int, plan: Wanted) -> None:
    assert wanted(counts, queued, size, spares) == plan


@pytest.mark.parametrize(
    "counts, queued, spares, running, plan",
    [
        ({"ready": 2}, 0, 2, 0, Wanted(warm=2)),  # each is booted once
        ({"spare": 2}, 0, 2, 0, Wanted(save=2)),
        ({"spare": 2}, 1, 2, 0, Wanted(create=1)),  # somebody is about to get one
        ({"spare": 1, "saving": 1}, 0, 2, 0, Wanted(save=1)),
        ({"spare": 1, "saving": 4}, 0, 5, 0, Wanted()),  # some at a time
        ({"suspended": 2}, 0, 2, 0, Wanted()),
        ({"suspended": 1}, 0, 2, 0, Wanted(create=1)),
        ({"suspended": 2}, 0, 3, 1, Wanted(create=1, wake=1)),  # booked: up when it begins
        ({"suspended": 2, "warming": 1}, 0, 3, 1, Wanted()),
        ({"suspended": 2, "spare": 1}, 0, 2, 0, Wanted(cool=1)),  # surplus goes first
        ({"suspended": 3}, 0, 1, 0, Wanted(cool=2)),
        ({"suspended": 2}, 0, 2, None, Wanted(wake=2)),  # now spares wait running
        ({"suspended": 6}, 0, 0, 0, Wanted(remove=1)),
        ({"suspended": 2, "spare": 4}, 0, 2, 0, Wanted(remove=1)),
    ],
)
def test_suspended_spares(counts: dict[str, int], queued: int, spares: int, running: int | None, plan: Wanted) -> None:
    assert wanted(counts, queued, 5, spares, running=running) == plan


@pytest.mark.parametrize(
    "counts, size, true",
    [({}, 2, False), ({"broken": 1}, 2, False), ({"broken": 2}, 2, True), ({"broken": 2, "leased": 1}, 3, False),
     ({"broken": 1, "resetting": 1}, 2, False), ({"broken": 1, "removing": 1}, 1, True)],
)  # fmt: skip
def test_hopeless(counts: dict[str, int], size: int, true: bool) -> None:
    assert hopeless(counts, size) is true


P = Policy(size=4, lease_s=3600, extend_s=1800, extensions=2, grace_s=60, shutdown_s=10)


def extending(**change: Any) -> datetime:
    given: dict[str, Any] = {"state": "active", "ends_at": at(600), "used": 0, "policy": P, "waiting": 0, "entitled_until": None}
    return extended_end(**{**given, **change})


def test_extending_within_policy() -> None:
    assert extending() == at(600 + 1800)
    assert extending(state="expiring", used=1) == at(600 + 1800)
    assert extending(entitled_until=at(700)) == at(700)


@pytest.mark.parametrize(
    "change, code",
    [
        ({"state": "grace"}, "wrong_state"),
        ({"ends_at": None}, "no_end"),
        ({"used": 2}, "no_extensions_left"),
        ({"policy": Policy(size=4)}, "no_extensions_left"),
        ({"waiting": 3}, "others_wait"),
        ({"entitled_until": at(600)}, "entitlement_ends"),
    ],
)
def test_extending_is_refused_in_words(change: dict[str, Any], code: str) -> None:
    with pytest.raises(Impossible) as no:
        extending(**change)
    assert no.value.code == code and str(no.value).endswith(".")


TURNS = [Turn("leased", at(1000)), Turn("leased", at(500)), Turn("leased", None), Turn("broken")]


@pytest.mark.parametrize(
    "place, turns, to_make, seconds",
    [
        (1, TURNS, 0, 500 + 60 + 10 + 30),
        (2, TURNS, 0, 1000 + 60 + 10 + 30),
        (3, TURNS, 0, 600 + 3600 + 60 + 10 + 30),  # the first desktop again, after a whole lease
        (1, TURNS, 1, 30),
        (2, TURNS, 1, 600),
        (1, [Turn("spare")], 0, 0),
        (1, [Turn("warming", since=at(-20))], 0, 10),
        (1, [Turn("resetting", since=at(-500))], 0, 0),
        (1, [Turn("leased", at(-500))], 0, 40),
        (1, [Turn("broken"), Turn("leased", None)], 0, None),
        (1, [], 0, None),
    ],
)
def test_an_honest_estimate(place: int, turns: list[Turn], to_make: int, seconds: int | None) -> None:
    assert estimate_s(place, turns, P, to_make, 30, 4, NOW) == seconds


def test_leases_without_end_come_back_when_nobody_knows() -> None:
    endless = Policy(size=1, lease_s=None)
    assert estimate_s(1, [Turn("spare")], endless, 0, 30, 4, NOW) == 0
    assert estimate_s(2, [Turn("spare")], endless, 0, 30, 4, NOW) is None


def a_candidate(state: str, vm_state: str = "up", host_state: str = "up", **more: str) -> Candidate:
    return Candidate(uuid4(), uuid4(), f"{state}-{vm_state}", state, vm_state, "alpha", host_state, **more)


def test_the_best_free_member_first() -> None:
    given = [
        a_candidate("ready", "down"), a_candidate("leased"), a_candidate("warming", "powering_up"), a_candidate("spare"),
        a_candidate("spare", "unknown"), a_candidate("spare", host_state="non_responsive"), a_candidate("broken"),
        a_candidate("ready", "up"), a_candidate("creating", "image_locked"), a_candidate("resetting", "down"),
    ]  # fmt: skip
    assert [c.name for c in free(given)] == ["spare-up", "warming-powering_up", "ready-down"]
    assert [c.name for c in free(given, "no room")] == ["spare-up", "warming-powering_up"]


@pytest.mark.parametrize(
    "pool, name",
    [
        ("Desktops", "desktops-7"),
        ("Büro & Lager", "buro-lager-7"),
        ("  ", "desktop-7"),
        ("教室", "desktop-7"),
        ("A" * 80, "a" * 50 + "-7"),
    ],
)
def test_member_names_are_host_names(pool: str, name: str) -> None:
    assert member_name(pool, 7) == name


POOL, OTHER = UUID(int=1), UUID(int=2)
PATH = (("pool", POOL), ("cluster", UUID(int=3)), ("system", None))


@pytest.mark.parametrize(
    "grants, answer",
    [
        ([], (False, None)),
        ([Grant("user", "pool", POOL)], (True, None)),
        ([Grant("user", "pool", OTHER)], (False, None)),
        ([Grant("system_admin", "system", None)], (False, None)),  # who runs a pool is not thereby its user
        ([Grant("user", "cluster", UUID(int=3))], (True, None)),
        ([Grant("user", "pool", POOL, None, at(60))], (True, at(60))),
        ([Grant("user", "pool", POOL, None, at(60)), Grant("user", "system", None, None, at(90))], (True, at(90))),
        ([Grant("user", "pool", POOL, None, at(60)), Grant("user", "system", None)], (True, None)),
        ([Grant("user", "pool", POOL, at(1), None)], (False, None)),
        ([Grant("user", "pool", POOL, None, at(0))], (False, None)),
    ],
)
def test_entitled(grants: list[Grant], answer: tuple[bool, datetime | None]) -> None:
    assert entitled(grants, PATH, NOW) == answer


def test_what_is_held_and_free_are_states() -> None:
    assert set(HOLDING) <= set(LEASE.states) and set(FREE) <= set(MEMBER.states)


def test_surplus_is_what_is_above_the_size_and_works() -> None:
    assert surplus({"leased": 2, "ready": 1}, 1) == 2
    assert surplus({"leased": 2, "broken": 3}, 2) == 0  # those that are set aside go first
    assert surplus({"spare": 1}, 3) == 0
