"""Run a VM once otherwise than it usually runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.storage.models import Disk, StorageDomain
from backend.tasks.command import Job
from backend.vms.commands.power import Starting
from backend.vms.machine import VM
from backend.vms.models import Vm
from backend.vms.once import boot_of, require_once, told
from hostapi.types import VmReport


@dataclass(frozen=True)
class RunVmOnce(Starting):
    """Start a VM for one run that boots from something else, from a CD, with another kernel or another display, or paused.
    The next start is as usual again."""

    vm_id: UUID
    boot_from: tuple[str, ...] = ()  # disk, cd, network, in this order; none: as usual
    iso_domain_id: UUID | None = None
    iso: str = ""  # the name of one that was uploaded, or a path below the storage domain's folder
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    video: str | None = None
    protocols: tuple[str, ...] | None = None
    paused: bool = False
    name, permission, steps = "vm.run_once", "vm.run_once", ("launch", "boot")
    verb = "Run once"

    def check(self, tx: Tx) -> None:
        require_once(self.boot_from, self.iso, self.video, self.protocols or None)
        vm = get(tx, Vm, self.vm_id)
        if vm.state == "suspended":
            raise Impossible("suspended", f"VM {vm.name} is suspended and can only go on as it was; start it afresh, or power it "
                             "off first.")  # fmt: skip
        VM.next(vm.state, "start", vm.name)
        if bool(self.iso) != (self.iso_domain_id is not None):
            raise Invalid("half_an_iso", "Choose both the storage domain and the ISO file in it.", fields=["iso_domain_id"])
        self._cd(tx, vm)
        boot = boot_of(vm.boot, self._given(vm))
        if boot is not None and not (boot.get("kernel") and boot.get("initrd")):
            raise Invalid("half_a_kernel", "Direct kernel boot needs both kernel and initrd.", fields=["kernel", "initrd"])

    def _given(self, vm: Vm) -> dict[str, Any]:
        given = {
            "boot_from": list(self.boot_from), "iso": self.iso, "kernel": self.kernel, "initrd": self.initrd,
            "cmdline": self.cmdline, "video": self.video, "protocols": list(self.protocols or ()),
        }  # fmt: skip
        usual = {"video": vm.video, "protocols": vm.protocols}
        return {key: value for key, value in given.items() if value and value != usual.get(key)}

    def _once(self, tx: Tx) -> dict[str, Any]:
        vm = get(tx, Vm, self.vm_id)
        cd = self._cd(tx, vm)
        return self._given(vm) | ({"cd": cd} if cd else {})

    def _cd(self, tx: Tx, vm: Vm) -> str | None:
        if self.iso_domain_id is None:
            return None
        domain, cluster = get(tx, StorageDomain, self.iso_domain_id), get(tx, Cluster, vm.cluster_id)
        if domain.data_center_id != cluster.data_center_id:
            sentence = f"Storage domain {domain.name} is of another data center than VM {vm.name}."
            raise Invalid("other_data_center", sentence, fields=["iso_domain_id"])
        if domain.state != "active":
            raise Impossible("domain_not_active", f"Storage domain {domain.name} is {domain.state}; activate it first.")
        uploaded = sa.select(Disk.path).where(
            Disk.domain_id == domain.id, Disk.format == "iso", Disk.name == self.iso, Disk.state == "ok"
        )
        return tx.scalar(uploaded) or f"{domain.path}/{self.iso}"

    def launch_done(self, tx: Tx, job: Job, report: VmReport) -> None:
        vm = get(tx, Vm, self.vm_id)
        record(tx, "vm.run_once", vm, actor=job.actor.name, task_id=job.task_id, what=told(vm.run_once or {}))
        super().launch_done(tx, job, report)
