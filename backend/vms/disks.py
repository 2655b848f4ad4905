"""A VM's disk, as its host knows it."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx, get
from backend.errors import Impossible
from backend.storage.models import Disk, StorageDomain
from backend.vms.models import Vm
from hostapi.types import VolumeAbout, VolumeSpec


def volume_spec(tx: Tx, disk: Disk) -> VolumeSpec:
    """The disk's volume as its host knows it."""
    domain = get(tx, StorageDomain, disk.domain_id)
    backing = get(tx, Disk, disk.backing_id).path if disk.backing_id else None
    return VolumeSpec(disk.id, domain.path, disk.capacity_mib, backing, disk.preallocated, about=about(disk))


def about(disk: Disk) -> VolumeAbout:
    """What is to be noted beside the disk's volume."""
    if disk.vm_id is not None:
        return VolumeAbout(disk.name, "vm", disk.vm_id)
    return VolumeAbout(disk.name, "template" if disk.template_id else "", disk.template_id)


def disk_of(tx: Tx, vm_id: UUID) -> Disk | None:
    """The disk that the VM boots from, if it has one: that over its template's, else the first by name."""
    return tx.scalars(sa.select(Disk).where(Disk.vm_id == vm_id).order_by(Disk.backing_id.is_(None), Disk.name)).first()


def require_disk(tx: Tx, vm: Vm, what: str) -> Disk:
    """The VM's disk; `Impossible` for a VM that has none. `what` is what needs it, in words."""
    if (disk := disk_of(tx, vm.id)) is None:
        raise Impossible("no_disk", f"VM {vm.name} has no disk, so there is nothing {what}.")
    return disk
