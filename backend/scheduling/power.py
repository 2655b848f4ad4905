"""Pure: which hosts of a cluster that saves power are switched off because nobody needs them, and which are woken before
room runs out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from backend.scheduling.balance import pressure
from backend.scheduling.facts import HostFacts, Policy

LEAVES = ("preparing_for_maintenance", "maintenance")  # on its way, and can still be called back
SLEEPS = ("down",)
COMES = ("reboot", "connecting")


@dataclass(frozen=True)
class Switch:
    """A host that is to be switched off or on, and why."""

    what: Literal["off", "on"]
    host_id: UUID
    host: str
    why: str


@dataclass(frozen=True)
class Power:
    """What is known of the power of a cluster's hosts."""

    empty_since: Mapping[UUID, datetime]
    switchable: Collection[UUID]  # there is a way to switch them, and no VM is bound to them
    ours: Collection[UUID]  # switched off to save power, or about to be: one that is off for another reason is left alone
    woken_at: Mapping[UUID, datetime]  # when they were last wanted on
    refused: int = 0  # VMs that found no room lately


def switches(hosts: Sequence[HostFacts], policy: Policy, now: datetime, power: Power) -> list[Switch]:
    """At most one switch at once, so that what comes of it is known before the next."""
    limits = policy.thresholds
    ours = [host for host in hosts if host.host_id in power.ours]
    if any(host.state in COMES for host in ours):
        return []
    if why := _wanted(hosts, policy, power):
        can = [host for host in ours if host.state in (*LEAVES, *SLEEPS)]
        return [Switch("on", one.host_id, one.name, why) for one in sorted(can, key=lambda one: _readiest(one, power, now))[:1]]
    if any(host.state in LEAVES for host in ours):
        return []
    spare = _spare(hosts)
    since, rest = now - timedelta(seconds=limits.over_s), now - timedelta(seconds=limits.rest_s)
    unused = [host for host in spare if host.host_id in power.switchable and power.empty_since.get(host.host_id, now) <= since
              and power.woken_at.get(host.host_id, rest) <= rest]  # fmt: skip
    up = sum(host.state == "up" for host in hosts)
    if len(spare) > limits.hosts_in_reserve and up > 1 and unused:
        last = max(unused, key=lambda one: one.name)
        left = len(spare) - 1
        others = "1 empty host is" if left == 1 else f"{left} empty hosts are"
        return [Switch("off", last.host_id, last.name, f"It runs no VM, and {others} left.")]
    return []


def _spare(hosts: Sequence[HostFacts]) -> list[HostFacts]:
    return [host for host in hosts if host.state == "up" and not host.vms]


def _wanted(hosts: Sequence[HostFacts], policy: Policy, power: Power) -> str:
    """Why one more host is to be up; empty when none is."""
    limits, spare = policy.thresholds, len(_spare(hosts))
    used = [host for host in hosts if host.state == "up" and host.vms]
    if policy.balancing != "power_saving" or not limits.shut_down_hosts:
        return "Power is not saved any more."
    if power.refused and not spare:
        return f"{power.refused} VM{'s' if power.refused != 1 else ''} found no room."
    if spare < limits.hosts_in_reserve:
        return f"{spare} of {limits.hosts_in_reserve} empty hosts in reserve {'is' if spare == 1 else 'are'} left."
    if not spare and used and all(pressure(host, limits) >= 1 for host in used):
        return "Every host that is up is busy."
    return ""


def _readiest(host: HostFacts, power: Power, now: datetime) -> tuple[bool, datetime, str]:
    """One that is not off yet first; then those that were not tried lately, for that one may be broken."""
    return host.state in SLEEPS, power.woken_at.get(host.host_id, now - timedelta(days=3650)), host.name
