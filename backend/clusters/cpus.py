"""Kinds of CPU in rows: what hosts have, what clusters give, what VMs were given."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.clusters.models import Cluster, CpuKind
from backend.clusters.rules import HostOf, lacking
from backend.db import Tx
from backend.hosts.models import Host
from backend.vms.models import Vm
from hostapi.types import Cpu, HostCpu


def keep(tx: Tx, kind: HostCpu, id: str = "") -> str:
    """Write a kind down, once; answers its id: the given one, or its digest."""
    id = id or hashlib.sha256(msgspec.json.encode(kind)).hexdigest()[:16]
    row = pg.insert(CpuKind).values(id=id, model=kind.cpu.model, cpu=msgspec.to_builtins(kind))
    tx.execute(row.on_conflict_do_nothing())
    return id


def kinds(tx: Tx) -> dict[str, HostCpu]:
    """All kinds by id: a handful, however many hosts there are."""
    return {id: msgspec.convert(cpu, HostCpu) for id, cpu in tx.execute(sa.select(CpuKind.id, CpuKind.cpu))}


def of_kind(tx: Tx, id: str | None) -> Cpu | None:
    """The CPU of this kind."""
    cpu = tx.scalar(sa.select(CpuKind.cpu).where(CpuKind.id == id)) if id else None
    return None if cpu is None else msgspec.convert(cpu, HostCpu).cpu


def given(tx: Tx, cluster_id: UUID, virt_type: str) -> str | None:
    """The kind that a VM is given which starts now on such a host. Emulation is the same everywhere: only a CPU that
    somebody chose is given there."""
    model, id = tx.execute(sa.select(Cluster.cpu_model, Cluster.cpu_id).where(Cluster.id == cluster_id)).one()
    return id if model or virt_type == "kvm" else None


def hosts_of(tx: Tx) -> dict[UUID, list[HostOf]]:
    """The enrolled hosts by cluster, in the order of their names."""
    found: dict[UUID, list[HostOf]] = {}
    enrolled = Host.state.not_in(("pending_approval", "installing"))
    rows = sa.select(Host.cluster_id, Host.id, Host.name, Host.cpu_id).where(enrolled).order_by(Host.name)
    for cluster_id, id, name, cpu_id in tx.execute(rows):
        found.setdefault(cluster_id, []).append(HostOf(id, name, cpu_id))
    return found


def in_use(tx: Tx) -> dict[UUID, set[str]]:
    """The kinds that VMs were given which run or are suspended, by cluster."""
    found: dict[UUID, set[str]] = {}
    rows = sa.select(Vm.cluster_id, Vm.cpu_id).where(Vm.cpu_id.is_not(None), Vm.state != "down").distinct()
    for cluster_id, cpu_id in tx.execute(rows):
        found.setdefault(cluster_id, set()).add(str(cpu_id))
    return found


def judge(tx: Tx, only: Collection[UUID] | None = None) -> None:
    """Write down what each host (of only these clusters) lacks of the CPU that its cluster gives to VMs."""
    known = kinds(tx)
    rows = sa.select(Host.id, Host.cpu_id, Host.cpu_lacks, Host.virt_type, Cluster.cpu_id, Cluster.cpu_model).join(
        Cluster, Cluster.id == Host.cluster_id
    )
    for id, has, was, virt_type, wanted, named in tx.execute(rows if only is None else rows.where(Cluster.id.in_(only))):
        asked = wanted and has and wanted in known and has in known and (named or virt_type == "kvm")
        lacks = lacking(known[wanted].cpu, known[has]) if asked and wanted and has else ""
        if lacks != was:
            tx.execute(sa.update(Host).where(Host.id == id).values(cpu_lacks=lacks))


__all__ = ["given", "hosts_of", "in_use", "judge", "keep", "kinds", "of_kind"]
