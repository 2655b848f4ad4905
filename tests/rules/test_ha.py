"""What is decided about silent hosts and lost VMs: one case a rule, then sequences of whatever may happen."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.ha.rules import (
    AskPower,
    Decision,
    Fence,
    FencingPolicy,
    GiveUp,
    HostView,
    Lost,
    Over,
    Proved,
    Restart,
    RestartView,
    Settled,
    SoftFence,
    View,
    Wait,
    decide,
)

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
ONE, TWO, CLUSTER, CENTER = UUID(int=1), UUID(int=2), UUID(int=10), UUID(int=20)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


LOST = HostView(ONE, "alpha", CLUSTER, CENTER, "non_responsive", ago(60), 20, 1, softened_at=ago(40), outage=True)
SILENT = replace(LOST, state="connecting", answered_at=ago(11), power_asked_at=ago(1), power_said="on")
UP = HostView(TWO, "beta", CLUSTER, CENTER, "up", ago(1))
MORE = [replace(UP, host_id=UUID(int=n), name=f"h{n}") for n in range(3, 6)]


def about(host: HostView, *others: HostView, policy: FencingPolicy | None = None, **more: object) -> list[Decision]:
    view = View([host, *(others or (UP, *MORE))], [], {CLUSTER: policy or FencingPolicy()}, **more)  # type: ignore[arg-type]
    return [one for one in decide(view, NOW) if getattr(one, "host_id", None) == host.host_id]


def test_a_lost_host_is_fenced() -> None:
    assert about(LOST) == [Fence(ONE)]


@pytest.mark.parametrize("host, decided", [
    (replace(LOST, state="up"), [Over(ONE)]),
    (replace(LOST, state="connecting", softened_at=None, answered_at=ago(11)), [SoftFence(ONE), AskPower(ONE)]),
    (replace(SILENT, answered_at=ago(14)), []),
    (replace(SILENT, answered_at=ago(15)), [Lost(ONE), Fence(ONE)]),
    (replace(SILENT, power_said="off"), [Lost(ONE), Fence(ONE)]),  # then no answer is awaited
    (replace(SILENT, power_said="off", softened_at=ago(1)), [Lost(ONE), Fence(ONE)]),
    (replace(SILENT, power_said="off", silences=1), []),
    (replace(LOST, state="connecting", power_agents=0), []),  # the monitor's own time counts
    (replace(LOST, softened_at=None), [SoftFence(ONE), Wait(ONE)]),
    (replace(LOST, softened_at=ago(4)), [Wait(ONE)]),
    (replace(LOST, silences=1), []),  # nobody has asked often enough
    (replace(LOST, answered_at=None), []),  # it never answered
    (replace(LOST, fenced_now=True), []),
    (replace(LOST, proved=True), []),
    (replace(LOST, second="dead"), [Proved(ONE, "its storage lease has run out")]),
    (replace(LOST, tries=1, tried_at=ago(29)), [Wait(ONE)]),
    (replace(LOST, tries=1, tried_at=ago(30)), [Fence(ONE)]),
    (replace(LOST, tries=2, tried_at=ago(59)), [Wait(ONE)]),
    (replace(LOST, gave_up=True), [Wait(ONE)]),
    (replace(LOST, state="reboot"), []),
    (replace(LOST, state="down"), []),
])  # fmt: skip
def test_cases(host: HostView, decided: list[Decision]) -> None:
    assert about(host) == decided


@pytest.mark.parametrize("host, policy, more, why", [
    (LOST, FencingPolicy(enabled=False), {}, "Fencing is switched off"),
    (replace(LOST, power_agents=0), None, {}, "no power agent"),
    (LOST, None, {"started_at": ago(30)}, "just started; it is not fenced before 08:00:30"),
    (replace(LOST, second="alive"), None, {}, "still renews its storage lease"),
    (replace(LOST, dumping_until=NOW + timedelta(seconds=9)), None, {}, "writes down why its kernel crashed"),
])  # fmt: skip
def test_it_is_said_why_nothing_is_done(
    host: HostView, policy: FencingPolicy | None, more: dict[str, object], why: str
) -> None:
    (decided,) = about(host, policy=policy, **more)
    assert isinstance(decided, Wait) and why in decided.why


def test_a_living_lease_does_not_hinder_when_the_policy_says_so() -> None:
    assert about(replace(LOST, second="alive"), policy=FencingPolicy(skip_if_lease_alive=False)) == [Fence(ONE)]


def test_it_is_given_up_after_three_tries() -> None:
    (decided,) = about(replace(LOST, tries=3, tried_at=ago(999)))
    assert isinstance(decided, GiveUp) and "confirm" in decided.why


def test_most_hosts_silent() -> None:
    silent = replace(LOST, host_id=UUID(int=3), name="gamma")
    assert about(LOST, UP, silent) == [AskPower(ONE)]
    (decided,) = about(replace(LOST, power_asked_at=ago(5), power_said="on"), UP, silent)
    assert isinstance(decided, Wait) and "the manager that is cut off" in decided.why
    assert about(replace(LOST, power_asked_at=ago(5), power_said="off"), UP, silent) == [Fence(ONE)]
    assert about(LOST, UP) == [Fence(ONE)]  # one of two is not more than half


def test_nobody_is_left_to_ask() -> None:
    (decided,) = about(LOST, replace(UP, state="maintenance"))
    assert isinstance(decided, Wait) and "No other host is up" in decided.why


def test_no_more_at_once_than_allowed() -> None:
    others = [replace(LOST, host_id=UUID(int=n), name=f"h{n}") for n in range(3, 6)]
    up = [replace(UP, host_id=UUID(int=n), name=f"u{n}") for n in range(6, 16)]
    decided = decide(View([LOST, *others, *up], [], {CLUSTER: FencingPolicy(at_once=2)}), NOW)
    assert [type(one) for one in decided] == [Fence, Fence, Wait, Wait]


def test_vms_are_started_by_priority_and_only_when_they_are_down() -> None:
    def vm(n: int, state: str, priority: int = 50, **more: object) -> RestartView:
        return RestartView(UUID(int=n), f"vm{n}", state, True, priority, **more)  # type: ignore[arg-type]

    vms = [vm(1, "down"), vm(2, "down", 100), vm(3, "unknown"), vm(4, "up"), vm(5, "down", busy=True), vm(6, "suspended", 1),
           vm(7, "down", not_before=NOW + timedelta(seconds=1)), replace(vm(8, "down"), protected=False),
           vm(9, "down", failed=10)]
    decided = decide(View([], vms), NOW)
    assert [one.vm_id.int for one in decided if isinstance(one, Restart)] == [2, 1, 6]
    settled = {one.vm_id.int: one.why for one in decided if isinstance(one, Settled)}
    assert settled.keys() == {4, 8, 9} and "could not be started in 10 tries" in settled[9]


hosts = st.builds(
    HostView, host_id=st.uuids(), name=st.text("abc", min_size=1, max_size=3), cluster_id=st.just(CLUSTER),
    data_center_id=st.just(CENTER), answered_at=st.none() | st.integers(0, 200).map(ago), silences=st.integers(0, 9),
    state=st.sampled_from(("up", "connecting", "non_responsive", "reboot", "down", "maintenance")),
    power_agents=st.integers(0, 2),
    fenced_now=st.booleans(), proved=st.booleans(), second=st.sampled_from(("unknown", "alive", "dead")),
    softened_at=st.none() | st.integers(0, 60).map(ago), dumping_until=st.none() | st.integers(-60, 60).map(ago),
    power_said=st.sampled_from(("", "on", "off")), tries=st.integers(0, 4), gave_up=st.booleans(), outage=st.booleans(),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))  # a busy machine is no fault of theirs
@given(st.lists(hosts, max_size=8, unique_by=lambda host: host.host_id), st.integers(1, 3), st.booleans())
def test_whatever_is_seen(seen: list[HostView], at_once: int, enabled: bool) -> None:
    """Never more fences than allowed, none of a host that was just heard, none that is proved, one decision a silent host."""
    decided = decide(View(seen, [], {CLUSTER: FencingPolicy(enabled, at_once=at_once)}), NOW)
    by_id = {host.host_id: host for host in seen}
    fences = [by_id[one.host_id] for one in decided if isinstance(one, Fence)]
    assert not fences or len(fences) + sum(host.fenced_now for host in seen) <= at_once
    for host in fences:
        assert enabled and host.power_agents and host.silences >= 2
        assert host.state == "non_responsive" or Lost(host.host_id) in decided
        assert not host.proved and not host.fenced_now and host.second != "alive"
        assert any(other.state == "up" for other in seen)
    about_one = [one.host_id for one in decided if not isinstance(one, (SoftFence, Lost, AskPower))]  # type: ignore[union-attr]
    assert len(about_one) == len(set(about_one))
