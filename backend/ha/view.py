"""From rows to what `rules.decide` is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.db import Tx
from backend.ha.fence import being_fenced
from backend.ha.models import Outage, PowerAgent, Restart
from backend.ha.rules import SECOND, FencingPolicy, HostView, RestartView, View
from backend.hosts.models import Host
from backend.tasks.models import ResourceLock
from backend.vms.models import Vm


def view_of(tx: Tx, second: Mapping[UUID, SECOND], started_at: datetime, quiet_s: float) -> View:
    """Hosts with their outages, VMs that are to run again, and every cluster's policy."""
    clusters = {c.id: c for c in tx.scalars(sa.select(Cluster).execution_options(populate_existing=True))}
    counted = sa.select(PowerAgent.host_id, sa.func.count()).group_by(PowerAgent.host_id)
    agents = {host_id: count for host_id, count in tx.execute(counted)}
    outages = {o.host_id: o for o in tx.scalars(sa.select(Outage).execution_options(populate_existing=True))}
    fenced = being_fenced(tx)
    columns = (Host.id, Host.name, Host.cluster_id, Host.state, Host.reported_at, Host.silences, Host.boot_id, Host.proved_off_at)
    hosts = [
        _host(row, clusters[row.cluster_id], agents.get(row.id, 0), outages.get(row.id), row.id in fenced,
              second.get(row.id, "unknown"))
        for row in tx.execute(sa.select(*columns).order_by(Host.name))
    ]  # fmt: skip
    return View(hosts, _restarts(tx), {id: _policy(c) for id, c in clusters.items()}, started_at, quiet_s)


def _host(row: sa.Row, cluster: Cluster, agents: int, outage: Outage | None, fenced: bool, second: SECOND) -> HostView:  # type: ignore[type-arg]
    host = HostView(
        row.id, row.name, row.cluster_id, cluster.data_center_id, row.state,
        row.reported_at if row.boot_id else None,  # one that never answered is not lost
        row.silences, agents, fenced, second=second,
    )  # fmt: skip
    if outage is None:
        return host
    return replace(
        host,
        outage=True,
        proved=row.proved_off_at is not None and row.proved_off_at >= outage.since,
        softened_at=outage.softened_at or outage.soften_at,
        dumping_until=outage.dumping_until,
        power_said=outage.power_said,
        power_asked_at=outage.power_asked_at,
        tries=outage.tries,
        tried_at=outage.tried_at,
        gave_up=outage.gave_up,
    )


def _policy(cluster: Cluster) -> FencingPolicy:
    return FencingPolicy(
        cluster.fencing, cluster.fencing_grace_s, cluster.fencing_silent_percent, cluster.fencing_at_once,
        cluster.fencing_skip_if_lease_alive, cluster.fencing_kdump_wait_s,
    )  # fmt: skip


def _restarts(tx: Tx) -> list[RestartView]:
    held = sa.exists().where(ResourceLock.resource == sa.func.concat("vm:", sa.cast(Vm.id, sa.Text)))
    rows = tx.execute(
        sa.select(Vm.id, Vm.name, Vm.state, Vm.high_availability, Vm.priority, held.label("busy"), Restart.tries, Restart.failed,
                  Restart.not_before).join(Restart, Restart.vm_id == Vm.id)
    )  # fmt: skip
    return [RestartView(*row) for row in rows]
