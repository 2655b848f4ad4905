"""Pure: HostFacts, VmFacts, Policy, `Placement`, `NoHost`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from backend.errors import Impossible


@dataclass(frozen=True)
class HostFacts:
    """A host as the scheduler sees it. `memory_promised_mib` is what its VMs may use, running or about to."""

    host_id: UUID
    name: str
    state: str
    cpus: int
    memory_mib: int
    memory_promised_mib: int
    load1: float
    vms: int
    domains: frozenset[UUID] = frozenset()  # storage domains that it reaches


@dataclass(frozen=True)
class VmFacts:
    """A VM as the scheduler sees it."""

    vm_id: UUID
    name: str
    memory_mib: int
    vcpus: int
    domains: frozenset[UUID] = frozenset()  # where its disks are


@dataclass(frozen=True)
class Policy:
    """The names of the filters and the weights of the scores that a cluster wants."""

    filters: tuple[str, ...] = ("up", "storage", "cpus", "memory")
    scores: Mapping[str, float] = field(default_factory=lambda: {"free_memory": 1.0, "idle": 0.5})
    memory_overcommit_percent: int = 100


@dataclass(frozen=True)
class Placement:
    """The scheduler's answer: the host, why it, and for every other host why not."""

    host_id: UUID
    reason: str
    others: Mapping[str, str]


class NoHost(Impossible):
    """No host can take the VM; the sentence and `facts['hosts']` give the reason for each."""

    def __init__(self, vm: VmFacts, reasons: Mapping[str, str]) -> None:
        why = " ".join(reasons.values()) or "The cluster has no hosts."
        super().__init__("no_host", f"No host can take VM {vm.name}. {why}", hosts=dict(reasons))
