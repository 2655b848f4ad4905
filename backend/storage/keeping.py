"""KeepDefinitions (a loop): gives storage domains to keep what VMs, templates and they themselves are, whenever that changes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID, uuid4

import sqlalchemy as sa
import structlog

from backend.db import Tx
from backend.hosts.models import Host
from backend.storage.definitions import Behind, claim
from backend.storage.loop import AskDoor
from backend.storage.models import KeptDefinition, StorageDomain
from backend.storage.reach import reached
from hostapi.client import HostUnreachable
from hostapi.types import Definition

log = structlog.get_logger("definitions")
AT_ONCE = 500  # definitions in one round
WAIT_S = 30.0
ASK_AT_ONCE = 16


@dataclass(frozen=True)
class Batch:
    """What one domain is to keep, and the host that is to write it."""

    host_id: UUID
    address: str
    port: int
    path: str
    items: tuple[Behind, ...]


class KeepDefinitions:
    """Have hosts write down in storage domains what has changed since; what does not work is tried again in the next round."""

    name = "definitions"  # a look at 10,000 VMs takes the database a second: not more often than needed

    def __init__(self, doors: Callable[[UUID, str, int], AskDoor], every_s: float = 30.0) -> None:
        self.doors, self.every_s = doors, every_s

    def read(self, tx: Tx) -> list[Batch]:
        """What is behind, with generations that nobody else gives away."""
        writers = _writers(tx)
        items: dict[UUID, list[Behind]] = {}
        for one in claim(tx, writers, AT_ONCE):
            items.setdefault(one.domain_id, []).append(one)
        return [Batch(*writers[domain_id], tuple(behind)) for domain_id, behind in items.items()]

    def gather(self, wanted: list[Batch]) -> list[tuple[Behind, int]]:
        if not wanted:
            return []
        with ThreadPoolExecutor(min(ASK_AT_ONCE, len(wanted)), "definitions") as pool:
            return [found for batch in pool.map(self._write, wanted) for found in batch]

    def apply(self, tx: Tx, found: list[tuple[Behind, int]]) -> None:
        for one, there in found:
            key = {"domain_id": one.domain_id, "of": one.of, "object_id": one.object_id}
            row = sa.and_(*(getattr(KeptDefinition, name) == value for name, value in key.items()))
            ours = sa.and_(row, KeptDefinition.generation == one.generation)
            if there > one.generation:  # another database wrote there, or this one is an older copy: ours is to win
                tx.execute(sa.update(KeptDefinition).where(row, KeptDefinition.generation < there).values(generation=there))
            elif one.text:
                if not there:  # of no use to try again before it changes
                    log.warning("a storage domain cannot keep what this is", of=one.of, id=str(one.object_id))
                tx.execute(sa.update(KeptDefinition).where(ours).values(digest=one.digest))
            else:
                tx.execute(sa.delete(KeptDefinition).where(ours))

    def _write(self, batch: Batch) -> list[tuple[Behind, int]]:
        kept = tuple(Definition(one.of, one.object_id, one.generation, one.text) for one in batch.items)  # type: ignore[arg-type]
        args = {"domain_path": batch.path, "definitions": kept}
        try:
            door = self.doors(batch.host_id, batch.address, batch.port)
            outcome = door.ask(uuid4(), "keep_definitions", args, wait_s=WAIT_S)
        except HostUnreachable as silent:
            log.info("what a storage domain is to keep cannot be written", path=batch.path, why=str(silent))
            return []
        if outcome.state != "done":
            why = outcome.failure.message if outcome.failure else "The host is still at it."
            log.warning("what a storage domain is to keep was not written", path=batch.path, why=why)
            return []
        return list(zip(batch.items, outcome.result, strict=True))


def _writers(tx: Tx) -> dict[UUID, tuple[UUID, str, int, str]]:
    """For each active domain a host that is up and reaches it, and the domain's path there."""
    by_host = reached(tx)
    paths = {id: path for id, path in tx.execute(sa.select(StorageDomain.id, StorageDomain.path))}
    found: dict[UUID, tuple[UUID, str, int, str]] = {}
    up = sa.select(Host.id, Host.address, Host.port).where(Host.state == "up").order_by(Host.name)
    for id, address, port in tx.execute(up):
        for domain_id in by_host.get(id, ()):
            found.setdefault(domain_id, (id, address, port, paths[domain_id]))
    return found
