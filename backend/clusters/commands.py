"""Create data centers, create and edit clusters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clusters.models import Cluster, DataCenter
from backend.db import Tx, get
from backend.errors import Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain
from backend.vms.rules import require_name


def require_free_name(tx: Tx, cls: Any, name: str, what: str) -> None:
    """`Invalid` unless the name is well formed and no other row of this kind has it."""
    require_name(name, what)
    if tx.scalar(sa.select(cls.id).where(cls.name == name)):
        raise Invalid("name_taken", f"There is already a {what} named {name}; choose another name.", fields=["name"])


@dataclass(frozen=True)
class CreateDataCenter(Plain):
    """Make an empty data center."""

    data_center_name: str
    description: str = ""
    name, permission = "datacenter.create", "datacenter.create"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "system", None

    def title(self, tx: Tx) -> str:
        return f"Create data center {self.data_center_name}"

    def check(self, tx: Tx) -> None:
        require_free_name(tx, DataCenter, self.data_center_name, "data center")

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        return _added(tx, DataCenter(name=self.data_center_name, description=self.description), actor)


@dataclass(frozen=True)
class CreateCluster(Plain):
    """Make an empty cluster in a data center."""

    cluster_name: str
    data_center_id: UUID
    description: str = ""
    memory_overcommit_percent: int = 100
    name, permission = "cluster.create", "cluster.create"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "datacenter", self.data_center_id

    def title(self, tx: Tx) -> str:
        return f"Create cluster {self.cluster_name}"

    def check(self, tx: Tx) -> None:
        get(tx, DataCenter, self.data_center_id)
        require_free_name(tx, Cluster, self.cluster_name, "cluster")
        _require_overcommit(self.memory_overcommit_percent)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        return _added(
            tx,
            Cluster(
                name=self.cluster_name,
                description=self.description,
                data_center_id=self.data_center_id,
                memory_overcommit_percent=self.memory_overcommit_percent,
            ),
            actor,
        )


@dataclass(frozen=True)
class EditCluster(Plain):
    """Change a cluster; what is not given stays. VMs that run stay where they are."""

    cluster_id: UUID
    cluster_name: str | None = None
    description: str | None = None
    memory_overcommit_percent: int | None = None
    name, permission = "cluster.edit", "cluster.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Edit cluster {get(tx, Cluster, self.cluster_id).name}"

    def check(self, tx: Tx) -> None:
        cluster = get(tx, Cluster, self.cluster_id)
        if self.cluster_name is not None and self.cluster_name != cluster.name:
            require_free_name(tx, Cluster, self.cluster_name, "cluster")
        if self.memory_overcommit_percent is not None:
            _require_overcommit(self.memory_overcommit_percent)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        cluster = get(tx, Cluster, self.cluster_id, lock=True)
        cluster.name = self.cluster_name or cluster.name
        if self.description is not None:
            cluster.description = self.description
        if self.memory_overcommit_percent is not None:
            cluster.memory_overcommit_percent = self.memory_overcommit_percent
        record(tx, "cluster.edited", cluster, actor=actor.name)
        touch(tx, "cluster", cluster.id)


def _require_overcommit(percent: int) -> None:
    if not 50 <= percent <= 400:
        raise Invalid("bad_overcommit", "Memory overcommitment lies between 50 and 400 per cent; 100 is none.",
                      fields=["memory_overcommit_percent"])


def _added(tx: Tx, row: Any, actor: Actor) -> dict[str, Any]:
    tx.add(row)
    tx.flush()
    record(tx, f"{row.kind}.created", row, actor=actor.name)
    touch(tx, row.kind, row.id)
    return {"id": str(row.id)}
