"""Create and activate a storage domain: a folder of one host, or one that all hosts of the data center mount."""

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
from backend.storage import reach
from backend.storage.machine import DOMAIN
from backend.storage.models import StorageDomain
from backend.tasks.command import Call, Job, Plain
from backend.tasks.models import Step
from hostapi.types import Failure, StorageReport

TYPES = ("local", "posixfs")


def require_path(path: str) -> None:
    """`Invalid` unless a storage domain could lie there."""
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or "\n" in path:
        raise Invalid("bad_path", "The path of a storage domain begins with / and has no “..” in it.", fields=["path"])


def require_up(host: Host) -> None:
    """`Impossible` unless the host can be asked."""
    if host.state != "up":
        raise Impossible("host_not_up", f"Host {host.name} is {host.state.replace('_', ' ')}; it must be up.")


def require_free_path(tx: Tx, host: Host, path: str, *, shared: bool) -> None:
    """`Invalid` when another domain lies there: on this host or, for one that is shared, on any of the data center's."""
    center_id = get(tx, Cluster, host.cluster_id).data_center_id
    here = sa.or_(StorageDomain.host_id == host.id, sa.and_(
        StorageDomain.data_center_id == center_id, sa.true() if shared else StorageDomain.host_id.is_(None),
    ))  # fmt: skip
    if other := tx.scalar(sa.select(StorageDomain.name).where(here, StorageDomain.path == str(PurePosixPath(path)))):
        raise Invalid("path_taken", f"That folder is storage domain {other} already.", fields=["path"])


class Attaching:
    """The one host step these commands share; `_domain` answers whose it is."""

    def _domain(self, tx: Tx) -> StorageDomain:
        raise NotImplementedError

    def _host(self, tx: Tx, domain: StorageDomain) -> UUID:
        raise NotImplementedError

    def attach(self, tx: Tx, job: Job) -> Call:
        domain = self._domain(tx)
        host_id, again = self._host(tx, domain), domain.state == "inactive"
        move(tx, domain, "activate" if again else "attach")
        if domain.host_id is not None:
            return Call(host_id, "attach_domain", {"path": domain.path})
        return Call(host_id, "attach_shared_domain", {"path": domain.path, "domain_id": domain.id, "first": True})

    def attach_done(self, tx: Tx, job: Job, report: StorageReport) -> None:
        domain = self._domain(tx)
        move(tx, domain, "activated", total_mib=report.total_mib, free_mib=report.free_mib, why="")
        if domain.host_id is None:  # the other hosts are told by a loop
            step = sa.select(Step.host_id).where(Step.task_id == job.task_id, Step.name == "attach")
            if (host_id := tx.scalar(step)) is not None:
                reach.note(tx, domain.id, host_id, report, job.now)

    def attach_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        domain = self._domain(tx)
        if domain.state == "activating":
            move(tx, domain, "activation_failed", words={"why": failure.message}, why=failure.message)


@dataclass(frozen=True)
class CreateDomain(Attaching, Plain):
    """Make a folder a storage domain: one of this host alone (`local`), or one that every host of the data center mounts at
    the same path (`posixfs`), which this host prepares."""

    domain_name: str
    host_id: UUID
    path: str
    type: str = "local"
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
        require_path(self.path)
        if self.type not in TYPES:
            sentence = f"“{self.type}” is no kind of storage domain; choose from {', '.join(TYPES)}."
            raise Invalid("bad_type", sentence, fields=["type"])
        require_up(host)
        require_free_path(tx, host, self.path, shared=self.type == "posixfs")

    def define(self, tx: Tx, job: Job) -> None:
        self.check(tx)
        host = get(tx, Host, self.host_id)
        center = get(tx, DataCenter, get(tx, Cluster, host.cluster_id).data_center_id)
        tx.add(
            StorageDomain(
                name=self.domain_name,
                type=self.type,
                data_center_id=center.id,
                host_id=host.id if self.type == "local" else None,
                path=str(PurePosixPath(self.path)),
                state=DOMAIN.initial,
            )
        )

    def define_undo(self, tx: Tx, job: Job) -> None:
        """One that is cancelled leaves its name and folder free. One that the host could not use stays, to be tried again."""
        if job.cancelled:
            domain = self._domain(tx)
            touch(tx, "storagedomain", domain.id)
            tx.delete(domain)
            tx.flush()

    def _host(self, tx: Tx, domain: StorageDomain) -> UUID:
        return self.host_id

    def _domain(self, tx: Tx) -> StorageDomain:
        domain = tx.scalars(sa.select(StorageDomain).where(StorageDomain.name == self.domain_name)).first()
        if domain is None:
            raise Impossible("domain_gone", f"Storage domain {self.domain_name} was removed meanwhile.")
        return domain


@dataclass(frozen=True)
class ActivateDomain(Attaching, Plain):
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

    def _host(self, tx: Tx, domain: StorageDomain) -> UUID:
        """Its own host; for a shared one any that is up."""
        if domain.host_id is not None:
            return domain.host_id
        up = sa.select(Host.id).join(Cluster, Cluster.id == Host.cluster_id).order_by(Host.name).where(
            Cluster.data_center_id == domain.data_center_id, Host.state == "up"
        )
        if (host_id := tx.scalars(up).first()) is None:
            raise Impossible("host_not_up", "No host of its data center is up.")
        return host_id

    def _domain(self, tx: Tx) -> StorageDomain:
        return get(tx, StorageDomain, self.storagedomain_id)
