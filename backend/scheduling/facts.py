"""Pure: HostFacts, VmFacts, GroupFacts, Policy, `Placement`, `NoHost`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import nsmallest
from typing import Any, NamedTuple
from uuid import UUID

from backend.errors import Impossible
from backend.scheduling.policies import Thresholds

TOLD = 50  # reasons that a refusal carries
KEPT = 20  # hosts of either kind that a stored decision names; the others are counted
_SAID = 8  # of them in a refusal's sentence


class HostFacts(NamedTuple):
    """A host as the scheduler sees it. What is promised is what its VMs may use, running or about to. A tuple: of a large
    cluster thousands are made for each VM that is placed."""

    host_id: UUID
    name: str
    state: str
    cpus: int
    memory_mib: int
    memory_promised_mib: int
    load1: float
    vms: int
    domains: frozenset[UUID] = frozenset()  # storage domains that it reaches
    vcpus_promised: int = 0
    networks: frozenset[str] = frozenset()
    cpu_lacks: str = ""  # what keeps it from giving the VM (or any of its cluster) the CPU that it is to have
    labels: frozenset[str] = frozenset()
    coordinates: bool = False  # whether it is the storage pool manager, which should have time for that

    @property
    def cpu_percent(self) -> float:
        """How busy its processors are: the load of the last minute a processor."""
        return 100 * self.load1 / max(1, self.cpus)

    @property
    def memory_percent(self) -> float:
        """How much of its memory is promised."""
        return 100 * self.memory_promised_mib / max(1, self.memory_mib)


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """An affinity group as it concerns one of its VMs. Rules are `positive`, `negative` or `none`; hard ones are never broken."""

    name: str
    vm_rule: str = "none"
    vm_hard: bool = False
    host_rule: str = "none"
    host_hard: bool = False
    hosts: frozenset[UUID] = frozenset()
    peers: Mapping[UUID, Sequence[str]] = field(default_factory=dict)  # host -> the group's other VMs that run there
    priority: float = 1.0


@dataclass(frozen=True, slots=True)
class VmFacts:
    """A VM as the scheduler sees it."""

    vm_id: UUID
    name: str
    memory_mib: int
    vcpus: int
    domains: frozenset[UUID] = frozenset()  # where its disks are
    networks: frozenset[str] = frozenset()
    cpu: str = ""  # the name of the CPU that it runs with, or is to be given
    cpu_id: str = ""
    labels: frozenset[str] = frozenset()  # its host must have all of them
    pinned: frozenset[UUID] = frozenset()  # the only hosts that it may run on; none: all
    groups: tuple[GroupFacts, ...] = ()


@dataclass(frozen=True)
class Policy:
    """The names of the filters and the weights of the scores that a cluster wants, and how it is balanced."""

    filters: tuple[str, ...] = (
        "up", "pinned", "storage", "networks", "cpu_model", "cpus", "memory", "labels", "host_affinity", "vm_affinity",
    )  # fmt: skip
    scores: Mapping[str, float] = field(default_factory=lambda: {"free_memory": 1.0, "idle": 0.5, "affinity": 4.0})
    memory_overcommit_percent: int = 100
    name: str = "none"
    balancing: str = "none"
    thresholds: Thresholds = field(default_factory=Thresholds)


class Candidate(NamedTuple):
    """A host that was looked at: its score, or None and why not, with the name of the filter that says so."""

    host_id: UUID
    name: str
    score: float | None
    why: str
    by: str = ""

    @property
    def sentence(self) -> str:
        """What people read of it."""
        return self.why if self.score is None else f"Host {self.name} scores {self.score:.2f}."


@dataclass(frozen=True)
class Placement:
    """The scheduler's answer: the host, why it, and for every other host why not."""

    host_id: UUID
    reason: str
    candidates: Sequence[Candidate] = ()

    @cached_property
    def others(self) -> Mapping[str, str]:
        """For every other host why not: its reason, or its score."""
        return {one.name: one.sentence for one in self.candidates if one.host_id != self.host_id}

    def as_json(self) -> dict[str, Any]:
        """What is kept of it: the host taken, the best others and why some were not possible; the rest as numbers."""
        fit = [c for c in self.candidates if c.score is not None]
        out = [c for c in self.candidates if c.score is None]
        told = [*nsmallest(KEPT, fit, key=lambda c: (c.host_id != self.host_id, -(c.score or 0), c.name)), *out[:KEPT]]
        return {
            "sentence": self.reason,
            "hosts": [
                {"host": c.name, "score": None if c.score is None else round(c.score, 3), "why": c.sentence,
                 "taken": c.host_id == self.host_id}
                for c in told
            ],
            "possible": len(fit), "impossible": len(out),
        }  # fmt: skip


class NoHost(Impossible):
    """No host can take the VM; the sentence and `facts['hosts']` give the reason for each."""

    def __init__(self, vm: VmFacts, reasons: Mapping[str, str]) -> None:
        said = list(reasons.values())
        more = f" And {len(said) - _SAID} more hosts cannot." if len(said) > _SAID else ""
        why = " ".join(said[:_SAID]) + more or "The cluster has no hosts."
        told = dict(list(reasons.items())[:TOLD])
        super().__init__("no_host", f"No host can take VM {vm.name}. {why}", hosts=told)
        self.reasons = reasons
