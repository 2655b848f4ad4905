"""Which scheduling policy a cluster has, and policies of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.placement.models import SchedulingPolicy
from backend.scheduling.policies import BALANCING, SCORES, Thresholds, require_thresholds, thresholds
from backend.scheduling.policy import FILTERS
from backend.scheduling.policy import SCORES as EVERY_SCORE
from backend.tasks.command import Actor, Plain
from backend.vms.rules import require_name


@dataclass(frozen=True)
class SetSchedulingPolicy(Plain):
    """Choose how a cluster's VMs are placed and balanced; thresholds that are not given stay as they are."""

    cluster_id: UUID
    scheduling_policy: str | None = None
    high_cpu_percent: int | None = None
    low_cpu_percent: int | None = None
    over_s: int | None = None
    high_memory_percent: int | None = None
    low_memory_percent: int | None = None
    hosts_in_reserve: int | None = None
    shut_down_hosts: bool | None = None
    high_vm_count: int | None = None
    vm_migration_threshold: int | None = None
    spm_vm_grace: int | None = None
    at_once: int | None = None
    rest_s: int | None = None
    name, permission = "cluster.set_policy", "cluster.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Set the scheduling policy of cluster {get(tx, Cluster, self.cluster_id).name}"

    def check(self, tx: Tx) -> None:
        cluster, wanted = get(tx, Cluster, self.cluster_id), self.scheduling_policy
        own = tx.scalars(sa.select(SchedulingPolicy.name).order_by(SchedulingPolicy.name)).all()
        if wanted is not None and wanted not in (*SCORES, *own):
            raise Invalid("bad_policy", f"There is no scheduling policy {wanted[:40]}; there is {', '.join((*SCORES, *own))}.",
                          fields=["scheduling_policy"])
        require_thresholds(asdict(thresholds(cluster.thresholds)) | self._given())

    def _given(self) -> dict[str, Any]:
        return {f.name: value for f in fields(Thresholds) if (value := getattr(self, f.name, None)) is not None}

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        cluster = get(tx, Cluster, self.cluster_id, lock=True)
        usual, wanted = asdict(Thresholds()), cluster.thresholds | self._given()
        cluster.thresholds = {name: value for name, value in wanted.items() if value != usual.get(name)}
        cluster.scheduling_policy = self.scheduling_policy or cluster.scheduling_policy
        differ = ", ".join(f"{name} {value}" for name, value in sorted(cluster.thresholds.items()))
        record(tx, "cluster.policy_set", cluster, actor=actor.name, policy=cluster.scheduling_policy,
               thresholds=f" ({differ})" if differ else "")
        touch(tx, "cluster", cluster.id)


@dataclass(frozen=True)
class CreateSchedulingPolicy(Plain):
    """Make a scheduling policy: which filters count, which scores weigh how much (idle=2), and how clusters are balanced."""

    policy_name: str
    weights: tuple[str, ...]
    filters: tuple[str, ...] = ()
    balancing: str = "none"
    description: str = ""
    name, permission = "schedulingpolicy.create", "affinity.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "system", None

    def title(self, tx: Tx) -> str:
        return f"Create scheduling policy {self.policy_name}"

    def check(self, tx: Tx) -> None:
        require_name(self.policy_name, "scheduling policy")
        if self.policy_name in SCORES or tx.scalar(
            sa.select(SchedulingPolicy.id).where(SchedulingPolicy.name == self.policy_name)
        ):
            raise Invalid("name_taken", f"There is already a scheduling policy {self.policy_name}; choose another name.",
                          fields=["policy_name"])
        if self.balancing not in BALANCING:
            raise Invalid("bad_balancing", f"Balancing is one of {', '.join(BALANCING)}.", fields=["balancing"])
        if unknown := [name for name in self.filters if name not in FILTERS]:
            raise Invalid("bad_filter", f"There is no filter {unknown[0][:40]}; there is {', '.join(FILTERS)}.",
                          fields=["filters"])
        _weights(self.weights)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        wanted = self.filters or tuple(FILTERS)
        # what nobody can do without is asked whatever was chosen: a VM never starts where it cannot run
        filters = [name for name in FILTERS if name in wanted or name in ("up", "storage", "cpus", "memory")]
        policy = SchedulingPolicy(
            name=self.policy_name, description=self.description, balancing=self.balancing, filters=filters,
            weights=_weights(self.weights),
        )  # fmt: skip
        tx.add(policy)
        tx.flush()
        record(tx, "schedulingpolicy.created", policy, actor=actor.name)
        touch(tx, "schedulingpolicy", policy.id)
        return {"id": str(policy.id)}


@dataclass(frozen=True)
class RemoveSchedulingPolicy(Plain):
    """Forget a scheduling policy that no cluster uses."""

    schedulingpolicy_id: UUID
    name, permission = "schedulingpolicy.remove", "affinity.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "schedulingpolicy", self.schedulingpolicy_id

    def title(self, tx: Tx) -> str:
        return f"Remove scheduling policy {get(tx, SchedulingPolicy, self.schedulingpolicy_id).name}"

    def check(self, tx: Tx) -> None:
        policy = get(tx, SchedulingPolicy, self.schedulingpolicy_id)
        if cluster := tx.scalar(sa.select(Cluster.name).where(Cluster.scheduling_policy == policy.name).limit(1)):
            raise Impossible("in_use", f"Cluster {cluster} uses the scheduling policy {policy.name}; give it another one first.")

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        policy = get(tx, SchedulingPolicy, self.schedulingpolicy_id, lock=True)
        self.check(tx)
        record(tx, "schedulingpolicy.removed", policy, actor=actor.name)
        touch(tx, "schedulingpolicy", policy.id)
        tx.delete(policy)


def _weights(given: Sequence[str]) -> dict[str, float]:
    """“idle=2” as {"idle": 2.0}; `Invalid` names what is wrong."""
    found = {}
    for one in given:
        name, _, number = one.partition("=")
        if name not in EVERY_SCORE:
            raise Invalid("bad_weight", f"There is no score {name[:40]}; there is {', '.join(EVERY_SCORE)}.", fields=["weights"])
        try:
            found[name] = float(number or 1)
        except ValueError:
            raise Invalid("bad_weight", f"“{one[:40]}” is no weight: write idle=2.", fields=["weights"]) from None
        if not 0 < found[name] <= 1000:
            raise Invalid("bad_weight", f"The weight of {name} must lie between 0 and 1,000.", fields=["weights"])
    if not found:
        raise Invalid("bad_weight", "Name at least one score with its weight, such as idle=2.", fields=["weights"])
    return found
