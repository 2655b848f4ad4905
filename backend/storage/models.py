"""StorageDomain and Disk rows."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, ref
from backend.storage.machine import DISK, DOMAIN


class StorageDomain(HasId, Base):
    """A place for disks. A local domain is a folder of one host."""

    __tablename__ = "storage_domain"
    kind = "storagedomain"
    machine = DOMAIN
    name: Mapped[str] = mapped_column(unique=True)
    type: Mapped[str] = mapped_column(default="local", server_default="local")
    data_center_id: Mapped[UUID] = ref("data_center.id")
    host_id: Mapped[UUID | None] = ref("host.id")  # whose folder it is, when local
    path: Mapped[str]
    state: Mapped[str] = mapped_column(default=DOMAIN.initial)
    total_mib: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    free_mib: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    why: Mapped[str] = mapped_column(default="", server_default="")


class Disk(HasId, Base):
    """A disk of a VM or of a template; for now one volume, perhaps over a template's (`backing_id`)."""

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
