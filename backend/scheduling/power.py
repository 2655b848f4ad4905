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

SLEEPS = ("down",)
GOES = ("preparing_for_maintenance", "maintenance", "reboot", "connecting")  # neither here nor off yet


@dataclass(frozen=True)
class Switch:
    """A host that is to be switched off or on, and why."""

    what: Literal["off", "on"]
    host_id: UUID
    host: str
    why: str


def switches(
    hosts: Sequence[HostFacts], policy: Policy, now: datetime, *, idle_since: Mapping[UUID, datetime],
    switchable: Collection[UUID], ours: Collection[UUID],
) -> list[Switch]:
    """At most one switch at once, so that what comes of it is known before the next.

    `switchable` are hosts whose power can be switched, `ours` those that were switched off to save power, or are about to be:
    a host that is off for another reason is left alone.
    """
    limits = policy.thresholds
    if policy.balancing != "power_saving" or not limits.shut_down_hosts:
        return [Switch("on", one.host_id, one.name, "Power is not saved any more.") for one in hosts
                if one.host_id in ours and one.state in SLEEPS][:1]  # fmt: skip
    up = [host for host in hosts if host.state == "up"]
    if any(host.host_id in ours and host.state in GOES for host in hosts):
        return []
    spare = [host for host in up if not host.vms]
    busy = [host for host in up if pressure(host, limits) >= 1]
    if len(spare) < max(limits.hosts_in_reserve, 1 if busy and len(busy) == len([h for h in up if h.vms]) else 0):
        why = f"Only {len(spare)} of {limits.hosts_in_reserve} hosts in reserve are left."
        return [Switch("on", one.host_id, one.name, why) for one in sorted(hosts, key=lambda one: one.name)
                if one.host_id in ours and one.state in SLEEPS][:1]  # fmt: skip
    since = now - timedelta(seconds=limits.over_s)
    unused = [host for host in spare if host.host_id in switchable and host.host_id in idle_since
              and idle_since[host.host_id] <= since]  # fmt: skip
    if len(spare) > limits.hosts_in_reserve and len(up) > 1 and unused:
        last = max(unused, key=lambda one: one.name)
        why = f"Nobody uses host {last.name}, and {len(spare) - 1} empty hosts are left."
        return [Switch("off", last.host_id, last.name, why)]
    return []
