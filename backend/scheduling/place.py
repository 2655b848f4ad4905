"""Pure: `place(vm, hosts, policy)`: where a VM runs, and why not elsewhere."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from uuid import UUID

from backend.scheduling.facts import Candidate, HostFacts, NoHost, Placement, Policy, VmFacts
from backend.scheduling.policy import FILTERS, SCORES, Filter, Score


def _filters(vm: VmFacts, policy: Policy) -> list[tuple[str, Filter]]:
    return [(name, check) for name in policy.filters if (check := FILTERS[name](vm, policy)) is not None]


def _scores(vm: VmFacts, policy: Policy) -> list[tuple[str, float, Score]]:
    made = ((name, weight, SCORES[name](vm, policy)) for name, weight in policy.scores.items() if weight)
    return [(name, weight, score) for name, weight, score in made if score is not None]


def why_not(vm: VmFacts, host: HostFacts, policy: Policy) -> str | None:
    """The first filter's reason against this host, or None when it can take the VM."""
    return next((reason for _, check in _filters(vm, policy) if (reason := check(host))), None)


def reasons(vm: VmFacts, host: HostFacts, policy: Policy) -> list[str]:
    """Every filter's reason against this host."""
    return [reason for _, check in _filters(vm, policy) if (reason := check(host))]


def score(vm: VmFacts, host: HostFacts, policy: Policy) -> float:
    """The weighted sum of the policy's scores; higher is better."""
    return sum(parts(vm, host, policy).values())


def parts(vm: VmFacts, host: HostFacts, policy: Policy) -> dict[str, float]:
    """What each of the policy's scores adds, by its name."""
    return {name: weight * ask(host) for name, weight, ask in _scores(vm, policy)}


def look(vm: VmFacts, hosts: Sequence[HostFacts], policy: Policy) -> list[Candidate]:
    """Every host with its score, or why it cannot take the VM."""
    checks, scores = _filters(vm, policy), [(weight, ask) for _, weight, ask in _scores(vm, policy)]
    found = []
    for host in hosts:
        for name, check in checks:
            if (why := check(host)) is not None:
                found.append(Candidate(host.host_id, host.name, None, why, name))
                break
        else:
            total = 0.0
            for weight, ask in scores:
                total += weight * ask(host)
            found.append(Candidate(host.host_id, host.name, total, ""))
    return found


def best_first(candidates: Sequence[Candidate], most: int | None = None) -> Iterator[Candidate]:
    """Those that can take it (or so many of them), the best first; the lower name wins a tie."""
    able = [(-one.score, one.name, one) for one in candidates if one.score is not None]
    if most is not None:
        able = heapq.nsmallest(most, able)
    heapq.heapify(able)
    while able:
        yield heapq.heappop(able)[2]


def taken(one: Candidate, candidates: Sequence[Candidate]) -> Placement:
    """The answer that this one of the candidates is taken."""
    return Placement(one.host_id, one.sentence, candidates)


def place(vm: VmFacts, hosts: Sequence[HostFacts], policy: Policy) -> Placement:
    """The best host that passes every filter; the lower name wins a tie. `NoHost` with a reason per host."""
    candidates = look(vm, hosts, policy)
    best = min((one for one in candidates if one.score is not None), key=lambda one: (-(one.score or 0), one.name), default=None)
    if best is None:
        raise NoHost(vm, {one.name: one.why for one in candidates})
    return taken(best, candidates)


def plus(host: HostFacts, vm: VmFacts, sign: int = 1) -> HostFacts:
    """The host as it would be with the VM (or, by a `sign` of -1, without it)."""
    return host._replace(
        memory_promised_mib=host.memory_promised_mib + sign * vm.memory_mib,
        vcpus_promised=host.vcpus_promised + sign * vm.vcpus, vms=host.vms + sign,
    )  # fmt: skip


def fill(vm: VmFacts, hosts: Sequence[HostFacts], policy: Policy, most: int) -> tuple[int, list[HostFacts]]:
    """How many VMs like this one find room one after the other, up to so many, each where it would go; and the hosts as they
    would be then."""
    then = {host.host_id: host for host in hosts}
    heap = [(-one.score, one.name, one.host_id) for one in look(vm, hosts, policy) if one.score is not None]
    heapq.heapify(heap)
    placed = 0
    while heap and placed < most:
        _, _, host_id = heapq.heappop(heap)
        then[host_id] = plus(then[host_id], vm)
        placed += 1
        one = look(vm, [then[host_id]], policy)[0]
        if one.score is not None:
            heapq.heappush(heap, (-one.score, one.name, host_id))
    return placed, list(then.values())


def without(hosts: Sequence[HostFacts], exclude: Sequence[UUID] | frozenset[UUID]) -> list[HostFacts]:
    """The hosts but these."""
    gone = set(exclude)
    return [host for host in hosts if host.host_id not in gone]
