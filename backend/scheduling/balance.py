"""Pure: `rebalance(view, policy, now)`: which running VMs should move where, so that no host is too busy, too full or, when
power is saved, too idle; and why.

Every move is judged by what both hosts would be like after it. A host is relieved only when it has been too busy for a
while; a VM that was moved rests; a move must make the worse of the two hosts better by a margin. So the busiest of the hosts
gets better with every move, and it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from backend.scheduling.facts import HostFacts, Policy, VmFacts
from backend.scheduling.place import best_first, look, plus
from backend.scheduling.policies import Thresholds

MARGIN = 0.05  # of what makes a host too busy: by so much a move must make it better


@dataclass(frozen=True, slots=True)
class Running:
    """A VM that runs: where, how many processors it keeps busy, and when it was moved last."""

    vm: VmFacts
    host_id: UUID
    cpus: float = 0.0
    moved_at: datetime | None = None


@dataclass(frozen=True)
class View:
    """A cluster: its hosts, the VMs of those that give some away, since when hosts have been too busy or too idle, and how
    many moves are under way."""

    hosts: Sequence[HostFacts]
    vms: Mapping[UUID, Sequence[Running]] = field(default_factory=dict)
    busy_since: Mapping[UUID, datetime] = field(default_factory=dict)
    idle_since: Mapping[UUID, datetime] = field(default_factory=dict)
    moving: int = 0


@dataclass(frozen=True)
class Move:
    """A VM that should go to another host, and why."""

    vm_id: UUID
    vm: str
    source_id: UUID
    host_id: UUID
    host: str
    why: str


def pressure(host: HostFacts, limits: Thresholds) -> float:
    """How near a host is to being too busy or too full: 1 is the limit."""
    return max(host.cpu_percent / limits.high_cpu_percent, host.memory_percent / limits.high_memory_percent)


def is_busy(host: HostFacts, policy: Policy) -> bool:
    """Whether the host is so busy or so full that it should give VMs away, if it stays so."""
    return host.state == "up" and host.vms > 0 and pressure(host, policy.thresholds) >= 1


def is_idle(host: HostFacts, policy: Policy) -> bool:
    """Whether the host has so little to do that it should be emptied, or be off, if it stays so."""
    limits = policy.thresholds
    idle = host.cpu_percent <= limits.low_cpu_percent and host.memory_percent <= limits.low_memory_percent
    return host.state == "up" and idle


def givers(view: View, policy: Policy, now: datetime) -> list[HostFacts]:
    """The hosts that should give VMs away, those with the most need first."""
    limits, since = policy.thresholds, now - timedelta(seconds=policy.thresholds.over_s)
    if policy.balancing == "none":
        return []
    if policy.balancing == "vm_evenly_distributed":
        up = [host for host in view.hosts if host.state == "up"]
        fewest = min((_count(host, limits) for host in up), default=0)
        full = [host for host in up if _count(host, limits) >= limits.high_vm_count
                and _count(host, limits) - fewest >= limits.vm_migration_threshold and host.vms]  # fmt: skip
        return sorted(full, key=lambda host: (-_count(host, limits), host.name))
    busy = [host for host in view.hosts if is_busy(host, policy) and _long(view.busy_since, host, since)]
    found = sorted(busy, key=lambda host: (-pressure(host, limits), host.name))
    if policy.balancing == "power_saving":
        idle = [host for host in view.hosts if host.vms and is_idle(host, policy) and _long(view.idle_since, host, since)]
        found += sorted(idle, key=lambda host: (host.vms, host.memory_promised_mib, host.name))[:1]
    return found


def rebalance(view: View, policy: Policy, now: datetime) -> list[Move]:
    """The next moves, no more at once than the policy allows."""
    hosts = {host.host_id: host for host in view.hosts}
    moves: list[Move] = []
    moved: set[UUID] = set()
    groups: set[str] = set()  # of which a VM moves: where the others of these may go is known only after it
    for giver in givers(view, policy, now):
        idle = policy.balancing == "power_saving" and is_idle(giver, policy)
        there = [one for one in view.vms.get(giver.host_id, ()) if _rested(one, policy, now)]
        if idle and not _can_be_emptied(giver, view, hosts, policy, now):
            continue
        while len(moves) + view.moving < policy.thresholds.at_once:
            left = [one for one in there if one.vm.vm_id not in moved and not groups & {g.name for g in one.vm.groups}]
            best = _empty(hosts, giver.host_id, left, policy) if idle else _relieve(hosts, giver.host_id, left, policy)
            if best is None:
                break
            one, target, why = best
            moves.append(Move(one.vm.vm_id, one.vm.name, giver.host_id, target, hosts[target].name, why))
            moved.add(one.vm.vm_id)
            groups |= {group.name for group in one.vm.groups}
            hosts |= after(hosts, one, target)
    return moves


def after(hosts: Mapping[UUID, HostFacts], one: Running, target: UUID) -> dict[UUID, HostFacts]:
    """Both hosts as they would be after the move."""
    source, other = hosts[one.host_id], hosts[target]
    return {source.host_id: _plus(source, one, -1), target: _plus(other, one, 1)}


def _plus(host: HostFacts, one: Running, sign: int) -> HostFacts:
    return plus(host, one.vm, sign)._replace(load1=max(0.0, host.load1 + sign * one.cpus))


def _count(host: HostFacts, limits: Thresholds) -> int:
    return host.vms + (limits.spm_vm_grace if host.coordinates else 0)


def _long(since: Mapping[UUID, datetime], host: HostFacts, before: datetime) -> bool:
    return host.host_id in since and since[host.host_id] <= before


def _rested(one: Running, policy: Policy, now: datetime) -> bool:
    return one.moved_at is None or one.moved_at <= now - timedelta(seconds=policy.thresholds.rest_s)


def _relieve(
    hosts: Mapping[UUID, HostFacts], source: UUID, vms: Sequence[Running], policy: Policy
) -> tuple[Running, UUID, str] | None:
    """The move that leaves the worse of both hosts best off."""
    giver, limits = hosts[source], policy.thresholds
    by_count = policy.balancing == "vm_evenly_distributed"
    others = [host for host in hosts.values() if host.host_id != source]
    if by_count:
        fewest = min((_count(host, limits) for host in others if host.state == "up"), default=0)
        if _count(giver, limits) - fewest < limits.vm_migration_threshold:
            return None
    elif not is_busy(giver, policy):
        return None
    best: tuple[float, str, Running, UUID] | None = None
    for one in vms:
        for candidate in look(one.vm, others, policy):
            if candidate.score is None:
                continue
            then = after(hosts, one, candidate.host_id)
            if by_count:
                worse = float(max(_count(host, limits) for host in then.values()))
                good = worse < _count(giver, limits)
            else:
                worse = max(pressure(host, limits) for host in then.values())
                good = worse <= pressure(giver, limits) - MARGIN and pressure(then[candidate.host_id], limits) < 1
            if good and (best is None or (worse, one.vm.name, candidate.name) < (best[0], best[1], hosts[best[3]].name)):
                best = (worse, one.vm.name, one, candidate.host_id)
    if best is None:
        return None
    return best[2], best[3], _why(giver, policy)


def _why(giver: HostFacts, policy: Policy) -> str:
    limits = policy.thresholds
    if policy.balancing == "vm_evenly_distributed":
        return f"Host {giver.name} has {giver.vms} VMs, many more than others."
    if giver.cpu_percent >= limits.high_cpu_percent:
        return f"The processors of host {giver.name} are {giver.cpu_percent:.0f} % busy; more than {limits.high_cpu_percent} % " \
               "is too much."  # fmt: skip
    return f"Host {giver.name} has promised {giver.memory_percent:.0f} % of its memory; more than " \
           f"{limits.high_memory_percent} % is too much."  # fmt: skip


def _empty(
    hosts: Mapping[UUID, HostFacts], source: UUID, vms: Sequence[Running], policy: Policy
) -> tuple[Running, UUID, str] | None:
    """The next VM of a host that is to be empty, to a host that has VMs already and does not become too busy."""
    limits = policy.thresholds
    for one in sorted(vms, key=lambda one: (-one.vm.memory_mib, one.vm.name)):
        others = [host for host in hosts.values() if host.host_id != source and host.vms]
        for candidate in best_first(look(one.vm, others, policy)):
            if pressure(after(hosts, one, candidate.host_id)[candidate.host_id], limits) < 1 - MARGIN:
                return one, candidate.host_id, f"Host {hosts[source].name} has so little to do that it is emptied."
    return None


def _can_be_emptied(giver: HostFacts, view: View, hosts: Mapping[UUID, HostFacts], policy: Policy, now: datetime) -> bool:
    """Whether all its VMs would find a place on other hosts that have some: half emptied it would be of no use."""
    left, then = list(view.vms.get(giver.host_id, ())), dict(hosts)
    if len(left) < giver.vms or not all(_rested(one, policy, now) for one in left):
        return False
    while left:
        found = _empty(then, giver.host_id, left, policy)
        if found is None:
            return False
        then |= after(then, found[0], found[1])
        left.remove(found[0])
    return True
