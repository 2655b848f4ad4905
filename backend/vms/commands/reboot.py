"""Reboot a guest, or press its reset button."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from backend.db import Tx, get
from backend.errors import Invalid
from backend.events import move
from backend.tasks.command import Call, Job
from backend.vms.commands.power import Booting
from backend.vms.guests import end_sessions
from backend.vms.machine import VM
from backend.vms.models import Vm
from hostapi.types import Failure


class _Rebooting(Booting):
    """What both ways of beginning anew share: the VM runs on, and its guest boots."""

    def again_done(self, tx: Tx, job: Job, result: Any) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if VM.may(vm.state, "rebooted"):
            move(tx, vm, "rebooted", guest=None, why="", boots=None)
            end_sessions(tx, vm, job.now)

    def again_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state != "reboot_in_progress":
            return
        if failure.code == "vm_not_running":  # the host's word
            move(tx, vm, "died", host_id=None, guest=None)
        else:
            move(tx, vm, "reboot_failed", words={"why": failure.message}, why=failure.message)


@dataclass(frozen=True)
class RebootVm(_Rebooting):
    """Ask the guest to reboot, and wait until it has booted."""

    vm_id: UUID
    timeout_s: int = 120
    name, permission, steps = "vm.reboot", "vm.operate", ("again", "boot")
    verb = "Reboot"

    def check(self, tx: Tx) -> None:
        if not 1 <= self.timeout_s <= 3600:
            raise Invalid("bad_timeout", "A guest may take between 1 and 3,600 seconds to reboot.", fields=["timeout_s"])
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, "reboot", vm.name)

    def again(self, tx: Tx, job: Job) -> Call:
        vm = get(tx, Vm, self.vm_id, lock=True)
        move(tx, vm, "reboot")
        assert vm.host_id is not None
        return Call(vm.host_id, "reboot_vm", {"vm_id": vm.id, "timeout_s": self.timeout_s})


@dataclass(frozen=True)
class ResetVm(_Rebooting):
    """Press a VM's reset button: its guest is not asked, and what is not saved is lost."""

    vm_id: UUID
    name, permission, steps = "vm.reset", "vm.operate", ("again", "boot")
    verb = "Reset"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, "reset", vm.name)

    def again(self, tx: Tx, job: Job) -> Call:
        vm = get(tx, Vm, self.vm_id, lock=True)
        move(tx, vm, "reset")
        assert vm.host_id is not None
        return Call(vm.host_id, "reset_vm", {"vm_id": vm.id})
