"""Upgrade the agent of a host: empty it, install, see that it came back, use it again; and a cluster's, one host at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Impossible
from backend.events import move, record
from backend.hosts.evacuation import call_off, turn_away
from backend.hosts.machine import HOST
from backend.hosts.models import Evacuation, Host
from backend.hosts.packages import arguments, package
from backend.tasks.command import Actor, Call, Job, Later, Plain
from backend.tasks.models import Step, Task
from backend.tasks.submit import cancel
from backend.vms.machine import NOT_RUNNING
from backend.vms.models import Vm

EMPTY_WITHIN, BACK_WITHIN = timedelta(hours=1), timedelta(minutes=5)
MAY = ("up", "non_operational", "error", "maintenance")


@dataclass(frozen=True)
class UpgradeHost(Plain):
    """Upgrade a host's agent to the manager's package. VMs are migrated away first unless that is not wanted: they run on
    while an agent starts again. A host that was emptied is used again afterwards, and if nothing could be installed; one
    whose new agent does not come back stays in maintenance."""

    host_id: UUID
    evacuate: bool = True
    name, permission, no_return = "host.upgrade", "host.edit", "install"
    steps = ("maintain", "empty", "install", "prove", "activate")

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"Upgrade the agent of host {get(tx, Host, self.host_id).name}"

    def check(self, tx: Tx) -> None:
        host, wanted = get(tx, Host, self.host_id), package(tx)
        if host.state not in MAY:
            sentence = f"Host {host.name} is {host.state.replace('_', ' ')}; it can be upgraded when it answers."
            raise Impossible("wrong_state", sentence)
        if host.agent_version == wanted.version:
            raise Impossible("upgraded", f"The agent of host {host.name} is version {wanted.version} already.")

    def maintain(self, tx: Tx, job: Job) -> None:
        """Take no more VMs."""
        host = get(tx, Host, self.host_id, lock=True)
        if self.evacuate and host.state != "maintenance":
            move(tx, host, "maintain")
            turn_away(tx, host, job.now)

    def maintain_undo(self, tx: Tx, job: Job) -> None:
        host = get(tx, Host, self.host_id, lock=True)
        asked = Step.task_id == job.task_id, Step.name == "install", Step.ended_at.is_not(None), Step.error.is_(None)
        installed = sa.select(Step.uid).where(*asked).limit(1)
        if self.evacuate and HOST.may(host.state, "activate") and tx.scalar(installed) is None:
            move(tx, host, "activate", error_until=None, failed_vms=[])
            call_off(tx, host, job.now)

    def empty(self, tx: Tx, job: Job) -> None:
        """Wait until the last VM has left."""
        host = get(tx, Host, self.host_id)
        if not self.evacuate or host.state == "maintenance":
            return
        if host.state != "preparing_for_maintenance":
            raise Impossible("not_emptied", f"Host {host.name} is {host.state.replace('_', ' ')} now; it was to be emptied.")
        left = tx.scalar(sa.select(sa.func.count()).where(Vm.host_id == host.id, Vm.state.not_in(NOT_RUNNING))) or 0
        stuck = tx.scalar(sa.select(Evacuation.why).where(Evacuation.host_id == host.id, Evacuation.why != "").limit(1))
        why = f" {stuck}" if stuck else ""
        if job.now - (tx.scalar(sa.select(Task.started_at).where(Task.id == job.task_id)) or job.now) > EMPTY_WITHIN:
            raise Impossible("not_emptied", f"{left} VM(s) have not left host {host.name} within the hour.{why}")
        raise Later(f"Waits until {left} VM(s) have left.{why}")

    def install(self, tx: Tx, job: Job) -> Call:
        """Hand the package over."""
        return Call(self.host_id, "upgrade_agent", arguments(package(tx)))

    def prove(self, tx: Tx, job: Job) -> None:
        """Wait until the host itself says that it runs with the new version."""
        host, wanted = get(tx, Host, self.host_id), package(tx)
        if host.agent_version == wanted.version:
            return
        asked = sa.select(sa.func.max(Step.ended_at)).where(Step.task_id == job.task_id, Step.name == "install")
        if job.now - (tx.scalar(asked) or job.now) > BACK_WITHIN:
            sentence = f"The agent of host {host.name} has not come back as version {wanted.version}; look at its log."
            raise Impossible("upgrade_unproven", sentence)
        raise Later("Waits until the agent has come back.")

    def activate(self, tx: Tx, job: Job) -> None:
        """Use the host again; it is in use when it has answered."""
        host = get(tx, Host, self.host_id, lock=True)
        if self.evacuate and host.state == "maintenance":
            move(tx, host, "activate", error_until=None, failed_vms=[])
        record(tx, "host.upgraded", host, task_id=job.task_id, version=host.agent_version)


@dataclass(frozen=True)
class UpgradeCluster(Plain):
    """Upgrade the agents of a cluster's hosts, one host at a time; it stops at the first that fails."""

    cluster_id: UUID
    name, permission = "cluster.upgrade", "cluster.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Upgrade the agents of cluster {get(tx, Cluster, self.cluster_id).name}"

    def check(self, tx: Tx) -> None:
        cluster, wanted = get(tx, Cluster, self.cluster_id), package(tx)
        if cluster.upgrade_to:
            raise Impossible("upgrading", f"Cluster {cluster.name} is being upgraded to version {cluster.upgrade_to} already.")
        old = sa.select(Host.id).where(Host.cluster_id == cluster.id, Host.state.in_(MAY), Host.agent_version != wanted.version)
        if tx.scalar(old.limit(1)) is None:
            sentence = f"All hosts of cluster {cluster.name} that answer have version {wanted.version} already."
            raise Impossible("upgraded", sentence)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        cluster = get(tx, Cluster, self.cluster_id, lock=True)
        cluster.upgrade_to, cluster.upgrade_task, cluster.upgrade_why = package(tx).version, None, ""
        record(tx, "cluster.upgrade", cluster, actor=actor.name, version=cluster.upgrade_to)
        touch(tx, "cluster", cluster.id)


@dataclass(frozen=True)
class CancelClusterUpgrade(Plain):
    """Upgrade no further host of a cluster; one that is being upgraded goes on unless nothing is installed there yet."""

    cluster_id: UUID
    name, permission = "cluster.cancel_upgrade", "cluster.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Stop the upgrade of cluster {get(tx, Cluster, self.cluster_id).name}"

    def check(self, tx: Tx) -> None:
        cluster = get(tx, Cluster, self.cluster_id)
        if not cluster.upgrade_to:
            raise Impossible("not_upgrading", f"Cluster {cluster.name} is not being upgraded.")

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        cluster = get(tx, Cluster, self.cluster_id, lock=True)
        if cluster.upgrade_task is not None and (task := tx.get(Task, cluster.upgrade_task, with_for_update=True)) is not None:
            cancel(tx, task, now)
        cluster.upgrade_to, cluster.upgrade_why = "", f"{actor.name} stopped it."
        record(tx, "cluster.upgrade_stopped", cluster, why=cluster.upgrade_why)
        touch(tx, "cluster", cluster.id)
