"""Make a disk larger, while a VM runs with it or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.directory import rights
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.storage.models import Disk, StorageDomain
from backend.storage.reach import host_of
from backend.tasks.command import Call, Job, Plain
from backend.vms.commands.vnics import RUNS, require_still
from backend.vms.models import Vm, VmSnapshot
from backend.vms.rules import require_sizes


@dataclass(frozen=True)
class ResizeDisk(Plain):
    """Make a disk larger; a VM that runs with it sees that at once. What is on it stays: its guest enlarges its file system."""

    disk_id: UUID
    capacity_mib: int
    name, permission, steps, no_return = "disk.resize", "disk.edit", ("grow",), "grow"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "storagedomain", get(tx, Disk, self.disk_id).domain_id

    def title(self, tx: Tx) -> str:
        return f"Resize disk {get(tx, Disk, self.disk_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        disk = get(tx, Disk, self.disk_id)
        return [f"disk:{disk.id}", *([f"vm:{disk.vm_id}"] if disk.vm_id else [])]

    def check(self, tx: Tx) -> None:
        disk = get(tx, Disk, self.disk_id)
        require_sizes(capacity_mib=self.capacity_mib)
        if disk.state != "ok":
            raise Impossible("disk_not_ok", f"Disk {disk.name} is {disk.state}; it can be resized when it is ok.")
        if disk.format == "iso":
            raise Impossible("is_cd", f"{disk.name} is the image of a CD, which is as large as it is.")
        if disk.template_id is not None:
            raise Impossible("disk_used", f"Disk {disk.name} is a template's: what lies over it counts on its size.")
        if self.capacity_mib <= disk.capacity_mib:
            sentence = f"Disk {disk.name} has {disk.capacity_mib} MiB; it can only be made larger."
            raise Invalid("would_shrink", sentence, fields=["capacity_mib"])
        if disk.vm_id is not None:
            vm = get(tx, Vm, disk.vm_id)
            require_still(vm)
            if tx.scalar(sa.select(sa.func.count()).where(VmSnapshot.vm_id == vm.id)):
                raise Impossible("has_snapshots", f"VM {vm.name} has snapshots, in which the disk is smaller; remove them first.")

    def grow(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        disk = get(tx, Disk, self.disk_id, lock=True)
        args = {"vm_id": disk.vm_id, "domain_path": get(tx, StorageDomain, disk.domain_id).path, "volume_id": disk.id,
                "capacity_mib": self.capacity_mib}  # fmt: skip
        if disk.vm_id is not None:
            rights.require(tx, job.actor, "vm.edit", "vm", disk.vm_id, job.now)
            vm = get(tx, Vm, disk.vm_id)
            if vm.state in RUNS and vm.host_id is not None:
                return Call(vm.host_id, "resize_volume", args)
        return Call(host_of(tx, disk), "resize_volume", args)

    def grow_done(self, tx: Tx, job: Job, result: Any) -> None:
        disk = get(tx, Disk, self.disk_id)
        disk.capacity_mib = self.capacity_mib
        record(tx, "disk.resized", disk, actor=job.actor.name, task_id=job.task_id, mib=self.capacity_mib)
        touch(tx, "disk", disk.id)
