"""The CPU that a cluster's VMs are given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from backend.changes import touch
from backend.clusters import cpus
from backend.clusters.models import Cluster
from backend.clusters.rules import models_of
from backend.db import Tx, get
from backend.errors import Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain
from hostapi.types import Cpu, HostCpu


@dataclass(frozen=True)
class SetCpuModel(Plain):
    """Say which CPU the cluster's VMs are given from their next start on: a model by its name, or (left open) as much as
    all its hosts have. A host that cannot give it is not operational."""

    cluster_id: UUID
    cpu_model: str = ""
    name, permission = "cluster.set_cpu", "cluster.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Set the CPU of cluster {get(tx, Cluster, self.cluster_id).name}"

    def check(self, tx: Tx) -> None:
        cluster = get(tx, Cluster, self.cluster_id)
        possible = models_of(cpus.hosts_of(tx).get(cluster.id, []), cpus.kinds(tx))
        if self.cpu_model and self.cpu_model not in possible:
            known = f"possible are {', '.join(possible)}" if possible else "none of them has said yet what it can give"
            sentence = f"No host of cluster {cluster.name} can give its VMs the CPU “{self.cpu_model}”; {known}."
            raise Invalid("no_such_cpu", sentence, fields=["cpu_model"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        cluster = get(tx, Cluster, self.cluster_id, lock=True)
        cluster.cpu_model, cluster.cpu_of = self.cpu_model, ""
        if self.cpu_model:
            cluster.cpu_id = cpus.keep(tx, HostCpu(Cpu(self.cpu_model)))
        tx.flush()
        cpus.judge(tx, [cluster.id])
        record(tx, "cluster.cpu_set", cluster, actor=actor.name, cpu=self.cpu_model or "that all its hosts have")
        touch(tx, "cluster", cluster.id)
