"""ClusterCpus (a loop): learns which processors hosts have, and computes what those of a cluster have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend.changes import touch
from backend.clusters import cpus
from backend.clusters.models import Cluster, CpuKind
from backend.clusters.rules import counted
from backend.db import Tx
from backend.events import record
from backend.hosts.models import Host
from hostapi.client import HostUnreachable
from hostapi.types import Cpu, HostCpu

log = structlog.get_logger("cpus")
ANSWERING = ("up", "non_operational", "error", "preparing_for_maintenance", "maintenance")
Address = tuple[UUID, str, int]
T = TypeVar("T")


class CpuDoor(Protocol):
    """How a host is asked about processors."""

    def host_cpu(self) -> HostCpu: ...
    def common_cpu(self, cpus: Sequence[Cpu]) -> Cpu: ...


@dataclass(frozen=True)
class Wanted:
    """Kinds that nobody has described yet, each with a host that has it; and clusters' CPUs to be compared, each with
    the kinds that it is computed from and a host that can do it."""

    kinds: dict[str, Address] = field(default_factory=dict)
    common: dict[UUID, tuple[Address, str, tuple[Cpu, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What was answered."""

    kinds: dict[str, HostCpu]
    common: dict[UUID, tuple[str, Cpu]]


class ClusterCpus:
    """A kind of processor is asked for once, however many hosts have it; a cluster's CPU is computed when its hosts, or the
    VMs that forbid to lower it, are others than before."""

    name = "cpus"

    def __init__(self, doors: Callable[[UUID, str, int], CpuDoor], every_s: float = 5.0) -> None:
        self.doors, self.every_s = doors, every_s

    def read(self, tx: Tx) -> Wanted:
        wanted, addresses = Wanted(), dict[UUID, Address]()
        known = cpus.kinds(tx)
        for id, address, port, seen, has in tx.execute(
            sa.select(Host.id, Host.address, Host.port, Host.cpu_seen, Host.cpu_id).where(Host.state.in_(ANSWERING))
        ):
            addresses[id] = (id, address, port)
            if seen and seen != has and seen not in known:
                wanted.kinds.setdefault(seen, addresses[id])
        for id, (of, fit) in _changed(tx, known).items():
            door = next((addresses[host_id] for host_id in fit if host_id in addresses), None)
            if door is not None:
                wanted.common[id] = (door, of, tuple(known[kind].cpu for kind in of.split()))
        return wanted

    def gather(self, wanted: Wanted) -> Found:
        found = Found({}, {})
        for kind, door in wanted.kinds.items():
            if (answer := self._ask(door, lambda door: door.host_cpu())) is not None:
                found.kinds[kind] = answer
        for cluster_id, (address, of, several) in wanted.common.items():
            common = several[0] if len(several) == 1 else self._ask(address, partial(_compare, several))
            if common is not None:
                found.common[cluster_id] = (of, common)
        return found

    def apply(self, tx: Tx, found: Found) -> None:
        for kind, cpu in found.kinds.items():
            cpus.keep(tx, cpu, kind)
        known = sa.select(CpuKind.id)
        learnt = sa.update(Host).where(Host.cpu_seen != "", Host.cpu_seen.is_distinct_from(Host.cpu_id), Host.cpu_seen.in_(known))
        news = tx.execute(learnt.values(cpu_id=Host.cpu_seen).returning(Host.id)).scalars().all()
        for id in news:
            touch(tx, "host", id)
        for cluster_id, (of, common) in found.common.items():
            cluster = tx.get(Cluster, cluster_id, with_for_update=True, populate_existing=True)
            if cluster is not None and not cluster.cpu_model:
                self._give(tx, cluster, of, common)
        tx.flush()
        unsettled = _changed(tx, cpus.kinds(tx)).keys()  # a host is not judged by a CPU that is about to be another
        cpus.judge(tx, set(tx.scalars(sa.select(Cluster.id))) - unsettled)

    def _give(self, tx: Tx, cluster: Cluster, of: str, common: Cpu) -> None:
        id = cpus.keep(tx, HostCpu(common))
        cluster.cpu_of = of
        if cluster.cpu_id != id:
            before, cluster.cpu_id = cpus.of_kind(tx, cluster.cpu_id), id
            if before is None or before.features != common.features:
                record(tx, "cluster.cpu_computed", cluster, cpu=common.model)
            touch(tx, "cluster", cluster.id)

    def _ask(self, address: Address, ask: Callable[[CpuDoor], T]) -> T | None:
        try:
            return ask(self.doors(*address))
        except HostUnreachable as silent:
            log.info("a host does not tell of processors", host=str(address[0]), why=str(silent))
            return None


def _compare(cpus: Sequence[Cpu], door: CpuDoor) -> Cpu:
    return door.common_cpu(cpus)


def _changed(tx: Tx, known: Mapping[str, HostCpu]) -> dict[UUID, tuple[str, list[UUID]]]:
    """The clusters whose CPU is to be computed anew: the kinds that it is computed from, and the hosts that have them."""
    found: dict[UUID, tuple[str, list[UUID]]] = {}
    hosts, used = cpus.hosts_of(tx), cpus.in_use(tx)
    emulated = set(tx.scalars(sa.select(Host.id).where(Host.virt_type != "kvm")))
    for id, given, computed_of in tx.execute(
        sa.select(Cluster.id, Cluster.cpu_id, Cluster.cpu_of).where(Cluster.cpu_model == "")
    ):
        real = [host for host in hosts.get(id, []) if host.host_id not in emulated]
        fit = counted(real, known, used.get(id, ()), given)
        of = " ".join(sorted({host.cpu_id for host in fit if host.cpu_id}))
        if of and of != computed_of:
            found[id] = of, [host.host_id for host in fit]
    return found


__all__ = ["ClusterCpus"]
