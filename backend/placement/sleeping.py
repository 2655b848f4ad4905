"""Save power (a loop): hosts that nobody needs are emptied, switched off by their power agents, and on again before room runs
out. What is under way is in rows, so another manager goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend import facts
from backend.changes import touch
from backend.clock import Clock
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Refused
from backend.events import move, record
from backend.ha.fence import PowerOffHost, PowerOnHost
from backend.ha.models import PowerAgent, Restart
from backend.hosts.evacuation import call_off, turn_away
from backend.hosts.models import Host
from backend.loops import FromRows
from backend.placement.models import AffinityGroupHost, AffinityLabelHost, HostLoad, Pin
from backend.scheduling.facts import Policy
from backend.scheduling.power import LEAVES, SLEEPS, Power, Switch, switches
from backend.storage.models import Disk, StorageDomain
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.commands.power import StartVm
from backend.vms.models import Vm

log = structlog.get_logger("save_power")
REFUSED_WITHIN = timedelta(seconds=60)  # a start that found no room so lately says that room is short
COMES_WITHIN = timedelta(minutes=10)  # one that was switched on and does not answer is waited for no longer
OURS = (*LEAVES, *SLEEPS, "reboot")


class SavePower(FromRows):
    """Decides from rows what `switches` says; the power agents' work is in tasks."""

    name = "save_power"

    def __init__(self, clock: Clock, lacking: Callable[[Tx, UUID], int] | None = None, every_s: float = 5.0) -> None:
        """`lacking` answers how many more of a cluster's VMs want room that is not there, and are not tried in vain."""
        self.clock, self.lacking, self.every_s = clock, lacking, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        marked = {load.host_id: load for load in tx.scalars(sa.select(HostLoad).where(HostLoad.saving_since.is_not(None)))}
        for cluster in tx.scalars(sa.select(Cluster).order_by(Cluster.name).execution_options(populate_existing=True)):
            policy = facts.policy_of(tx, cluster)
            here = sa.select(Host).where(Host.cluster_id == cluster.id, Host.id.in_(marked))
            hosts = tx.scalars(here.order_by(Host.name)).all()
            if hosts or (policy.balancing == "power_saving" and policy.thresholds.shut_down_hosts):
                self._decide(tx, cluster, policy, now)
            for host in hosts:  # those that were not called back
                if marked[host.id].saving_since is not None:
                    self._go_on(tx, host, marked[host.id], now)

    def _go_on(self, tx: Tx, host: Host, load: HostLoad, now: datetime) -> None:
        """What follows for a host that is on its way: empty it is switched off; that cannot be, it is given back."""
        if host.state not in OURS:
            _forget(tx, host, load, now)
        elif host.state == "maintenance":
            last = tx.scalars(sa.select(Task).where(
                Task.command == PowerOffHost.name, Task.object_id == host.id, Task.created_at >= load.saving_since,
            ).order_by(Task.id.desc()).limit(1)).first()  # fmt: skip
            if last is None:
                _try(tx, partial(submit, tx, PowerOffHost(host.id), SYSTEM, now))
            elif last.state in ("failed", "cancelled"):
                move(tx, host, "activate")
                _forget(tx, host, load, now)

    def _decide(self, tx: Tx, cluster: Cluster, policy: Policy, now: datetime) -> None:
        hosts = facts.of_hosts(tx, cluster.id)
        loads = tx.scalars(sa.select(HostLoad).where(HostLoad.host_id.in_([host.host_id for host in hosts]))).all()
        stuck = {host.host_id for host in hosts if host.state == "reboot"}
        ours = {one.host_id for one in loads if one.saving_since is not None
                and not (one.host_id in stuck and one.woken_at is not None and now - one.woken_at > COMES_WITHIN)}  # fmt: skip
        empty = {host.host_id for host in hosts if host.state == "up" and not host.vms}
        for load in loads:
            load.empty_since = (load.empty_since or now) if load.host_id in empty else None
        refused = _refused(tx, cluster.id, now) + (self.lacking(tx, cluster.id) if self.lacking else 0)
        power = Power(
            {one.host_id: one.empty_since for one in loads if one.empty_since is not None}, _switchable(tx, cluster.id), ours,
            {one.host_id: one.woken_at for one in loads if one.woken_at is not None}, refused,
        )  # fmt: skip
        for switch in switches(hosts, policy, now, power):
            _try(tx, partial(_switch, tx, switch, now))


def _try(tx: Tx, what: Callable[[], object]) -> None:
    """Do it, or leave it for the next round."""
    try:
        with tx.begin_nested():
            what()
    except Refused as no:
        log.info("not now", why=no.message)


def _switch(tx: Tx, switch: Switch, now: datetime) -> None:
    load = tx.get_one(HostLoad, switch.host_id, with_for_update=True, populate_existing=True)
    host = get(tx, Host, switch.host_id, lock=True)
    if switch.what == "off":
        if load.vms or host.state != "up":
            return  # somebody was quicker
        record(tx, "host.sleeps", host, why=switch.why)
        move(tx, host, "maintain")
        turn_away(tx, host, now)
        load.saving_since = now
    elif host.state in LEAVES:
        if _being_switched(tx, host.id):
            return  # it is woken when it is off
        record(tx, "host.wakes", host, why=switch.why)
        move(tx, host, "activate")
        call_off(tx, host, now)
        _forget(tx, host, load, now)
    else:
        submit(tx, PowerOnHost(host.id), SYSTEM, now)
        load.woken_at = now
        record(tx, "host.wakes", host, why=switch.why)
    touch(tx, "host", host.id)


def _forget(tx: Tx, host: Host, load: HostLoad, now: datetime) -> None:
    """It is one as any other; it is not switched off again at once."""
    load.saving_since, load.woken_at = None, now
    touch(tx, "host", host.id)


def _being_switched(tx: Tx, host_id: UUID) -> bool:
    live = sa.select(Task.id).where(
        Task.command == PowerOffHost.name, Task.object_id == host_id, Task.state.in_(("queued", "running")))
    return tx.scalar(live.limit(1)) is not None


def _switchable(tx: Tx, cluster_id: UUID) -> set[UUID]:
    """Hosts with a power agent, to which no VM is bound: by a disk on them, a pin, a label or an affinity group."""
    local = sa.select(StorageDomain.host_id).join(Disk, Disk.domain_id == StorageDomain.id)
    able = sa.select(Host.id).where(
        Host.cluster_id == cluster_id, Host.id.in_(sa.select(PowerAgent.host_id)),
        Host.id.not_in(local.where(StorageDomain.host_id.is_not(None))), Host.id.not_in(sa.select(Pin.host_id)),
        Host.id.not_in(sa.select(AffinityLabelHost.host_id)), Host.id.not_in(sa.select(AffinityGroupHost.host_id)),
    )  # fmt: skip
    return set(tx.scalars(able))


def _refused(tx: Tx, cluster_id: UUID, now: datetime) -> int:
    """How many of the cluster's VMs found no room lately and are still down."""
    failed = sa.select(Task.object_id).where(
        Task.command == StartVm.name, Task.state == "failed", Task.ended_at > now - REFUSED_WITHIN,
        Task.error["code"].astext == "no_host",
    )  # fmt: skip
    waits = sa.select(Restart.vm_id).where(Restart.why != "")
    down = sa.select(sa.func.count()).select_from(Vm).where(Vm.cluster_id == cluster_id, Vm.state == "down")
    return tx.scalar(down.where(sa.or_(Vm.id.in_(failed), Vm.id.in_(waits)))) or 0
