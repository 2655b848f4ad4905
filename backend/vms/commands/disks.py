"""Disks besides the one that a VM was made with: create, attach, detach, remove, while the VM runs or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.directory import rights
from backend.errors import Impossible, Invalid
from backend.events import move, record
from backend.storage.machine import DISK
from backend.storage.models import Disk, StorageDomain, Transfer
from backend.storage.reach import host_of
from backend.tasks.command import Call, Job, Plain
from backend.vms.commands.vnics import RUNS, UNPLUG_S, require_still
from backend.vms.disks import disk_of, volume_spec
from backend.vms.models import Vm
from backend.vms.rules import require_name, require_sizes
from hostapi.types import DiskSpec, Failure


@dataclass(frozen=True)
class CreateDisk(Plain):
    """Create an empty disk in a storage domain, to attach to a VM: it takes room as it is written to, or all of it at once."""

    disk_name: str
    domain_id: UUID
    capacity_mib: int
    preallocated: bool = False
    name, permission, steps = "disk.create", "disk.edit", ("define", "volume")

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "storagedomain", self.domain_id

    def title(self, tx: Tx) -> str:
        return f"Create disk {self.disk_name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"disk-name:{self.disk_name}"]

    def check(self, tx: Tx) -> None:
        require_name(self.disk_name, "disk")
        require_sizes(capacity_mib=self.capacity_mib)
        if self._disk(tx) is not None:
            sentence = f"There is a disk named {self.disk_name} already; choose another name."
            raise Invalid("name_taken", sentence, fields=["disk_name"])
        domain = get(tx, StorageDomain, self.domain_id)
        if domain.state != "active":
            raise Impossible("domain_not_active", f"Storage domain {domain.name} is {domain.state}; activate it first.")
        if self.preallocated and self.capacity_mib > domain.free_mib:
            sentence = f"Storage domain {domain.name} has {domain.free_mib} MiB free, the disk is to take {self.capacity_mib}."
            raise Impossible("storage_full", sentence)

    def define(self, tx: Tx, job: Job) -> None:
        """The row, locked until the volume exists."""
        self.check(tx)
        tx.add(Disk(name=self.disk_name, domain_id=self.domain_id, capacity_mib=self.capacity_mib, state=DISK.initial,
                    preallocated=self.preallocated))

    def volume(self, tx: Tx, job: Job) -> Call:
        disk = self._require(tx)
        return Call(host_of(tx, disk), "create_volume", {"volume": volume_spec(tx, disk)})

    def volume_done(self, tx: Tx, job: Job, path: str) -> None:
        move(tx, self._require(tx), "created", path=path)

    def define_undo(self, tx: Tx, job: Job) -> None:
        """Nothing stays of a disk that could not be created."""
        if (disk := self._disk(tx)) is not None and disk.state == "locked":
            tx.delete(disk)

    def _disk(self, tx: Tx) -> Disk | None:
        return tx.scalars(sa.select(Disk).where(Disk.name == self.disk_name)).first()

    def _require(self, tx: Tx) -> Disk:
        if (disk := self._disk(tx)) is None:
            raise Impossible("disk_gone", f"Disk {self.disk_name} was removed meanwhile.")
        return disk


@dataclass(frozen=True)
class AttachDisk(Plain):
    """Attach a disk to a VM; one that runs gets it at once. Snapshots of the VM do not count it in."""

    disk_id: UUID
    vm_id: UUID
    name, permission, steps = "disk.attach", "disk.edit", ("plug",)

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "storagedomain", get(tx, Disk, self.disk_id).domain_id

    def title(self, tx: Tx) -> str:
        return f"Attach disk {get(tx, Disk, self.disk_id).name} to VM {get(tx, Vm, self.vm_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"disk:{self.disk_id}", f"vm:{self.vm_id}"]

    def check(self, tx: Tx) -> None:
        vm, disk = get(tx, Vm, self.vm_id), get(tx, Disk, self.disk_id)
        require_still(vm)
        if disk.template_id is not None or disk.vm_id is not None:
            owner = f"VM {get(tx, Vm, disk.vm_id).name}" if disk.vm_id else "a template"
            raise Impossible("disk_used", f"Disk {disk.name} belongs to {owner}; detach it there first.")
        if disk.format == "iso":
            raise Impossible("is_cd", f"{disk.name} is the image of a CD: give it to a run of VM {vm.name} (run once).")
        if disk.state != "ok":
            raise Impossible("disk_not_ok", f"Disk {disk.name} is {disk.state}; it can be attached when it is ok.")
        usual = disk_of(tx, vm.id)
        if usual is not None and usual.domain_id != disk.domain_id:
            names = [get(tx, StorageDomain, one.domain_id).name for one in (disk, usual)]
            raise Impossible("other_domain", f"Disk {disk.name} lies in storage domain {names[0]}, the disk of VM {vm.name} in "
                             f"{names[1]}: a VM has its disks in one.")  # fmt: skip

    def plug(self, tx: Tx, job: Job) -> Call | None:
        self.check(tx)
        rights.require(tx, job.actor, "vm.edit", "vm", self.vm_id, job.now)
        vm, disk = get(tx, Vm, self.vm_id), get(tx, Disk, self.disk_id, lock=True)
        if vm.state in RUNS and vm.host_id is not None:
            return Call(vm.host_id, "plug_disk", {"vm_id": vm.id, "disk": DiskSpec(disk.id, disk.path)})
        self._written(tx, job)
        return None

    def plug_done(self, tx: Tx, job: Job, result: Any) -> None:
        self._written(tx, job)

    def _written(self, tx: Tx, job: Job) -> None:
        vm, disk = get(tx, Vm, self.vm_id), get(tx, Disk, self.disk_id)
        disk.vm_id = vm.id
        record(tx, "vm.disk_attached", vm, actor=job.actor.name, task_id=job.task_id, disk=disk.name)
        touch(tx, "vm", vm.id, pool_id=vm.pool_id)


@dataclass(frozen=True)
class DetachDisk(Plain):
    """Detach a disk from its VM and keep it; the guest of a VM that runs is asked to let go of it."""

    disk_id: UUID
    name, permission, steps = "disk.detach", "disk.edit", ("unplug",)

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "storagedomain", get(tx, Disk, self.disk_id).domain_id

    def title(self, tx: Tx) -> str:
        return f"Detach disk {get(tx, Disk, self.disk_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        disk = get(tx, Disk, self.disk_id)
        return [f"disk:{disk.id}", *([f"vm:{disk.vm_id}"] if disk.vm_id else [])]

    def check(self, tx: Tx) -> None:
        disk = get(tx, Disk, self.disk_id)
        if disk.vm_id is None:
            raise Impossible("not_attached", f"Disk {disk.name} is attached to no VM.")
        vm = get(tx, Vm, disk.vm_id)
        require_still(vm)
        if disk.backing_id is not None:
            raise Impossible("made_with", f"VM {vm.name} was made with disk {disk.name}, which lies over its template's; it goes "
                             "with the VM.")  # fmt: skip

        usual = disk_of(tx, vm.id)
        if vm.state in RUNS and usual is not None and usual.id == disk.id:
            raise Impossible("boots_from_it", f"VM {vm.name} boots from disk {disk.name}; detach it when the VM is down.")

    def unplug(self, tx: Tx, job: Job) -> Call | None:
        self.check(tx)
        vm, disk = self._both(tx)
        rights.require(tx, job.actor, "vm.edit", "vm", vm.id, job.now)
        if vm.state in RUNS and vm.host_id is not None:
            args = {"vm_id": vm.id, "disk": DiskSpec(disk.id, disk.path), "timeout_s": UNPLUG_S}
            return Call(vm.host_id, "unplug_disk", args)
        self.unplug_done(tx, job, None)
        return None

    def unplug_done(self, tx: Tx, job: Job, result: Any) -> None:
        vm, disk = self._both(tx)
        disk.vm_id = None
        record(tx, "vm.disk_detached", vm, actor=job.actor.name, task_id=job.task_id, disk=disk.name)
        touch(tx, "vm", vm.id, pool_id=vm.pool_id)

    def unplug_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm, disk = self._both(tx)
        record(tx, "vm.disk_held", vm, task_id=job.task_id, disk=disk.name, why=failure.message)

    def _both(self, tx: Tx) -> tuple[Vm, Disk]:
        disk = get(tx, Disk, self.disk_id)
        assert disk.vm_id is not None
        return get(tx, Vm, disk.vm_id), disk


@dataclass(frozen=True)
class RemoveDisk(Plain):
    """Remove a disk that is attached to nothing, and all that is on it."""

    disk_id: UUID
    name, permission, steps, no_return = "disk.remove", "disk.edit", ("delete", "forget"), "delete"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "storagedomain", get(tx, Disk, self.disk_id).domain_id

    def title(self, tx: Tx) -> str:
        return f"Remove disk {get(tx, Disk, self.disk_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"disk:{self.disk_id}"]

    def check(self, tx: Tx) -> None:
        disk = get(tx, Disk, self.disk_id)
        if disk.vm_id is not None or disk.template_id is not None:
            raise Impossible("disk_used", f"Disk {disk.name} belongs to a VM or to a template; detach it first.")
        if disk.state == "locked" and not tx.scalar(sa.select(Transfer.id).where(Transfer.disk_id == disk.id)):
            raise Impossible("disk_locked", f"Disk {disk.name} is locked; wait until the task that holds it is done.")

    def delete(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        disk = get(tx, Disk, self.disk_id)
        path = get(tx, StorageDomain, disk.domain_id).path
        return Call(host_of(tx, disk), "delete_volume", {"domain_path": path, "volume_id": disk.id})

    def forget(self, tx: Tx, job: Job) -> None:
        disk = get(tx, Disk, self.disk_id)
        record(tx, "disk.removed", disk, actor=job.actor.name, task_id=job.task_id)
        tx.delete(disk)
