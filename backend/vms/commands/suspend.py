"""Suspend to disk, resume, or begin anew without what was saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from backend.db import Tx, get
from backend.events import move
from backend.storage.models import StorageDomain
from backend.storage.reach import host_of
from backend.tasks.command import Call, Job
from backend.vms.commands.power import OnVm, Starting, StopVm
from backend.vms.disks import require_disk
from backend.vms.machine import VM
from backend.vms.models import Vm
from hostapi.types import Failure


@dataclass(frozen=True)
class SuspendVm(OnVm):
    """Save what runs in a VM beside its disk, and switch it off; starting it goes on where it was."""

    vm_id: UUID
    name, permission, steps = "vm.suspend", "vm.operate", ("save",)
    verb = "Suspend"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, "suspend", vm.name)
        host_of(tx, require_disk(tx, vm, "beside which it could be saved"))

    def save(self, tx: Tx, job: Job) -> Call:
        """Name the file: another one each time, so that none can be taken for one of an earlier time."""
        self.check(tx)
        vm = get(tx, Vm, self.vm_id, lock=True)
        disk = require_disk(tx, vm, "beside which it could be saved")
        assert vm.host_id is not None
        path = f"{get(tx, StorageDomain, disk.domain_id).path}/saved/{vm.id}-{job.task_id}.save"
        move(tx, vm, "suspend", saved_path=path, why="")
        return Call(vm.host_id, "suspend_vm", {"vm_id": vm.id, "path": path})

    def save_done(self, tx: Tx, job: Job, result: Any) -> None:
        move(tx, get(tx, Vm, self.vm_id, lock=True), "suspended", host_id=None, guest=None)

    def save_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state != "saving_state":
            return
        if failure.code == "vm_not_running":  # the host's word: it went down before it could be saved
            move(tx, vm, "died", host_id=None, guest=None, saved_path="")
        else:
            move(tx, vm, "suspend_failed", words={"why": failure.message}, why=failure.message, saved_path="")


@dataclass(frozen=True)
class ResumeVm(Starting):
    """Let a suspended VM go on where it was."""

    vm_id: UUID
    name, permission, steps = "vm.resume", "vm.operate", ("launch", "boot")
    verb = "Resume"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, "restore", vm.name)


@dataclass(frozen=True)
class StartFresh(Starting):
    """Start a suspended VM without what was saved: as if its power had been cut."""

    vm_id: UUID
    name, permission, steps = "vm.start_fresh", "vm.operate", ("discard", "launch", "boot")
    verb = "Start afresh"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, "restore", vm.name)

    def discard(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        return StopVm(self.vm_id).stop(tx, job)

    def discard_done(self, tx: Tx, job: Job, result: Any) -> None:
        StopVm(self.vm_id).stop_done(tx, job, result)

    def discard_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        StopVm(self.vm_id).stop_failed(tx, job, failure)
