"""The one bridge from rows to facts, for scheduling."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.clusters import cpus
from backend.clusters.models import Cluster, CpuKind
from backend.clusters.rules import lacking
from backend.db import Tx, get
from backend.hosts.models import Host
from backend.placement import affinity
from backend.placement.models import HostLoad, SchedulingPolicy, VmPlacement
from backend.scheduling import policies
from backend.scheduling.facts import Candidate, HostFacts, NoHost, Placement, Policy, VmFacts
from backend.scheduling.place import best_first, look, place, taken, why_not
from backend.storage import reach
from backend.storage.models import Disk
from backend.vms.machine import NOT_RUNNING
from backend.vms.models import Vm

AT_FIRST = 8  # of the best hosts, those that nobody else is placing a VM on are tried first

__all__ = ["of_hosts", "of_vm", "place", "policy", "reserve"]


def of_vm(tx: Tx, vm: Vm) -> VmFacts:
    """The VM as the scheduler sees it."""
    base = sa.orm.aliased(Disk)
    own = sa.select(Disk.domain_id).where(Disk.vm_id == vm.id)
    under = sa.select(base.domain_id).join(Disk, Disk.backing_id == base.id).where(Disk.vm_id == vm.id)
    domains = tx.scalars(own.union(under))
    bound = affinity.of_vm(tx, vm.id)
    networks, given, kind = tx.execute(
        sa.select(Cluster.networks, Cluster.cpu_id, CpuKind.model).outerjoin(CpuKind, CpuKind.id == Cluster.cpu_id)
        .where(Cluster.id == vm.cluster_id)
    ).one()  # fmt: skip
    if vm.state != "down" and vm.cpu_id != given:  # it runs with what it was given before
        given, kind = vm.cpu_id, tx.scalar(sa.select(CpuKind.model).where(CpuKind.id == vm.cpu_id)) or ""
    return VmFacts(
        vm.id, vm.name, vm.memory_mib, vm.vcpus, frozenset(domains), networks=frozenset(networks), labels=bound.labels,
        pinned=bound.pinned, groups=bound.groups, cpu=kind or "", cpu_id=given or "",
    )  # fmt: skip


def of_hosts(tx: Tx, cluster_id: UUID, only: Collection[UUID] | None = None, wanted: VmFacts | None = None) -> list[HostFacts]:
    """The cluster's hosts (or only some of them) with what their VMs have been promised. Of a VM that is to be placed only
    those storage domains and labels are looked up that it needs."""
    rows = (
        sa.select(Host.id, Host.name, Host.state, Host.cpus, Host.memory_mib, Host.load1, Host.networks, Host.cpu_lacks,
                  Host.cpu_id, HostLoad.memory_mib, HostLoad.vms, HostLoad.vcpus)
        .join(HostLoad, HostLoad.host_id == Host.id)
        .where(Host.cluster_id == cluster_id).order_by(Host.name)
    )  # fmt: skip
    if only is not None:
        rows = rows.where(Host.id.in_(only))
    reached = {h: frozenset(ids) for h, ids in reach.reached(tx, wanted.domains if wanted is not None else None).items()}
    lacks = _cpu_lacks(tx, cluster_id, wanted)
    labels = affinity.of_hosts(tx) if wanted is None or wanted.labels else {}
    none: frozenset[Any] = frozenset()
    return [
        HostFacts(
            id, name, state, cpus, memory_mib, promised, load1, vms, reached.get(id, none), vcpus,
            frozenset(networks) if networks else none, cpu_lacks if lacks is None else lacks.get(cpu_id, ""),
            labels.get(id, none),
        )
        for id, name, state, cpus, memory_mib, load1, networks, cpu_lacks, cpu_id, promised, vms, vcpus in tx.execute(rows)
    ]  # fmt: skip


def _cpu_lacks(tx: Tx, cluster_id: UUID, wanted: VmFacts | None) -> dict[str | None, str] | None:
    """What hosts lack, by their kind of CPU, of one that is not their cluster's: a VM has it that began before. None: what is
    written down of each host holds."""
    if wanted is None or not wanted.cpu_id:
        return None
    if tx.scalar(sa.select(Cluster.cpu_id).where(Cluster.id == cluster_id)) == wanted.cpu_id:
        return None
    kinds = cpus.kinds(tx)
    return {id: lacking(kinds[wanted.cpu_id].cpu, kind) for id, kind in kinds.items() if wanted.cpu_id in kinds}


def policy(tx: Tx, cluster_id: UUID) -> Policy:
    """The cluster's scheduling policy."""
    cluster = get(tx, Cluster, cluster_id)
    return policy_of(tx, cluster)


def policy_of(tx: Tx, cluster: Cluster) -> Policy:
    """The same, of its row."""
    thresholds, overcommit, name = (
        policies.thresholds(cluster.thresholds), cluster.memory_overcommit_percent, cluster.scheduling_policy,
    )  # fmt: skip
    if name in policies.SCORES:
        return Policy(scores=policies.SCORES[name], memory_overcommit_percent=overcommit, name=name, balancing=name,
                      thresholds=thresholds)
    own = tx.scalars(sa.select(SchedulingPolicy).where(SchedulingPolicy.name == name)).one()
    return Policy(
        tuple(own.filters), own.weights, memory_overcommit_percent=overcommit, name=name, balancing=own.balancing,
        thresholds=thresholds,
    )  # fmt: skip


def looked_at(tx: Tx, vm: Vm) -> tuple[VmFacts, Policy, list[HostFacts], list[Candidate]]:
    """Where the VM would go now, and why not elsewhere; nothing is held."""
    wanted, rules = of_vm(tx, vm), policy(tx, vm.cluster_id)
    hosts = of_hosts(tx, vm.cluster_id, wanted=wanted)
    return wanted, rules, hosts, look(wanted, hosts, rules)


def reserve(
    tx: Tx, vm: Vm, *, only: Collection[UUID] | None = None, exclude: Collection[UUID] = (), now: datetime | None = None
) -> Placement:
    """Choose a host and hold its room until the transaction ends, so that starts at once do not overbook it; the caller says
    in the same transaction where the VM goes (`host_id`, or `destination_id` when it moves and still runs where it was).

    Planned on a snapshot, verified under the lock of the host's load; a host that filled up meanwhile is passed over, one on
    which somebody else places a VM at the moment is waited for only when there is no other. `only` these hosts are looked
    at, and none of `exclude`. What was decided is kept as the VM's last placement.
    """
    affinity.hold(tx, vm.id)
    wanted, rules = of_vm(tx, vm), policy(tx, vm.cluster_id)
    hosts = [host for host in of_hosts(tx, vm.cluster_id, only, wanted) if host.host_id not in exclude]
    candidates, refused = look(wanted, hosts, rules), dict[UUID, str]()
    for patient in (False, True):
        for tried, one in enumerate(best_first(candidates)):
            if tried >= AT_FIRST and not patient:
                break
            if one.host_id in refused:
                continue
            why = _held(tx, one, wanted, rules, vm.cluster_id, patient=patient)
            if why == "":
                found = taken(one, [_with(refused, c) for c in candidates])
                _keep(tx, vm, found, rules, now)
                return found
            if why is not None:
                refused[one.host_id] = why
    raise NoHost(wanted, {c.name: refused.get(c.host_id) or c.why for c in candidates})


def _held(tx: Tx, one: Candidate, wanted: VmFacts, rules: Policy, cluster_id: UUID, *, patient: bool) -> str | None:
    """"" when its room is held now, the reason when it cannot take the VM any more; None: somebody else is placing there."""
    point = tx.begin_nested()  # what is locked in vain is let go of, or two that look for room would wait for each other
    lock = sa.select(HostLoad.host_id).where(HostLoad.host_id == one.host_id).with_for_update(skip_locked=not patient)
    if tx.scalar(lock) is None and not patient:
        point.rollback()
        return None
    fresh = of_hosts(tx, cluster_id, [one.host_id], wanted)
    why = why_not(wanted, fresh[0], rules) if fresh else f"Host {one.name} is gone."
    if why is None:
        point.commit()
        return ""
    point.rollback()
    return why


def _with(refused: dict[UUID, str], one: Candidate) -> Candidate:
    return one._replace(score=None, why=refused[one.host_id]) if one.host_id in refused else one


def _keep(tx: Tx, vm: Vm, found: Placement, rules: Policy, now: datetime | None) -> None:
    values = {"at": now or sa.func.now(), "host_id": found.host_id, "policy": rules.name, "decision": found.as_json()}
    kept = pg.insert(VmPlacement).values(vm_id=vm.id, **values)
    tx.execute(kept.on_conflict_do_update(index_elements=["vm_id"], set_=values))


def wrong_loads(tx: Tx, hosts: Sequence[UUID] | None = None) -> list[tuple[UUID, int, int, int]]:
    """Hosts whose kept sums are not what their VMs add up to, with what they should be: (host, MiB, vCPUs, VMs)."""
    there = Vm.state.not_in(NOT_RUNNING)
    uses = sa.union_all(
        sa.select(Vm.host_id, Vm.memory_mib, Vm.vcpus).where(Vm.host_id.is_not(None), there),
        sa.select(Vm.destination_id, Vm.memory_mib, Vm.vcpus).where(Vm.destination_id.is_not(None), there),
    ).subquery()
    sums = (
        sa.select(uses.c.host_id, sa.func.sum(uses.c.memory_mib).label("mib"), sa.func.sum(uses.c.vcpus).label("vcpus"),
                  sa.func.count().label("vms"))
        .group_by(uses.c.host_id).subquery()
    )  # fmt: skip
    right = [sa.func.coalesce(column, 0) for column in (sums.c.mib, sums.c.vcpus, sums.c.vms)]
    differ = sa.or_(HostLoad.memory_mib != right[0], HostLoad.vcpus != right[1], HostLoad.vms != right[2])
    found = sa.select(HostLoad.host_id, *right).outerjoin(sums, sums.c.host_id == HostLoad.host_id).where(differ)
    if hosts is not None:
        found = found.where(HostLoad.host_id.in_(hosts))
    return [(id, int(mib), int(vcpus), int(vms)) for id, mib, vcpus, vms in tx.execute(found)]


def mend_loads(tx: Tx) -> list[UUID]:
    """Look whether the kept sums are right, and set right those that are not; answers whose were wrong."""
    suspected = [wrong[0] for wrong in wrong_loads(tx)]
    for host_id in sorted(suspected):
        tx.execute(sa.select(HostLoad.host_id).where(HostLoad.host_id == host_id).with_for_update())
    mended = wrong_loads(tx, suspected) if suspected else []
    for host_id, mib, vcpus, vms in mended:
        tx.execute(sa.update(HostLoad).where(HostLoad.host_id == host_id).values(memory_mib=mib, vcpus=vcpus, vms=vms))
    return [wrong[0] for wrong in mended]
