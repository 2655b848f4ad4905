"""Pure: named filters (each gives its reason) and named scores.

Each is made for one VM and answers what to ask of every host; None when there is nothing to ask for this VM, so that
two thousand hosts are not asked in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backend.scheduling.facts import HostFacts, Policy, VmFacts

Filter = Callable[[HostFacts], str | None]
Score = Callable[[HostFacts], float]
_WORDS = {"maintenance": "in maintenance", "error": "in error", "preparing_for_maintenance": "being prepared for maintenance"}
MANY_VMS = 100  # a host with so many scores nothing for having few


def _words(state: str) -> str:
    return _WORDS.get(state, state.replace("_", " "))


def up(vm: VmFacts, policy: Policy) -> Filter | None:
    """A VM starts only on a host that is up."""
    return lambda host: None if host.state == "up" else f"Host {host.name} is {_words(host.state)}."


def pinned(vm: VmFacts, policy: Policy) -> Filter | None:
    """A pinned VM runs on its own hosts alone."""
    if not vm.pinned:
        return None
    return lambda host: None if host.host_id in vm.pinned else f"VM {vm.name} is pinned to other hosts than {host.name}."


def storage(vm: VmFacts, policy: Policy) -> Filter | None:
    """All disks of the VM lie on domains that the host reaches."""
    if not vm.domains:
        return None
    wanted = vm.domains
    return lambda host: (
        None if wanted <= host.domains else f"Host {host.name} does not reach the storage of VM {vm.name}."
    )


def networks(vm: VmFacts, policy: Policy) -> Filter | None:
    """The host has every network that the VM needs."""
    if not vm.networks:
        return None

    def why(host: HostFacts) -> str | None:
        if vm.networks <= host.networks:
            return None
        lacking = sorted(vm.networks - host.networks)
        return f"Host {host.name} lacks the network{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}."

    return why


def cpu_model(vm: VmFacts, policy: Policy) -> Filter | None:
    """The host can give the VM the processor that it runs with, or that its cluster promises."""
    if not vm.cpu:
        return None
    return lambda host: (
        f"Host {host.name} cannot give VM {vm.name} the CPU {vm.cpu}: {host.cpu_lacks}" if host.cpu_lacks else None
    )


def cpus(vm: VmFacts, policy: Policy) -> Filter | None:
    """The VM has no more virtual CPUs than the host has CPUs."""
    wanted = vm.vcpus
    return lambda host: None if wanted <= host.cpus else f"Host {host.name} has {host.cpus} CPUs; {wanted} are wanted."


def memory(vm: VmFacts, policy: Policy) -> Filter | None:
    """What all its VMs may use stays within the host's memory times the cluster's overcommitment."""
    wanted, percent = vm.memory_mib, policy.memory_overcommit_percent

    def why(host: HostFacts) -> str | None:
        free = host.memory_mib * percent // 100 - host.memory_promised_mib
        if wanted <= free:
            return None
        return f"Host {host.name} cannot take VM {vm.name}: {wanted:,} MiB wanted, {max(0, free):,} MiB free."

    return why


def labels(vm: VmFacts, policy: Policy) -> Filter | None:
    """The host has every label that the VM has."""
    if not vm.labels:
        return None

    def why(host: HostFacts) -> str | None:
        if vm.labels <= host.labels:
            return None
        lacking = sorted(vm.labels - host.labels)
        return f"Host {host.name} lacks the label{'s' if len(lacking) > 1 else ''} {', '.join(lacking)} of VM {vm.name}."

    return why


def host_affinity(vm: VmFacts, policy: Policy) -> Filter | None:
    """Hard rules of its affinity groups about hosts."""
    groups = [group for group in vm.groups if group.host_hard and group.host_rule != "none"]
    if not groups:
        return None

    def why(host: HostFacts) -> str | None:
        for group in groups:
            if group.host_rule == "positive" and host.host_id not in group.hosts:
                return f"Host {host.name} is none of the hosts of affinity group {group.name}."
            if group.host_rule == "negative" and host.host_id in group.hosts:
                return f"Host {host.name} is kept free of the VMs of affinity group {group.name}."
        return None

    return why


def vm_affinity(vm: VmFacts, policy: Policy) -> Filter | None:
    """Hard rules of its affinity groups about other VMs. Where none of them runs, a positive rule binds nobody yet."""
    groups = [group for group in vm.groups if group.vm_hard and group.peers and group.vm_rule != "none"]
    if not groups:
        return None

    def why(host: HostFacts) -> str | None:
        for group in groups:
            here = group.peers.get(host.host_id)
            if group.vm_rule == "positive" and not here:
                other = min(min(names) for names in group.peers.values())
                return f"Affinity group {group.name} keeps VM {vm.name} with VM {other}, which is not on host {host.name}."
            if group.vm_rule == "negative" and here:
                return f"Affinity group {group.name} keeps VM {vm.name} apart from VM {min(here)}, which is on host {host.name}."
        return None

    return why


def free_memory(vm: VmFacts, policy: Policy) -> Score | None:
    """0 … 1: the share of the host's memory that would still be unpromised."""
    wanted = vm.memory_mib
    return lambda host: max(0.0, 1 - (host.memory_promised_mib + wanted) / (host.memory_mib or 1))


def idle(vm: VmFacts, policy: Policy) -> Score | None:
    """0 … 1: how little the host's CPUs have to do (load average a CPU)."""
    return lambda host: max(0.0, 1 - host.load1 / (host.cpus or 1))


def free_cpus(vm: VmFacts, policy: Policy) -> Score | None:
    """0 … 1: how few virtual CPUs its VMs would have for each of the host's; four a CPU count as full."""
    wanted = vm.vcpus
    return lambda host: max(0.0, 1 - (host.vcpus_promised + wanted) / (4 * (host.cpus or 1)))


def packed(vm: VmFacts, policy: Policy) -> Score | None:
    """0 … 1: how full the host's memory would be; an empty host is opened last."""
    wanted = vm.memory_mib
    return lambda host: min(1.0, (host.memory_promised_mib + wanted) / (host.memory_mib or 1)) if host.vms else 0.0


def calm(vm: VmFacts, policy: Policy) -> Score | None:
    """0 for a host whose processors are too busy to be given more, 1 for any other."""
    high = policy.thresholds.high_cpu_percent
    return lambda host: 0.0 if 100 * host.load1 >= high * (host.cpus or 1) else 1.0


def few_vms(vm: VmFacts, policy: Policy) -> Score | None:
    """0 … 1: how few VMs the host has; the storage pool manager counts as having some more."""
    grace = policy.thresholds.spm_vm_grace
    return lambda host: max(0.0, 1 - (host.vms + (grace if host.coordinates else 0)) / MANY_VMS)


def affinity(vm: VmFacts, policy: Policy) -> Score | None:
    """0 … 1: how well the host suits the soft rules of its affinity groups, each by its priority."""
    rules: list[tuple[float, Score]] = []
    for group in vm.groups:
        if group.host_rule != "none" and not group.host_hard:
            wanted = group.host_rule == "positive"
            rules.append((group.priority, lambda host, g=group, w=wanted: float((host.host_id in g.hosts) == w)))  # type: ignore[misc]
        if group.vm_rule != "none" and not group.vm_hard and group.peers:
            total, positive = sum(map(len, group.peers.values())), group.vm_rule == "positive"
            rules.append((group.priority, lambda host, g=group, t=total, p=positive: _share(g.peers.get(host.host_id), t, p)))  # type: ignore[misc]
    if not rules:
        return None
    weight = sum(priority for priority, _ in rules) or 1.0
    return lambda host: sum(priority * suits(host) for priority, suits in rules) / weight


def _share(here: object, total: int, positive: bool) -> float:
    share = len(here) / total if here else 0.0  # type: ignore[arg-type]
    return share if positive else 1 - share


FILTERS: Mapping[str, Callable[[VmFacts, Policy], Filter | None]] = {
    one.__name__: one
    for one in (up, pinned, storage, networks, cpu_model, cpus, memory, labels, host_affinity, vm_affinity)
}
SCORES: Mapping[str, Callable[[VmFacts, Policy], Score | None]] = {
    one.__name__: one for one in (free_memory, idle, free_cpus, packed, calm, few_vms, affinity)
}
