"""Reach (a loop): tells every host of a data center to use its shared domains, until it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import sqlalchemy as sa
import structlog

from backend.clock import Clock
from backend.clusters.models import Cluster
from backend.db import Tx
from backend.hosts.models import Host
from backend.storage import reach
from backend.storage.models import DomainReach, StorageDomain
from hostapi.client import HostUnreachable
from hostapi.types import Outcome, StorageReport

log = structlog.get_logger("reach")
AGAIN_AFTER = timedelta(seconds=15)  # a host that could not is told again
WAIT_S = 10.0
ASK_AT_ONCE = 64


class AskDoor(Protocol):
    """How a host is told."""

    def ask(self, uid: UUID, verb: str, args: Mapping[str, Any], *, wait_s: float) -> Outcome: ...


@dataclass(frozen=True)
class Wanted:
    """A host, where it is, and the shared domain that it does not use yet."""

    host_id: UUID
    address: str
    port: int
    domain_id: UUID
    path: str


class Reach:
    """Tell hosts of shared domains: a host that came later, whose agent lost its folder, or that could not before."""

    name = "reach"

    def __init__(self, doors: Callable[[UUID, str, int], AskDoor], clock: Clock, every_s: float = 3.0) -> None:
        self.doors, self.clock, self.every_s = doors, clock, every_s

    def read(self, tx: Tx) -> list[Wanted]:
        row = sa.and_(DomainReach.domain_id == StorageDomain.id, DomainReach.host_id == Host.id)
        lately = sa.or_(DomainReach.ok, DomainReach.told_at > self.clock.now() - AGAIN_AFTER)
        wanted = (
            sa.select(Host.id, Host.address, Host.port, StorageDomain.id, StorageDomain.path)
            .join(Cluster, Cluster.id == Host.cluster_id)
            .join(StorageDomain, StorageDomain.data_center_id == Cluster.data_center_id)
            .outerjoin(DomainReach, row)
            .where(
                Host.state.in_(("up", "non_operational", "error")),
                StorageDomain.host_id.is_(None),
                StorageDomain.state.in_(("active", "inactive")),
                sa.func.coalesce(lately, sa.false()).is_(False),
            )
            .order_by(Host.name, StorageDomain.name)
        )
        return [Wanted(*row) for row in tx.execute(wanted)]

    def gather(self, wanted: list[Wanted]) -> list[tuple[Wanted, StorageReport]]:
        if not wanted:
            return []
        with ThreadPoolExecutor(min(ASK_AT_ONCE, len(wanted)), "reach") as pool:
            answers = list(pool.map(self._tell, wanted))
        return [(one, answer) for one, answer in zip(wanted, answers, strict=True) if answer is not None]

    def apply(self, tx: Tx, found: list[tuple[Wanted, StorageReport]]) -> None:
        now = self.clock.now()
        for one, report in found:
            if tx.get(Host, one.host_id) is not None and tx.get(StorageDomain, one.domain_id) is not None:
                reach.note(tx, one.domain_id, one.host_id, report, now)

    def _tell(self, one: Wanted) -> StorageReport | None:
        args = {"path": one.path, "domain_id": one.domain_id, "first": False}
        try:
            outcome = self.doors(one.host_id, one.address, one.port).ask(uuid4(), "attach_shared_domain", args, wait_s=WAIT_S)
        except HostUnreachable as silent:
            log.info("host cannot be told of a shared domain", host=str(one.host_id), why=str(silent))
            return None
        if outcome.state == "done":
            report: StorageReport = outcome.result
            return report
        why = outcome.failure.message if outcome.failure else f"{one.path} does not answer; look at its disk or network."
        return StorageReport(one.path, False, why=why)


__all__ = ["Reach"]
