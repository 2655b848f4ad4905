"""Create a VM from a template, give it a fresh disk, remove it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.directory.rights import forget_permissions
from backend.errors import Impossible, Invalid
from backend.events import move, record
from backend.storage.models import Disk, StorageDomain
from backend.storage.reach import host_of, require_readable
from backend.tasks.command import Call, Job, Plain
from backend.vms.commands.power import StopVm
from backend.vms.disks import disk_of, volume_spec
from backend.vms.machine import VM
from backend.vms.models import Template, Vm, VmSnapshot
from backend.vms.rules import require_availability, require_name, require_sizes
from hostapi.types import Failure


@dataclass(frozen=True)
class CreateVm(Plain):
    """Create a VM from a template: its rows at once, then its disk as an overlay of the template's."""

    vm_name: str
    template_id: UUID
    domain_id: UUID | None = None  # none: where the template's disk lies
    pool_id: UUID | None = None
    description: str = ""
    memory_mib: int | None = None
    vcpus: int | None = None
    high_availability: bool = False
    priority: int = 50
    name, permission, steps = "vm.create", "vm.create", ("define", "volume")

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "template", self.template_id

    def title(self, tx: Tx) -> str:
        return f"Create VM {self.vm_name} from template {get(tx, Template, self.template_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"vm-name:{self.vm_name}"]

    def check(self, tx: Tx) -> None:
        if self.pool_id is not None:
            why = "A pool makes its desktops by itself: raise its size instead."
            raise Invalid("pool_makes_its_own", why, fields=["pool_id"])
        self.require_possible(tx)

    def require_possible(self, tx: Tx) -> None:
        """Refuse unless it can be made; pools ask this of their desktops too."""
        require_name(self.vm_name)
        if tx.scalar(sa.select(Vm.id).where(Vm.name == self.vm_name)):
            raise Invalid("name_taken", f"There is already a VM named {self.vm_name}; choose another name.", fields=["vm_name"])
        template = get(tx, Template, self.template_id)
        if template.state != "ok":
            raise Impossible("template_not_ok", f"Template {template.name} is {template.state}; it can be used when it is ok.")
        require_sizes(memory_mib=self.memory_mib, vcpus=self.vcpus)
        require_availability(self.priority)
        if self.domain_id is not None:
            domain, cluster = get(tx, StorageDomain, self.domain_id), get(tx, Cluster, template.cluster_id)
            if domain.data_center_id != cluster.data_center_id:
                raise Invalid("other_data_center", f"Storage domain {domain.name} is of another data center than template "
                              f"{template.name}: choose one of its own.", fields=["domain_id"])
            if (base := tx.scalar(sa.select(Disk.domain_id).where(Disk.template_id == template.id))) is not None:
                require_readable(tx, domain.id, base)

    def define(self, tx: Tx, job: Job) -> None:
        """The rows: VM and disk, both locked until the volume exists."""
        self.require_possible(tx)
        template = get(tx, Template, self.template_id)
        base = tx.scalars(sa.select(Disk).where(Disk.template_id == template.id)).first()
        vm = Vm(
            name=self.vm_name,
            description=self.description,
            cluster_id=template.cluster_id,
            template_id=template.id,
            pool_id=self.pool_id,
            memory_mib=self.memory_mib or template.memory_mib,
            vcpus=self.vcpus or template.vcpus,
            high_availability=self.high_availability,
            priority=self.priority,
            boot=template.boot,
            video=template.video,
            guest_agent=template.guest_agent,
            boot_timeout_s=template.boot_timeout_s,
            state=VM.initial,
        )
        tx.add(vm)
        tx.flush()
        if base is not None:
            tx.add(
                Disk(
                    name=f"{vm.name}-1",
                    domain_id=self.domain_id or base.domain_id,
                    vm_id=vm.id,
                    backing_id=base.id,
                    capacity_mib=base.capacity_mib,
                    state="locked",
                )
            )

    def volume(self, tx: Tx, job: Job) -> Call | None:
        vm = self._vm(tx)
        disk = disk_of(tx, vm.id)
        if disk is None:
            move(tx, vm, "created")
            return None
        return Call(host_of(tx, disk), "create_volume", {"volume": volume_spec(tx, disk)})

    def volume_done(self, tx: Tx, job: Job, path: str) -> None:
        vm = self._vm(tx)
        disk = disk_of(tx, vm.id)
        assert disk is not None
        move(tx, disk, "created", path=path)
        move(tx, vm, "created")

    def volume_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = self._vm(tx)
        if vm.pool_id is None:  # of a pool's desktop the pool tells, once for all of them
            record(tx, "vm.create_failed", vm, task_id=job.task_id, why=failure.message)

    def volume_undo(self, tx: Tx, job: Job) -> Call | None:
        disk = disk_of(tx, self._vm(tx).id)
        return (
            None
            if disk is None
            else Call(
                host_of(tx, disk),
                "delete_volume",
                {"domain_path": get(tx, StorageDomain, disk.domain_id).path, "volume_id": disk.id},
            )
        )

    def define_undo(self, tx: Tx, job: Job) -> None:
        """Nothing stays of a VM that could not be created."""
        vm = self._vm(tx)
        forget(tx, vm)

    def _vm(self, tx: Tx) -> Vm:
        vm = tx.scalars(sa.select(Vm).where(Vm.name == self.vm_name)).first()
        if vm is None:
            raise Impossible("vm_gone", f"VM {self.vm_name} was removed meanwhile.")
        return vm


class _Unused(Plain):
    """What the commands share that need a VM that is down. One that is suspended is down once what was saved of it is
    thrown away: it would be of no use with another disk."""

    vm_id: UUID

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "vm", self.vm_id

    def _require_unused(self, tx: Tx) -> Vm:
        vm = get(tx, Vm, self.vm_id)
        if vm.state != "suspended":
            VM.next(vm.state, "lock", vm.name)
        return vm

    def discard(self, tx: Tx, job: Job) -> Call | None:
        return StopVm(self.vm_id).stop(tx, job) if self._require_unused(tx).state == "suspended" else None

    def discard_done(self, tx: Tx, job: Job, result: Any) -> None:
        StopVm(self.vm_id).stop_done(tx, job, result)

    def discard_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        StopVm(self.vm_id).stop_failed(tx, job, failure)


@dataclass(frozen=True)
class ResetVm(_Unused):
    """Throw away everything a VM has written, its snapshots too: a fresh overlay of its template takes the old one's place."""

    vm_id: UUID
    name, permission, steps = "vm.reset_disk", "vm.operate", ("discard", "reset")

    def title(self, tx: Tx) -> str:
        return f"Give VM {get(tx, Vm, self.vm_id).name} a fresh disk"

    def check(self, tx: Tx) -> None:
        vm = self._require_unused(tx)
        disk = disk_of(tx, vm.id)
        if disk is None or disk.backing_id is None:
            raise Impossible("no_template", f"VM {vm.name} has no disk over a template, so there is nothing to go back to.")

    def reset(self, tx: Tx, job: Job) -> Call:
        vm = get(tx, Vm, self.vm_id, lock=True)
        disk = disk_of(tx, vm.id)
        assert disk is not None
        host_id = host_of(tx, disk)
        move(tx, vm, "lock")
        return Call(host_id, "reset_volume", {"volume": volume_spec(tx, disk)})

    def reset_done(self, tx: Tx, job: Job, path: str) -> None:
        tx.execute(sa.delete(VmSnapshot).where(VmSnapshot.vm_id == self.vm_id))
        move(tx, get(tx, Vm, self.vm_id), "reset_done", why="")

    def reset_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        """The old overlay is still whole (the new one comes in one rename), so the VM may be used as it was."""
        vm = get(tx, Vm, self.vm_id)
        if vm.state == "image_locked":
            move(tx, vm, "reset_done", why=failure.message)


@dataclass(frozen=True)
class RemoveVm(_Unused):
    """Remove a VM that is down or suspended, with the disk over its template's and what was saved of it. Other disks are
    detached and stay."""

    vm_id: UUID
    name, permission, steps, no_return = "vm.remove", "vm.remove", ("discard", "delete", "forget"), "delete"

    def title(self, tx: Tx) -> str:
        return f"Remove VM {get(tx, Vm, self.vm_id).name}"

    def check(self, tx: Tx) -> None:
        vm = self._require_unused(tx)
        if vm.pool_id is not None:
            raise Impossible("of_a_pool", f"VM {vm.name} belongs to a pool: remove it among the pool's desktops.")

    def delete(self, tx: Tx, job: Job) -> Call | None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        disk = disk_of(tx, vm.id)
        if disk is not None and disk.backing_id is None:
            disk = None  # one that was attached to it, and stays
        host_id = host_of(tx, disk) if disk else None
        move(tx, vm, "lock")
        if disk is None or host_id is None:
            return None
        return Call(host_id, "delete_volume", {"domain_path": get(tx, StorageDomain, disk.domain_id).path, "volume_id": disk.id})

    def delete_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id)
        if vm.state == "image_locked":
            move(tx, vm, "reset_done", why=failure.message)

    def forget(self, tx: Tx, job: Job) -> None:
        vm = get(tx, Vm, self.vm_id)
        record(tx, "vm.removed", vm, actor=job.actor.name, task_id=job.task_id)
        forget(tx, vm)


def forget(tx: Tx, vm: Vm) -> None:
    """Delete a VM's rows; what others remember of it (leases, events) stays, and so do disks that were attached to it."""
    tx.execute(sa.update(Disk).where(Disk.vm_id == vm.id, Disk.backing_id.is_(None)).values(vm_id=None))
    tx.execute(sa.delete(Disk).where(Disk.vm_id == vm.id))
    forget_permissions(tx, "vm", vm.id)
    tx.delete(vm)
    tx.flush()
