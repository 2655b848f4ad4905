"""The one bridge from rows to facts, for scheduling."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.hosts.models import Host
from backend.scheduling.facts import HostFacts, NoHost, Placement, Policy, VmFacts
from backend.scheduling.place import place, why_not
from backend.storage import reach
from backend.storage.models import Disk
from backend.vms.models import Vm

_NOT_RUNNING = ("down", "image_locked", "suspended")


def of_vm(tx: Tx, vm: Vm) -> VmFacts:
    """The VM as the scheduler sees it."""
    base = sa.orm.aliased(Disk)
    own = sa.select(Disk.domain_id).where(Disk.vm_id == vm.id)
    under = sa.select(base.domain_id).join(Disk, Disk.backing_id == base.id).where(Disk.vm_id == vm.id)
    domains = tx.scalars(own.union(under))
    return VmFacts(vm.id, vm.name, vm.memory_mib, vm.vcpus, frozenset(domains))


def of_hosts(tx: Tx, cluster_id: UUID, only: Collection[UUID] | None = None) -> list[HostFacts]:
    """The cluster's hosts (or only some of them) with what their VMs have been promised."""
    there, coming = Vm.state.not_in(_NOT_RUNNING), Vm.destination_id.is_not(None)
    uses = sa.union_all(
        sa.select(Vm.host_id, Vm.memory_mib).where(Vm.host_id.is_not(None), there),
        sa.select(Vm.destination_id, Vm.memory_mib).where(coming, there),
    ).subquery()
    promised = {
        host_id: (mib, count)
        for host_id, mib, count in tx.execute(
            sa.select(uses.c.host_id, sa.func.sum(uses.c.memory_mib), sa.func.count()).group_by(uses.c.host_id)
        )
    }
    reached = reach.reached(tx)
    hosts = sa.select(Host).where(Host.cluster_id == cluster_id).order_by(Host.name)
    if only is not None:
        hosts = hosts.where(Host.id.in_(only))
    return [
        HostFacts(
            h.id,
            h.name,
            h.state,
            h.cpus,
            h.memory_mib,
            int(promised.get(h.id, (0, 0))[0]),
            h.load1,
            promised.get(h.id, (0, 0))[1],
            frozenset(reached.get(h.id, ())),
        )
        for h in tx.scalars(hosts.execution_options(populate_existing=True))
    ]


def policy(tx: Tx, cluster_id: UUID) -> Policy:
    """The cluster's scheduling policy."""
    return Policy(memory_overcommit_percent=get(tx, Cluster, cluster_id).memory_overcommit_percent)


def reserve(tx: Tx, vm: Vm, *, only: Collection[UUID] | None = None, exclude: Collection[UUID] = ()) -> Placement:
    """Choose a host and hold its room until the transaction ends, so that starts at once do not overbook it; the caller says
    in the same transaction where the VM goes (`host_id`, or `destination_id` when it moves and still runs where it was).

    Planned on a snapshot, verified under the host's lock; a host that filled up meanwhile is passed over. `only` these hosts
    are looked at, and none of `exclude`.
    """
    wanted, rules = of_vm(tx, vm), policy(tx, vm.cluster_id)
    hosts, refused = [h for h in of_hosts(tx, vm.cluster_id, only) if h.host_id not in exclude], dict[str, str]()
    while True:
        try:
            placement = place(wanted, [h for h in hosts if h.name not in refused], rules)
        except NoHost as no:
            raise NoHost(wanted, {**no.facts["hosts"], **refused}) from None
        tx.execute(sa.select(Host.id).where(Host.id == placement.host_id).with_for_update())
        now = of_hosts(tx, vm.cluster_id, only=[placement.host_id])[0]
        reason = why_not(wanted, now, rules)
        if reason is None:
            return placement
        refused[now.name] = reason
