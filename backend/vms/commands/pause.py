"""Pause a VM where it is, and let it go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from backend.db import Tx, get
from backend.events import move
from backend.tasks.command import Call, Job
from backend.vms.commands.power import Booting, OnVm
from backend.vms.machine import VM
from backend.vms.models import Vm
from hostapi.types import Failure


@dataclass(frozen=True)
class PauseVm(OnVm):
    """Stop a VM's processors where they are: it keeps its memory and its consoles, and does nothing."""

    vm_id: UUID
    name, permission, steps = "vm.pause", "vm.operate", ("pause",)
    verb = "Pause"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, "pause", vm.name)

    def pause(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        vm = get(tx, Vm, self.vm_id)
        assert vm.host_id is not None
        return Call(vm.host_id, "pause_vm", {"vm_id": vm.id})

    def pause_done(self, tx: Tx, job: Job, result: Any) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if VM.may(vm.state, "pause"):  # the monitor may have seen it first
            move(tx, vm, "pause", pause="asked", paused_at=job.now)


@dataclass(frozen=True)
class UnpauseVm(Booting):
    """Let a paused VM go on: one that was paused, one that was started so, and one whose storage had failed it."""

    vm_id: UUID
    name, permission, steps = "vm.unpause", "vm.operate", ("go_on", "boot")
    verb = "Let go on"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, "resume", vm.name)

    def go_on(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        vm = get(tx, Vm, self.vm_id)
        assert vm.host_id is not None
        return Call(vm.host_id, "unpause_vm", {"vm_id": vm.id})

    def go_on_done(self, tx: Tx, job: Job, result: Any) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        event = "begin" if vm.pause == "start" else "resume"
        if VM.may(vm.state, event):
            move(tx, vm, event, pause="", why="")

    def go_on_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state == "paused":
            vm.why = failure.message
