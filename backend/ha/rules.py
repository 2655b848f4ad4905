"""Pure: `decide(view, now)`: what is to be done about hosts that do not answer and VMs that went down with them.

Nothing here concludes from silence that a host is off. Its VMs are free only when there is proof: the host's own answer,
a power agent that says “off” after it was asked to switch it off, somebody who confirms it, or a second proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

SECOND = Literal["unknown", "alive", "dead"]
SILENT = ("connecting", "non_responsive")
SPEAKING = ("up", "preparing_for_maintenance", "non_operational", "error")
LEAST_SILENCES = 2  # that nobody has asked is no silence
SOFT_S = 5.0  # how long an agent that was restarted may take to answer
MOST_TRIES = 3  # of fencing a host, before a person is asked
ASK_AGAIN = timedelta(seconds=30)
RESTART_PAUSES = (0.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)  # before each further try to start a VM again
MOST_RESTARTS = 10  # that fail for other reasons than want of room


@dataclass(frozen=True)
class FencingPolicy:
    """What a cluster wants done about its hosts that do not answer."""

    enabled: bool = True
    grace_s: int = 15  # of silence, before a host that can be fenced counts as lost
    silent_percent: int = 50  # with more than this share of the hosts silent, it is the manager that is cut off
    at_once: int = 3
    skip_if_lease_alive: bool = True
    kdump_wait_s: int = 60


@dataclass(frozen=True)
class HostView:
    """A host, what it was last heard to say, and what was done about its silence."""

    host_id: UUID
    name: str
    cluster_id: UUID
    data_center_id: UUID
    state: str
    answered_at: datetime | None  # none: it never has
    silences: int = 0
    power_agents: int = 0
    fenced_now: bool = False  # a task is at its power
    proved: bool = False  # that it is off, since it fell silent
    second: SECOND = "unknown"
    softened_at: datetime | None = None
    dumping_until: datetime | None = None
    power_said: str = ""  # on | off, as its power agents said when they were last asked
    power_asked_at: datetime | None = None
    tries: int = 0
    tried_at: datetime | None = None
    gave_up: bool = False
    outage: bool = False  # there is a row about its silence


@dataclass(frozen=True)
class RestartView:
    """A VM that went down with its host and is to run again."""

    vm_id: UUID
    name: str
    state: str
    protected: bool  # still
    priority: int
    busy: bool = False  # a task is at it
    tries: int = 0
    failed: int = 0  # … of which for another reason than want of room
    not_before: datetime | None = None


@dataclass(frozen=True)
class View:
    """All that a decision is made from."""

    hosts: Sequence[HostView]
    restarts: Sequence[RestartView]
    policies: dict[UUID, FencingPolicy] = field(default_factory=dict)  # by cluster
    started_at: datetime | None = None  # the manager's start
    quiet_s: float = 60.0


@dataclass(frozen=True)
class Wait:
    """Nothing is done about this host yet; `why` is what is told, empty for what is over in seconds."""

    host_id: UUID
    why: str = ""


@dataclass(frozen=True)
class Lost:
    """The host's time to answer is over: its VMs are in an unknown state."""

    host_id: UUID


@dataclass(frozen=True)
class SoftFence:
    """Restart the host's agent."""

    host_id: UUID


@dataclass(frozen=True)
class AskPower:
    """Ask the host's power agents whether it is on."""

    host_id: UUID


@dataclass(frozen=True)
class Fence:
    """Switch the host off, and on again once its VMs are free."""

    host_id: UUID


@dataclass(frozen=True)
class Proved:
    """The host is proved off without its power agents."""

    host_id: UUID
    how: str


@dataclass(frozen=True)
class GiveUp:
    """Leave the host to a person, who is told why."""

    host_id: UUID
    why: str


@dataclass(frozen=True)
class Over:
    """The host answers: its silence is history."""

    host_id: UUID


@dataclass(frozen=True)
class Restart:
    """Start this VM again."""

    vm_id: UUID


@dataclass(frozen=True)
class Settled:
    """The VM runs, or is not to run again by itself; `why` says so when it is given up."""

    vm_id: UUID
    why: str = ""


Decision = Wait | Lost | SoftFence | AskPower | Fence | Proved | GiveUp | Over | Restart | Settled


def decide(view: View, now: datetime) -> list[Decision]:
    """What is to be done now: hosts by name, then VMs by priority."""
    return [*_hosts(view, now), *_restarts(view.restarts, now)]


# -- hosts --------------------------------------------------------------------------------------------
def _hosts(view: View, now: datetime) -> Iterator[Decision]:
    begun: list[HostView] = [host for host in view.hosts if host.fenced_now]
    for host in sorted(view.hosts, key=lambda one: one.name):
        policy = view.policies.get(host.cluster_id, FencingPolicy())
        if host.state not in SILENT:
            if host.outage and host.state in (*SPEAKING, "maintenance"):
                yield Over(host.host_id)
            continue
        if host.fenced_now or host.proved or not _fell_silent(host):
            continue
        if host.softened_at is None:
            yield SoftFence(host.host_id)
        if host.state == "connecting":
            if _may_be_asked(host, policy, view):
                yield AskPower(host.host_id)
            if not (_may_be_fenced(host, policy) and (_since(host, now) >= policy.grace_s or _has_no_power(host))):
                continue
            yield Lost(host.host_id)
            host = replace(host, state="non_responsive")
        decision = _about_lost(host, policy, view, begun, now)
        if isinstance(decision, Fence):
            begun.append(host)
        yield decision


def _about_lost(host: HostView, policy: FencingPolicy, view: View, begun: Sequence[HostView], now: datetime) -> Decision:
    if host.second == "dead":
        return Proved(host.host_id, "its storage lease has run out")
    if not policy.enabled:
        return Wait(host.host_id, f"Fencing is switched off in its cluster. {_by_hand(host)}")
    if not host.power_agents:
        return Wait(host.host_id, f"It has no power agent. {_by_hand(host)}")
    if host.gave_up:
        return Wait(host.host_id)
    if view.started_at is not None and (now - view.started_at).total_seconds() < view.quiet_s:
        until = view.started_at + timedelta(seconds=view.quiet_s)
        return Wait(host.host_id, f"The manager has just started; it is not fenced before {until:%H:%M:%S} UTC.")
    if host.second == "alive" and policy.skip_if_lease_alive:
        return Wait(host.host_id, "It still renews its storage lease, so it lives and its VMs may run.")
    if host.dumping_until is not None and now < host.dumping_until:
        return Wait(host.host_id, f"It writes down why its kernel crashed, until {host.dumping_until:%H:%M:%S} UTC at most.")
    softening = host.softened_at is None or (now - host.softened_at).total_seconds() < SOFT_S
    if softening and not _has_no_power(host):
        return Wait(host.host_id)
    if not _has_no_power(host) and (where := _cut_off(host, policy, view)):
        if host.power_asked_at is None or now - host.power_asked_at >= ASK_AGAIN:
            return AskPower(host.host_id)
        return Wait(host.host_id, f"Most hosts of {where} do not answer, so it may be the manager that is cut off.")
    if sum(other.cluster_id == host.cluster_id for other in begun) >= policy.at_once:
        return Wait(host.host_id, f"{policy.at_once} host(s) of its cluster are being fenced; it is next.")
    if not any(_proxy(other, host) for other in view.hosts):
        return Wait(host.host_id, f"No other host is up that could reach its power agent. {_by_hand(host)}")
    if host.tries >= MOST_TRIES:
        return GiveUp(host.host_id, f"Its power agents failed {host.tries} times. {_by_hand(host)}")
    if host.tried_at is not None and now - host.tried_at < ASK_AGAIN * host.tries:
        return Wait(host.host_id)
    return Fence(host.host_id)


def _fell_silent(host: HostView) -> bool:
    return host.answered_at is not None and host.silences >= LEAST_SILENCES


def _since(host: HostView, now: datetime) -> float:
    return (now - host.answered_at).total_seconds() if host.answered_at is not None else 0.0


def _may_be_asked(host: HostView, policy: FencingPolicy, view: View) -> bool:
    """Whether its power agents are to be asked while it may still answer: of one that has no power no answer is awaited."""
    known = host.power_asked_at is not None
    return policy.enabled and host.power_agents > 0 and not known and any(_proxy(other, host) for other in view.hosts)


def _has_no_power(host: HostView) -> bool:
    """Whether its power agents say so. It is no proof: somebody may switch it on this moment. But nothing is interrupted."""
    return host.power_said == "off"


def _may_be_fenced(host: HostView, policy: FencingPolicy) -> bool:
    return (policy.enabled and host.power_agents > 0) or host.second == "dead"


def _cut_off(host: HostView, policy: FencingPolicy, view: View) -> str:
    """Where too many hosts are silent to fence this one; empty when they are not."""
    cluster = [other for other in view.hosts if other.cluster_id == host.cluster_id]
    center = [other for other in view.hosts if other.data_center_id == host.data_center_id]
    for words, near in (("its cluster", cluster), ("its data center", center)):
        silent = sum(other.state in SILENT and not other.proved for other in near)
        asked = silent + sum(other.state in SPEAKING for other in near)
        if asked > 1 and silent * 100 > policy.silent_percent * asked:
            return words
    return ""


def _proxy(other: HostView, host: HostView) -> bool:
    return other.host_id != host.host_id and other.state == "up" and other.data_center_id == host.data_center_id


def _by_hand(host: HostView) -> str:
    return f"See that {host.name} is off, then confirm that it was rebooted."


# -- VMs ----------------------------------------------------------------------------------------------
def _restarts(restarts: Iterable[RestartView], now: datetime) -> Iterator[Decision]:
    for vm in sorted(restarts, key=lambda one: (-one.priority, len(one.name), one.name)):
        if vm.state not in ("down", "suspended"):
            if vm.state not in ("wait_for_launch", "image_locked", "restoring_state", "unknown"):
                yield Settled(vm.vm_id)
        elif not vm.protected:
            yield Settled(vm.vm_id)
        elif vm.failed >= MOST_RESTARTS:
            yield Settled(vm.vm_id, f"It could not be started in {vm.failed} tries. See why, then start it.")
        elif not vm.busy and (vm.not_before is None or now >= vm.not_before):
            yield Restart(vm.vm_id)


def pause_after(tries: int) -> timedelta:
    """How long to wait after so many tries to start a VM again."""
    return timedelta(seconds=RESTART_PAUSES[min(tries, len(RESTART_PAUSES) - 1)])
