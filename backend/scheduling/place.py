"""Pure: `place(vm, hosts, policy)`: where a VM runs, and why not elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from backend.scheduling.facts import HostFacts, NoHost, Placement, Policy, VmFacts
from backend.scheduling.policy import FILTERS, SCORES


def why_not(vm: VmFacts, host: HostFacts, policy: Policy) -> str | None:
    """The first filter's reason against this host, or None when it can take the VM."""
    for name in policy.filters:
        if reason := FILTERS[name](vm, host, policy):
            return reason
    return None


def score(vm: VmFacts, host: HostFacts, policy: Policy) -> float:
    """The weighted sum of the policy's scores; higher is better."""
    return sum(weight * SCORES[name](vm, host) for name, weight in policy.scores.items())


def place(vm: VmFacts, hosts: Sequence[HostFacts], policy: Policy) -> Placement:
    """The best host that passes every filter; the lower name wins a tie. `NoHost` with a reason per host."""
    reasons = {host.name: why_not(vm, host, policy) for host in hosts}
    fit = [host for host in hosts if reasons[host.name] is None]
    if not fit:
        raise NoHost(vm, {name: why for name, why in reasons.items() if why})
    best = min(fit, key=lambda host: (-score(vm, host, policy), host.name))
    others = {
        host.name: reasons[host.name] or f"Host {host.name} scores {score(vm, host, policy):.2f}."
        for host in hosts
        if host is not best
    }
    return Placement(best.host_id, f"Host {best.name} scores {score(vm, best, policy):.2f}.", others)
