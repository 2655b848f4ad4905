"""Import a storage domain that comes from elsewhere: its disks, templates and VMs with their snapshots become rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from backend.changes import touch
from backend.clusters.commands import require_free_name
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.hosts.models import Host
from backend.storage.adopting import Adoption
from backend.storage.commands.domains import Attaching, require_free_path, require_path, require_up
from backend.storage.machine import DOMAIN
from backend.storage.models import KeptDefinition, StorageDomain
from backend.tasks.command import Call, Job, Plain
from hostapi import metadata
from hostapi.metadata import BadMetadata, DomainBody
from hostapi.types import DomainFound

MOST_TOLD = 200  # sentences that are kept as events


@dataclass(frozen=True)
class ImportDomain(Attaching, Plain):
    """Take over a storage domain of another installation, or of a lost database, with all VMs, templates and disks in it.
    A pool's desktops come back as plain VMs. Nothing in the folder is deleted; nobody else may use it any more."""

    host_id: UUID
    path: str
    domain_name: str = ""
    name, permission, steps = "storagedomain.import", "storagedomain.create", ("read", "adopt", "attach")
    no_return = "adopt"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"Import the storage domain in {self.path}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"domain-path:{self._path()}", *([f"domain-name:{self.domain_name}"] if self.domain_name else [])]

    def check(self, tx: Tx) -> None:
        host = get(tx, Host, self.host_id)
        require_path(self.path)
        if self.domain_name:
            require_free_name(tx, StorageDomain, self.domain_name, "storage domain")
        require_up(host)
        require_free_path(tx, host, self.path, shared=False)

    def read(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        return Call(self.host_id, "read_domain", {"path": self._path()})

    def adopt(self, tx: Tx, job: Job) -> None:
        """All rows, in this one transaction."""
        found: DomainFound = job.results["read"]
        host = get(tx, Host, self.host_id)
        domain = self._define(tx, host, found)
        adoption = Adoption(tx, domain, host.cluster_id, found, job.now)
        adoption.carry_out()
        words: dict[str, Any] = adoption.counts
        record(tx, "storagedomain.imported", domain, actor=job.actor.name, task_id=job.task_id, **words)
        for why in adoption.told[:MOST_TOLD]:
            record(tx, "storagedomain.import_told", domain, task_id=job.task_id, why=why)
        if (more := len(adoption.told) - MOST_TOLD) > 0:
            why = f"There are {more:,} more things to tell; run leasehold storage inspect {self._path()} on the host."
            record(tx, "storagedomain.import_told", domain, task_id=job.task_id, why=why)
        touch(tx, "storagedomain", domain.id)

    def _define(self, tx: Tx, host: Host, found: DomainFound) -> StorageDomain:
        body, generation = _own(found)
        if body is not None and body.path != self._path():
            sentence = (f"That storage domain was in {body.path}, and its disks name each other by that path: let the host have "
                        "it there, and import it from there.")  # fmt: skip
            raise Invalid("other_path", sentence, fields=["path"])
        name = self.domain_name or (body.name if body else "")
        if not name:
            sentence = "The storage domain does not say what it was called: give it a name."
            raise Invalid("name_missing", sentence, fields=["domain_name"])
        id = found.mark or (body.id if body else uuid4())
        if (known := tx.get(StorageDomain, id)) is not None:
            raise Impossible("domain_known", f"That is storage domain {known.name}, which is here already.")
        require_free_name(tx, StorageDomain, name, "storage domain")
        shared = found.mark is not None
        require_free_path(tx, host, self.path, shared=shared)
        domain = StorageDomain(
            id=id, name=name, type="posixfs" if shared else "local", path=self._path(), state=DOMAIN.initial,
            data_center_id=get(tx, Cluster, host.cluster_id).data_center_id, host_id=None if shared else host.id,
        )  # fmt: skip
        tx.add(domain)
        tx.flush()
        if generation:
            tx.add(KeptDefinition(domain_id=id, of="domain", object_id=id, generation=generation))
        return domain

    def _path(self) -> str:
        return str(PurePosixPath(self.path))

    def _host(self, tx: Tx, domain: StorageDomain) -> UUID:
        return self.host_id

    def _domain(self, tx: Tx) -> StorageDomain:
        host = get(tx, Host, self.host_id)
        center_id = get(tx, Cluster, host.cluster_id).data_center_id
        whose = sa.or_(StorageDomain.host_id == host.id, sa.and_(
            StorageDomain.host_id.is_(None), StorageDomain.data_center_id == center_id,
        ))  # fmt: skip
        domain = tx.scalars(sa.select(StorageDomain).where(whose, StorageDomain.path == self._path())).first()
        if domain is None:
            raise Impossible("domain_gone", f"The storage domain in {self.path} was removed meanwhile.")
        return domain


def _own(found: DomainFound) -> tuple[DomainBody | None, int]:
    """What the domain says of itself, and in which generation."""
    for one in found.definitions:
        if one.kind == "domain":
            try:
                body: DomainBody = metadata.parse("domain", one.text)
            except BadMetadata:
                break
            return body, one.generation
    return None, 0
