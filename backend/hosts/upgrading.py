"""RollUpgrades (a loop): clusters that are being upgraded, one host at a time, until one fails or none is left."""

from __future__ import annotations

import sqlalchemy as sa

from backend.changes import touch
from backend.clock import Clock
from backend.clusters.models import Cluster
from backend.db import Tx
from backend.errors import Busy, Refused
from backend.events import record
from backend.hosts.models import Host
from backend.hosts.upgrade_commands import MAY, UpgradeHost
from backend.loops import FromRows
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.models import Task
from backend.tasks.submit import submit


class RollUpgrades(FromRows):
    """Its whole state is in the clusters' rows: any manager goes on with it."""

    name, every_s = "upgrades", 2.0

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def apply(self, tx: Tx, found: None) -> None:
        for cluster in tx.scalars(sa.select(Cluster).where(Cluster.upgrade_to != "").order_by(Cluster.name).with_for_update()):
            self._roll(tx, cluster)

    def _roll(self, tx: Tx, cluster: Cluster) -> None:
        task = tx.get(Task, cluster.upgrade_task, populate_existing=True) if cluster.upgrade_task is not None else None
        if task is not None and task.state in ("queued", "running"):
            return
        if task is not None and task.state != "succeeded":
            _end(tx, cluster, (task.error or {}).get("message") or f"“{task.title}” was {task.state}.")
            return
        of_cluster = sa.select(Host).where(Host.cluster_id == cluster.id)
        if task is not None and tx.scalar(
            of_cluster.where(Host.id == task.object_id, Host.state == "connecting").with_only_columns(Host.id)
        ):
            return  # it is in use again in a moment: the next one waits for that
        old = of_cluster.where(Host.agent_version != cluster.upgrade_to, Host.state.in_(MAY)).order_by(Host.name)
        host = tx.scalars(old.limit(1)).first()
        if host is None:
            _end(tx, cluster, "")
            return
        actor = Actor(SYSTEM.user_id, SYSTEM.name, f"Upgrade of cluster {cluster.name}")
        try:
            with tx.begin_nested():
                cluster.upgrade_task = submit(tx, UpgradeHost(host.id, host.state == "up"), actor, self.clock.now()).id
        except Busy:
            return  # the next round tries again
        except Refused as no:
            _end(tx, cluster, no.message)
        touch(tx, "cluster", cluster.id)


def _end(tx: Tx, cluster: Cluster, why: str) -> None:
    version, cluster.upgrade_to, cluster.upgrade_task, cluster.upgrade_why = cluster.upgrade_to, "", None, why
    if why:
        record(tx, "cluster.upgrade_stopped", cluster, why=why)
    else:
        record(tx, "cluster.upgraded", cluster, version=version)
    touch(tx, "cluster", cluster.id)


__all__ = ["RollUpgrades"]
