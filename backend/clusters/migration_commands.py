"""A cluster's migration policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import get_args, get_type_hints
from uuid import UUID

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain
from hostapi.types import MigrationSpec

WAYS: tuple[str, ...] = get_args(get_type_hints(MigrationSpec)["converge"])


@dataclass(frozen=True)
class SetMigrationPolicy(Plain):
    """Say how VMs of a cluster are migrated: how fast, how many at once, and what becomes of one whose memory changes faster
    than it can be sent."""

    cluster_id: UUID
    migration_bandwidth_mib: int = 0
    migrations_per_host: int = 2
    migration_downtime_ms: int = 500
    migration_converge: str = "auto_converge"
    name, permission = "cluster.migration_policy", "cluster.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Set the migration policy of cluster {get(tx, Cluster, self.cluster_id).name}"

    def check(self, tx: Tx) -> None:
        for field, least, most in (
            ("migration_bandwidth_mib", 0, 1_000_000), ("migrations_per_host", 1, 50), ("migration_downtime_ms", 10, 60_000),
        ):  # fmt: skip
            if not least <= getattr(self, field) <= most:
                raise Invalid("bad_policy", f"{field} must lie between {least:,} and {most:,}.", fields=[field])
        if self.migration_converge not in WAYS:
            sentence = f"“{self.migration_converge}” is no way to converge; choose from {', '.join(WAYS)}."
            raise Invalid("bad_policy", sentence, fields=["migration_converge"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        cluster = get(tx, Cluster, self.cluster_id, lock=True)
        for field in ("migration_bandwidth_mib", "migrations_per_host", "migration_downtime_ms", "migration_converge"):
            setattr(cluster, field, getattr(self, field))
        record(tx, "cluster.migration_policy_set", cluster, actor=actor.name)
        touch(tx, "cluster", cluster.id)
