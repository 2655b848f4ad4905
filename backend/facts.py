"""The one bridge from rows to facts, for scheduling."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache
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
from backend.vms.models import Template, Vm

AT_FIRST = 8  # of the best hosts, those that nobody else is placing a VM on are tried first

__all__ = ["of_hosts", "of_vm", "place", "policy", "reserve"]


def _columns(only: bool) -> Any:
    """A cluster's hosts (`only` some of them) column by column: of thousands of hosts that is read five times as fast as
    row by row. Ids come as text, and are made UUIDs once in a process."""
    which = Host.cluster_id == sa.bindparam("cluster_id")
    if only:
        which &= Host.id.in_(sa.bindparam("only", expanding=True))
    each = (
        sa.select(sa.cast(Host.id, sa.Text), Host.name, Host.state, Host.cpus, Host.memory_mib,
                  HostLoad.memory_mib.label("promised"), Host.load1, HostLoad.vms, HostLoad.vcpus, Host.cpu_lacks, Host.cpu_id)
        .join(HostLoad, HostLoad.host_id == Host.id).where(which).order_by(Host.name).subquery()
    )  # fmt: skip
    return sa.select(*[sa.func.array_agg(column, type_=sa.types.NullType()) for column in each.c])


# made once: to put a statement together takes longer than to ask it
_ALL, _SOME = _columns(only=False), _columns(only=True)
_NETWORKS = sa.select(Host.id, Host.networks).where(Host.cluster_id == sa.bindparam("cluster_id"))
_CPU = sa.select(CpuKind.model).where(CpuKind.id == sa.bindparam("cpu_id"))
_uuid = lru_cache(65_536)(UUID)
_ONE = sa.select(Host.state, HostLoad.memory_mib, HostLoad.vms, HostLoad.vcpus).join(
    HostLoad, HostLoad.host_id == Host.id
).where(Host.id == sa.bindparam("host_id"), Host.cluster_id == sa.bindparam("cluster_id"))  # fmt: skip
_UNLESS_HELD = _ONE.with_for_update(of=HostLoad, skip_locked=True)
_HOLD = sa.select(HostLoad.host_id).where(HostLoad.host_id == sa.bindparam("host_id")).with_for_update()


def of_vm(tx: Tx, vm: Vm, *, hold: bool = False) -> VmFacts:
    """The VM as the scheduler sees it; with `hold`, nobody else of its hard groups is placed until the transaction ends."""
    bound, cluster = affinity.of_vm(tx, vm.id, hold=hold), get(tx, Cluster, vm.cluster_id)
    cpu_id = cluster.cpu_id if vm.state == "down" else vm.cpu_id  # one that runs has what it was given before
    cpu = tx.scalar(_CPU, {"cpu_id": cpu_id}) if cpu_id else None
    return VmFacts(
        vm.id, vm.name, vm.memory_mib, vm.vcpus, bound.domains, networks=frozenset(cluster.networks), labels=bound.labels,
        pinned=bound.pinned, groups=bound.groups, cpu=cpu or "", cpu_id=cpu_id or "",
    )  # fmt: skip


def of_template(tx: Tx, template: Template, cluster_id: UUID, domain_id: UUID, name: str) -> VmFacts:
    """A VM of this name as it would be, made from the template with its disk in this storage domain."""
    under = tx.scalars(sa.select(Disk.domain_id).where(Disk.template_id == template.id))
    cluster = get(tx, Cluster, cluster_id)
    cpu = tx.scalar(_CPU, {"cpu_id": cluster.cpu_id}) if cluster.cpu_id else None
    return VmFacts(
        template.id, name, template.memory_mib, template.vcpus, frozenset(under) | {domain_id},
        networks=frozenset(cluster.networks), cpu=cpu or "", cpu_id=cluster.cpu_id or "",
    )  # fmt: skip


def of_hosts(tx: Tx, cluster_id: UUID, only: Collection[UUID] | None = None, wanted: VmFacts | None = None) -> list[HostFacts]:
    """The cluster's hosts (or only some of them) with what their VMs have been promised. Of a VM that is to be placed only
    those storage domains and labels are looked up that it needs."""
    given = {"cluster_id": cluster_id} | ({} if only is None else {"only": list(only)})
    columns = tx.execute(_ALL if only is None else _SOME, given).one()
    reached = {h: frozenset(ids) for h, ids in reach.reached(tx, wanted.domains if wanted is not None else None).items()}
    lacks = _cpu_lacks(tx, cluster_id, wanted)
    labels = affinity.of_hosts(tx) if wanted is None or wanted.labels else {}
    networks: dict[UUID, frozenset[str]] = {}
    if wanted is None or wanted.networks:
        networks = {id: frozenset(names) for id, names in tx.execute(_NETWORKS, given).all()}
    none: frozenset[Any] = frozenset()
    hosts = [
        HostFacts(_uuid(id), name, state, cpus, memory_mib, promised, load1, vms, none, vcpus, none,
                  cpu_lacks if lacks is None else lacks.get(cpu_id, ""))
        for id, name, state, cpus, memory_mib, promised, load1, vms, vcpus, cpu_lacks, cpu_id
        in zip(*(column or () for column in columns), strict=True)
    ]  # fmt: skip
    if not (reached or networks or labels):
        return hosts
    return [
        host._replace(domains=reached.get(id, none), networks=networks.get(id, none), labels=labels.get(id, none))
        for host in hosts if (id := host.host_id)
    ]  # fmt: skip


def _cpu_lacks(tx: Tx, cluster_id: UUID, wanted: VmFacts | None) -> dict[str | None, str] | None:
    """What hosts lack, by their kind of CPU, of one that is not their cluster's: a VM has it that began before. None: what is
    written down of each host holds."""
    if wanted is None or not wanted.cpu_id:
        return None
    if get(tx, Cluster, cluster_id).cpu_id == wanted.cpu_id:
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
    cluster = get(tx, Cluster, vm.cluster_id)
    wanted, rules = of_vm(tx, vm, hold=True), policy_of(tx, cluster)
    hosts = of_hosts(tx, vm.cluster_id, only, wanted)
    if exclude:
        hosts = [host for host in hosts if host.host_id not in exclude]
    candidates, refused = look(wanted, hosts, rules), dict[UUID, str]()
    for patient in (False, True):
        for one in best_first(candidates, None if patient else AT_FIRST):
            if one.host_id in refused:
                continue
            why = _held(tx, hosts[candidates.index(one)], wanted, rules, vm.cluster_id, patient=patient)
            if why == "":
                found = taken(one, [_with(refused, c) for c in candidates] if refused else candidates)
                _keep(tx, vm, found, rules, now)
                return found
            if why is not None:
                refused[one.host_id] = why
    raise NoHost(wanted, {c.name: refused.get(c.host_id) or c.why for c in candidates})


def _held(tx: Tx, one: HostFacts, wanted: VmFacts, rules: Policy, cluster_id: UUID, *, patient: bool) -> str | None:
    """"" when its room is held now, the reason when it cannot take the VM any more; None: somebody else is placing there."""
    point = tx.begin_nested()  # what is locked in vain is let go of, or two that look for room would wait for each other
    given = {"host_id": one.host_id, "cluster_id": cluster_id}
    if patient:
        tx.execute(_HOLD, given)
    now = tx.execute(_ONE if patient else _UNLESS_HELD, given).first()
    if now is not None:
        state, promised, vms, vcpus = now
        fresh = one._replace(state=state, memory_promised_mib=promised, vms=vms, vcpus_promised=vcpus)
        why = why_not(wanted, fresh, rules)
    else:
        why = f"Host {one.name} is gone."
    if why is None:
        point.commit()
        return ""
    point.rollback()
    return why if now is not None or patient else None


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
