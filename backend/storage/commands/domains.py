"""Create and activate a storage domain; so far a local one: a folder of one host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clusters.commands import require_free_name
from backend.clusters.models import Cluster, DataCenter
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import move
from backend.hosts.models import Host
from backend.storage.machine import DOMAIN
from backend.storage.models import StorageDomain
from backend.tasks.command import Call, Job, Plain
from hostapi.types import Failure, StorageReport


class _Attach:
    """The one host step both commands share; `_domain` answers whose it is."""

    def _domain(self, tx: Tx) -> StorageDomain:
        raise NotImplementedError

    def attach_done(self, tx: Tx, job: Job, report: StorageReport) -> None:
        move(tx, self._domain(tx), "activated", total_mib=report.total_mib, free_mib=report.free_mib, why="")

    def attach_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        domain = self._domain(tx)
        if domain.state == "activating":
            move(tx, domain, "activation_failed", words={"why": failure.message}, why=failure.message)


@dataclass(frozen=True)
class CreateDomain(_Attach, Plain):
    """Make a folder of a host a storage domain."""

    domain_name: str
    host_id: UUID
    path: str
    name, permission, steps = "storagedomain.create", "storagedomain.create", ("define", "attach")

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"Create storage domain {self.domain_name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"domain-name:{self.domain_name}"]

    def check(self, tx: Tx) -> None:
        host = get(tx, Host, self.host_id)
        require_free_name(tx, StorageDomain, self.domain_name, "storage domain")
        path = PurePosixPath(self.path)
        if not path.is_absolute() or ".." in path.parts or "\n" in self.path:
            raise Invalid("bad_path", "The path of a storage domain begins with / and has no “..” in it.", fields=["path"])
        if host.state != "up":
            raise Impossible("host_not_up", f"Host {host.name} is {host.state.replace('_', ' ')}; it must be up.")
        if other := tx.scalar(
            sa.select(StorageDomain.name).where(StorageDomain.host_id == host.id, StorageDomain.path == str(path))
        ):
            raise Invalid("path_taken", f"That folder of host {host.name} is storage domain {other} already.", fields=["path"])

    def define(self, tx: Tx, job: Job) -> None:
        self.check(tx)
        host = get(tx, Host, self.host_id)
        center = get(tx, DataCenter, get(tx, Cluster, host.cluster_id).data_center_id)
        tx.add(
            StorageDomain(name=self.domain_name, data_center_id=center.id, host_id=host.id, path=self.path, state=DOMAIN.initial)
        )

    def define_undo(self, tx: Tx, job: Job) -> None:
        """One that is cancelled leaves its name and folder free. One that the host could not use stays, to be tried again."""
        if job.cancelled:
            domain = self._domain(tx)
            touch(tx, "storagedomain", domain.id)
            tx.delete(domain)
            tx.flush()

    def attach(self, tx: Tx, job: Job) -> Call:
        move(tx, self._domain(tx), "attach")
        return Call(self.host_id, "attach_domain", {"path": self.path})

    def _domain(self, tx: Tx) -> StorageDomain:
        domain = tx.scalars(sa.select(StorageDomain).where(StorageDomain.name == self.domain_name)).first()
        if domain is None:
            raise Impossible("domain_gone", f"Storage domain {self.domain_name} was removed meanwhile.")
        return domain


@dataclass(frozen=True)
class ActivateDomain(_Attach, Plain):
    """Try again to use a storage domain that is inactive."""

    storagedomain_id: UUID
    name, permission, steps = "storagedomain.activate", "storagedomain.edit", ("attach",)

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "storagedomain", self.storagedomain_id

    def title(self, tx: Tx) -> str:
        return f"Activate storage domain {self._domain(tx).name}"

    def check(self, tx: Tx) -> None:
        domain = self._domain(tx)
        DOMAIN.next(domain.state, "activate", domain.name)

    def attach(self, tx: Tx, job: Job) -> Call:
        domain = self._domain(tx)
        assert domain.host_id is not None
        move(tx, domain, "activate")
        return Call(domain.host_id, "attach_domain", {"path": domain.path})

    def _domain(self, tx: Tx) -> StorageDomain:
        return get(tx, StorageDomain, self.storagedomain_id)
