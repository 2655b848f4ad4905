"""Make a template, or its next version, from an image that lies in a storage domain; remove one that nothing is made from."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.directory.rights import forget_permissions
from backend.errors import Impossible, Invalid
from backend.events import move, record
from backend.storage.models import Disk, StorageDomain
from backend.storage.reach import host_of
from backend.tasks.command import Call, Job, Plain
from backend.vms.disks import about
from backend.vms.machine import TEMPLATE
from backend.vms.models import Template, Vm
from backend.vms.rules import require_name, require_sizes
from hostapi.types import Failure, VolumeSpec


@dataclass(frozen=True)
class ImportTemplate(Plain):
    """A template over an image file in a storage domain; the image itself is never written to again. A name that is there
    already gets its next version."""

    template_name: str
    cluster_id: UUID
    domain_id: UUID
    image_path: str
    capacity_mib: int
    memory_mib: int
    vcpus: int = 1
    description: str = ""
    kernel: str | None = None  # direct kernel boot: both or neither
    initrd: str | None = None
    cmdline: str = ""  # {name} stands for the VM's name
    video: str = "virtio"
    guest_agent: bool = True
    boot_timeout_s: int = 180
    name, permission, steps = "template.import", "template.create", ("define", "volume")

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def title(self, tx: Tx) -> str:
        return f"Import template {self.template_name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"template-name:{self.template_name}"]

    def check(self, tx: Tx) -> None:
        require_name(self.template_name.replace(" ", "-"), "template")
        get(tx, Cluster, self.cluster_id)
        get(tx, StorageDomain, self.domain_id)
        if (last := self._last(tx)) is not None and last.cluster_id != self.cluster_id:
            raise Invalid(
                "name_taken",
                f"There is a template named {self.template_name} in another cluster already; choose another name, or make its "
                "next version there.",
                fields=["template_name"],
            )
        if (self.kernel is None) != (self.initrd is None):
            raise Invalid("half_a_kernel", "Direct kernel boot needs both kernel and initrd.", fields=["kernel", "initrd"])
        require_sizes(capacity_mib=self.capacity_mib, memory_mib=self.memory_mib, vcpus=self.vcpus,
                      boot_timeout_s=self.boot_timeout_s)
        if self.video not in ("virtio", "vga", "qxl"):
            raise Invalid("bad_video", "video is one of virtio, vga and qxl.", fields=["video"])

    def define(self, tx: Tx, job: Job) -> None:
        """The rows, locked until the host has found the image and laid the template's volume over it."""
        self.check(tx)
        boot = {"kernel": self.kernel, "initrd": self.initrd, "cmdline": self.cmdline} if self.kernel else None
        last = self._last(tx)
        template = Template(
            name=self.template_name,
            version=last.version + 1 if last else 1,
            description=self.description,
            cluster_id=self.cluster_id,
            memory_mib=self.memory_mib,
            vcpus=self.vcpus,
            boot=boot,
            video=self.video,
            guest_agent=self.guest_agent,
            boot_timeout_s=self.boot_timeout_s,
            state=TEMPLATE.initial,
        )
        tx.add(template)
        tx.flush()
        tx.add(
            Disk(
                name=f"{template.name}-{template.version}",
                domain_id=self.domain_id,
                template_id=template.id,
                capacity_mib=self.capacity_mib,
                state="locked",
            )
        )

    def volume(self, tx: Tx, job: Job) -> Call:
        disk = self._disk(tx)
        domain = get(tx, StorageDomain, disk.domain_id)
        volume = VolumeSpec(disk.id, domain.path, disk.capacity_mib, self.image_path, about=about(disk))
        return Call(host_of(tx, disk), "create_volume", {"volume": volume})

    def volume_done(self, tx: Tx, job: Job, path: str) -> None:
        move(tx, self._disk(tx), "created", path=path)
        template = self._template(tx)
        move(tx, template, "created", words={"version": template.version})

    def volume_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        return None  # the undo of `define` forgets the rows; the task has the host's sentence

    def define_undo(self, tx: Tx, job: Job) -> None:
        template = self._template(tx)
        tx.execute(sa.delete(Disk).where(Disk.template_id == template.id))
        tx.delete(template)
        tx.flush()

    def _last(self, tx: Tx) -> Template | None:
        """The newest version there is."""
        named = sa.select(Template).where(Template.name == self.template_name).order_by(Template.version.desc())
        return tx.scalars(named.limit(1)).first()

    def _template(self, tx: Tx) -> Template:
        """The version that this task makes: the newest, for the task holds the name."""
        template = self._last(tx)
        if template is None:
            raise Impossible("template_gone", f"Template {self.template_name} was removed meanwhile.")
        return template

    def _disk(self, tx: Tx) -> Disk:
        return tx.scalars(sa.select(Disk).where(Disk.template_id == self._template(tx).id)).one()


@dataclass(frozen=True)
class RemoveTemplate(Plain):
    """Remove a template from which no VM or pool is made."""

    template_id: UUID
    name, permission, steps, no_return = "template.remove", "template.remove", ("delete", "forget"), "delete"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "template", self.template_id

    def title(self, tx: Tx) -> str:
        return f"Remove template {get(tx, Template, self.template_id).name}"

    def check(self, tx: Tx) -> None:
        template = get(tx, Template, self.template_id)
        if template.state == "locked":
            raise Impossible("template_locked", f"Template {template.name} is locked; wait until the task that holds it is done.")
        if count := tx.scalar(sa.select(sa.func.count()).where(Vm.template_id == template.id)):
            raise Impossible(
                "template_used", f"{count} VMs are made from template {template.name}; remove them first.", vms=count
            )
        if tx.scalar(sa.text("SELECT 1 FROM pool WHERE template_id = :id LIMIT 1"), {"id": template.id}):
            raise Impossible(
                "template_used",
                f"A pool is made from template {template.name}; remove the pool or give it another template first.",
            )
        rolled = "SELECT 1 FROM rollout WHERE :id IN (from_template_id, to_template_id) AND ended_at IS NULL LIMIT 1"
        if tx.scalar(sa.text(rolled), {"id": template.id}):
            raise Impossible("template_used", f"A rollout from or to version {template.version} of template {template.name} is "
                             "under way; wait until it has ended, or cancel it first.")

    def delete(self, tx: Tx, job: Job) -> Call | None:
        self.check(tx)
        disk = tx.scalars(sa.select(Disk).where(Disk.template_id == self.template_id)).first()
        if disk is None:
            return None
        return Call(
            host_of(tx, disk), "delete_volume", {"domain_path": get(tx, StorageDomain, disk.domain_id).path, "volume_id": disk.id}
        )

    def forget(self, tx: Tx, job: Job) -> None:
        template = get(tx, Template, self.template_id)
        record(tx, "template.removed", template, actor=job.actor.name, task_id=job.task_id, version=template.version)
        forget_permissions(tx, "template", template.id)
        tx.execute(sa.delete(Disk).where(Disk.template_id == template.id))
        tx.delete(template)
