"""When events tell that a cluster's hosts are too busy or too full."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.events import record
from backend.hosts.alerting import Alerts, alerts, require_alerts
from backend.tasks.command import Actor, Plain


@dataclass(frozen=True)
class SetAlerts(Plain):
    """Say above which values an event tells that a host of the cluster is too busy or too full (0: never). Thresholds that
    are not given stay as they are."""

    cluster_id: UUID
    alert_cpu_percent: int | None = None
    alert_memory_percent: int | None = None
    alert_swap_percent: int | None = None
    alert_network_mib_s: int | None = None
    alert_storage_percent: int | None = None
    name, permission = "cluster.set_alerts", "cluster.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Set the thresholds for events of cluster {get(tx, Cluster, self.cluster_id).name}"

    def check(self, tx: Tx) -> None:
        require_alerts(alerts(get(tx, Cluster, self.cluster_id).alerts | self._given()))

    def _given(self) -> dict[str, Any]:
        return {f.name: value for f in fields(Alerts) if (value := getattr(self, f.name)) is not None}

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        cluster = get(tx, Cluster, self.cluster_id, lock=True)
        usual = asdict(Alerts())
        cluster.alerts = {name: v for name, v in (cluster.alerts | self._given()).items() if v != usual[name]}
        record(tx, "cluster.alerts_set", cluster, actor=actor.name)
        touch(tx, "cluster", cluster.id)
