"""HostHistory (a loop): keeps how busy hosts were for some hours, and tells when one is too busy or too full."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clock import Clock
from backend.clusters.models import Cluster
from backend.db import Tx
from backend.events import record
from backend.hosts.alerting import WORDS, alerts, crossed
from backend.hosts.models import Host, HostSample
from backend.hosts.usage import memory_percent, storage_percent, swap_percent
from backend.loops import FromRows

KEEP = timedelta(hours=6)
SAMPLE_EVERY = timedelta(seconds=60)
KNOWN = ("up", "preparing_for_maintenance", "maintenance", "non_operational", "error")  # they answer


class HostHistory(FromRows):
    """A row a host and minute, all of them in one statement; thresholds are looked at more often."""

    name = "host history"

    def __init__(self, clock: Clock, every_s: float = 10.0) -> None:
        self.clock, self.every_s = clock, every_s
        self._sampled_at: datetime | None = None

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        self._alert(tx)
        if self._sampled_at is None or now - self._sampled_at >= SAMPLE_EVERY:
            self._sampled_at = now
            _sample(tx, now)

    def _alert(self, tx: Tx) -> None:
        values = sa.select(
            Host.id, Host.alerts, Cluster.alerts.label("own"), Host.cpu_percent.label("alert_cpu_percent"),
            memory_percent().label("alert_memory_percent"), swap_percent().label("alert_swap_percent"),
            Host.network_mib_s.label("alert_network_mib_s"), storage_percent().label("alert_storage_percent"),
        ).join(Cluster, Cluster.id == Host.cluster_id).where(Host.state.in_(KNOWN))  # fmt: skip
        for row in tx.execute(values):
            told = {name: value for name, value in row._mapping.items() if name in WORDS}
            now = crossed(told, alerts(row.own), row.alerts)
            if now != row.alerts:
                _tell(tx, row.id, row.alerts, now, told)


def _tell(tx: Tx, id: UUID, before: list[str], now: list[str], values: dict[str, Any]) -> None:
    """One event when a threshold is crossed, and one when that is over."""
    host = tx.get_one(Host, id, populate_existing=True)
    host.alerts = now
    touch(tx, "host", id)
    for name in now:
        if name not in before:
            record(tx, "host.alert", host, what=WORDS[name][0].format(value=values[name]))
    for name in before:
        if name not in now:
            record(tx, "host.alert_over", host, what=WORDS[name][1])


def _sample(tx: Tx, now: datetime) -> None:
    columns = ("id", "host_id", "at", "cpu_percent", "memory_percent", "swap_percent", "network_mib_s", "storage_percent")
    zero = [sa.func.coalesce(one, 0.0) for one in (memory_percent(), swap_percent(), Host.network_mib_s, storage_percent())]
    rows = sa.select(sa.func.gen_random_uuid(), Host.id, sa.literal(now, sa.DateTime(timezone=True)), Host.cpu_percent, *zero)
    known = rows.where(Host.state.in_(KNOWN), Host.cpu_percent.is_not(None))
    tx.execute(sa.insert(HostSample).from_select(columns, known))
    tx.execute(sa.delete(HostSample).where(HostSample.at < now - KEEP))


__all__ = ["HostHistory"]
