"""Pure: named filters (each gives its reason) and named scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backend.scheduling.facts import HostFacts, Policy, VmFacts


def up(vm: VmFacts, host: HostFacts, policy: Policy) -> str | None:
    """A VM starts only on a host that is up."""
    return None if host.state == "up" else f"Host {host.name} is {host.state.replace('_', ' ')}."


def storage(vm: VmFacts, host: HostFacts, policy: Policy) -> str | None:
    """All disks of the VM lie on domains that the host reaches."""
    return None if vm.domains <= host.domains else f"Host {host.name} does not reach the storage of VM {vm.name}."


def cpus(vm: VmFacts, host: HostFacts, policy: Policy) -> str | None:
    """The VM has no more virtual CPUs than the host has CPUs."""
    return None if vm.vcpus <= host.cpus else f"Host {host.name} has {host.cpus} CPUs; {vm.vcpus} are wanted."


def memory(vm: VmFacts, host: HostFacts, policy: Policy) -> str | None:
    """What all its VMs may use stays within the host's memory times the cluster's overcommitment."""
    free = host.memory_mib * policy.memory_overcommit_percent // 100 - host.memory_promised_mib
    if vm.memory_mib <= free:
        return None
    return f"Host {host.name} cannot take VM {vm.name}: {vm.memory_mib:,} MiB wanted, {max(0, free):,} MiB free."


def free_memory(vm: VmFacts, host: HostFacts) -> float:
    """0 … 1: the share of the host's memory that would still be unpromised."""
    return max(0.0, 1 - (host.memory_promised_mib + vm.memory_mib) / max(1, host.memory_mib))


def idle(vm: VmFacts, host: HostFacts) -> float:
    """0 … 1: how little the host's CPUs have to do (load average a CPU)."""
    return max(0.0, 1 - host.load1 / max(1, host.cpus))


FILTERS: Mapping[str, Callable[[VmFacts, HostFacts, Policy], str | None]] = {
    "up": up,
    "storage": storage,
    "cpus": cpus,
    "memory": memory,
}
SCORES: Mapping[str, Callable[[VmFacts, HostFacts], float]] = {"free_memory": free_memory, "idle": idle}
