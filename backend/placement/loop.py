"""Balance: move VMs off hosts that are too busy, too full or too idle, as their cluster's policy wants; look whether the kept
sums of promised room are right."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend import facts
from backend.clock import Clock
from backend.clusters.models import Cluster
from backend.db import Tx
from backend.errors import Refused
from backend.events import record
from backend.loops import FromRows
from backend.placement.models import HostLoad, VmPlacement
from backend.scheduling.balance import Move, Running, View, givers, is_busy, is_idle, rebalance
from backend.scheduling.facts import HostFacts, Policy
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.submit import submit
from backend.vms.commands.migrate import MigrateVm
from backend.vms.models import Vm

log = structlog.get_logger("balance")
AT_ONCE = 4  # hosts whose VMs are looked at in one round of a cluster


class Balance(FromRows):
    """Decides from rows what `rebalance` says, and wants it as migrations."""

    name = "balance"

    def __init__(self, clock: Clock, every_s: float = 15.0) -> None:
        self.clock, self.every_s = clock, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        for cluster in tx.scalars(sa.select(Cluster).order_by(Cluster.name).execution_options(populate_existing=True)):
            policy = facts.policy_of(tx, cluster)
            if policy.balancing != "none":
                self._balance(tx, cluster, policy, now)

    def _balance(self, tx: Tx, cluster: Cluster, policy: Policy, now: datetime) -> None:
        hosts = facts.of_hosts(tx, cluster.id)
        busy, idle = _since(tx, hosts, policy, now)
        moving = tx.scalar(sa.select(sa.func.count()).where(Vm.cluster_id == cluster.id, Vm.state == "migrating")) or 0
        view = View(hosts, {}, busy, idle, moving)
        give = [host.host_id for host in givers(view, policy, now)][:AT_ONCE]
        if not give or moving >= policy.thresholds.at_once:
            return
        for move in rebalance(View(hosts, _running(tx, give), busy, idle, moving), policy, now):
            _want(tx, move, now)


class CheckLoads(FromRows):
    """Looks whether what hosts have promised is what their VMs add up to; it never differs unless there is a fault."""

    name = "check_loads"

    def __init__(self, every_s: float = 300.0) -> None:
        self.every_s = every_s

    def apply(self, tx: Tx, found: None) -> None:
        if wrong := facts.mend_loads(tx):
            log.error("promised room was wrong and is set right", hosts=[str(id) for id in wrong])


def _since(
    tx: Tx, hosts: list[HostFacts], policy: Policy, now: datetime
) -> tuple[dict[UUID, datetime], dict[UUID, datetime]]:
    """Since when each host has been too busy, and too idle; written down, so that another leader goes on from there."""
    known = {
        id: (busy, idle)
        for id, busy, idle in tx.execute(
            sa.select(HostLoad.host_id, HostLoad.busy_since, HostLoad.idle_since).where(
                HostLoad.host_id.in_([host.host_id for host in hosts])
            )
        )
    }
    busy, idle = dict[UUID, datetime](), dict[UUID, datetime]()
    for host in hosts:
        was = known.get(host.host_id, (None, None))
        here = (was[0] or now if is_busy(host, policy) else None, was[1] or now if is_idle(host, policy) else None)
        if here != was:
            tx.execute(
                sa.update(HostLoad).where(HostLoad.host_id == host.host_id).values(busy_since=here[0], idle_since=here[1])
            )
        if here[0] is not None:
            busy[host.host_id] = here[0]
        if here[1] is not None:
            idle[host.host_id] = here[1]
    return busy, idle


def _running(tx: Tx, hosts: list[UUID]) -> dict[UUID, list[Running]]:
    """The VMs of these hosts that can be moved."""
    rows = tx.execute(
        sa.select(Vm, VmPlacement.at).outerjoin(VmPlacement, VmPlacement.vm_id == Vm.id)
        .where(Vm.host_id.in_(hosts), Vm.state == "up").order_by(Vm.name).execution_options(populate_existing=True)
    )  # fmt: skip
    found: dict[UUID, list[Running]] = {}
    for vm, placed_at in rows:
        assert vm.host_id is not None
        cpus = (vm.cpu_usage or 0.0) / 100 * vm.vcpus
        found.setdefault(vm.host_id, []).append(Running(facts.of_vm(tx, vm), vm.host_id, cpus, placed_at))
    return found


def _want(tx: Tx, move: Move, now: datetime) -> None:
    """Have it migrated; what cannot be now is decided anew in the next round."""
    try:
        with tx.begin_nested():
            submit(tx, MigrateVm(move.vm_id, move.host_id), Actor(SYSTEM.user_id, SYSTEM.name, move.why), now)
            record(tx, "vm.balanced", tx.get(Vm, move.vm_id), host=move.host, why=move.why)
    except Refused as no:
        log.info("not moved", vm=move.vm, host=move.host, why=no.message)
