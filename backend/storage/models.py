"""StorageDomain, DomainReach, KeptDefinition, Disk and Transfer rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, ref
from backend.storage.machine import DISK, DOMAIN, TRANSFER


class StorageDomain(HasId, Base):
    """A place for disks. A local domain is a folder of one host; a posixfs domain is a folder that is mounted at the same
    path on every host of the data center."""

    __tablename__ = "storage_domain"
    kind = "storagedomain"
    machine = DOMAIN
    name: Mapped[str] = mapped_column(unique=True)
    type: Mapped[str] = mapped_column(default="local", server_default="local")
    data_center_id: Mapped[UUID] = ref("data_center.id")
    host_id: Mapped[UUID | None] = ref("host.id")  # whose folder it is; of a shared one, of nobody
    path: Mapped[str]
    state: Mapped[str] = mapped_column(default=DOMAIN.initial)
    total_mib: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    free_mib: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    why: Mapped[str] = mapped_column(default="", server_default="")


class DomainReach(HasId, Base):
    """Whether a host reaches a shared domain, as it said last."""

    __tablename__ = "domain_reach"
    __table_args__ = (sa.UniqueConstraint("domain_id", "host_id"),)
    kind = "reach"
    domain_id: Mapped[UUID] = ref("storage_domain.id", ondelete="CASCADE")
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE", index=True)
    ok: Mapped[bool]
    total_mib: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    free_mib: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    why: Mapped[str] = mapped_column(default="", server_default="")
    lost_at: Mapped[datetime | None]  # since when it does not reach it
    told_at: Mapped[datetime]  # when the host was last asked to use it


class KeptDefinition(Base):
    """What a storage domain has been given to keep of a VM, a template or itself: the last generation that a host was asked to
    write, and the digest of what it is known to have written."""

    __tablename__ = "kept_definition"
    domain_id: Mapped[UUID] = ref("storage_domain.id", ondelete="CASCADE", primary_key=True)
    of: Mapped[str] = mapped_column(primary_key=True)  # domain | template | vm
    object_id: Mapped[UUID] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(sa.BigInteger, default=1, server_default="1")
    digest: Mapped[str] = mapped_column(default="", server_default="")


class Disk(HasId, Base):
    """A disk of a VM, of a template, or of nobody; for now one volume, perhaps over a template's (`backing_id`)."""

    __tablename__ = "disk"
    kind = "disk"
    machine = DISK
    name: Mapped[str]
    domain_id: Mapped[UUID] = ref("storage_domain.id")
    vm_id: Mapped[UUID | None] = ref("vm.id", index=True)
    template_id: Mapped[UUID | None] = ref("template.id", index=True)
    backing_id: Mapped[UUID | None] = ref("disk.id", index=True)
    state: Mapped[str] = mapped_column(default=DISK.initial)
    capacity_mib: Mapped[int] = mapped_column(sa.BigInteger)
    path: Mapped[str] = mapped_column(default="", server_default="")  # as the host answered
    preallocated: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    format: Mapped[str] = mapped_column(default="qcow2", server_default="qcow2")  # or iso: the image of a CD


class Transfer(HasId, Base):
    """A file that is being uploaded to become a disk. The host that has the pieces knows best how many there are."""

    __tablename__ = "transfer"
    kind = "transfer"
    machine = TRANSFER
    disk_id: Mapped[UUID] = ref("disk.id", ondelete="CASCADE", unique=True)
    format: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str]
    received_bytes: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    state: Mapped[str] = mapped_column(default=TRANSFER.initial)
    why: Mapped[str] = mapped_column(default="", server_default="")
    moved_at: Mapped[datetime]  # when something arrived last
