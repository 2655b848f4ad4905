"""Start (or restore), shut down, power off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from backend import facts
from backend.clusters import cpus
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import move, record
from backend.hosts import failing
from backend.hosts.models import Host
from backend.storage.models import Disk
from backend.storage.reach import host_of
from backend.tasks.command import SYSTEM, Call, Job, Later, Plain
from backend.vms.disks import require_disk
from backend.vms.edits import told
from backend.vms.machine import VM
from backend.vms.models import Vm, Vnic
from backend.vms.once import boot_of
from backend.vms.rules import vm_spec
from hostapi.types import Failure, GuestReport, NicSpec, VmReport

# made once: to put a statement together takes longer than to ask it
_DISKS = sa.select(Disk.id, Disk.path).where(Disk.vm_id == sa.bindparam("vm_id")).order_by(
    Disk.backing_id.is_(None), Disk.name  # as `disk_of` has it
)  # fmt: skip
_NICS = sa.select(Vnic.mac, Vnic.bridge, Vnic.model, Vnic.linked).where(
    Vnic.vm_id == sa.bindparam("vm_id"), Vnic.plugged
).order_by(Vnic.name)  # fmt: skip


class OnVm(Plain):
    """What the commands on one VM share."""

    vm_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "vm", self.vm_id

    def title(self, tx: Tx) -> str:
        return f"{self.verb} VM {get(tx, Vm, self.vm_id).name}"


class Booting(OnVm):
    """The step that waits until a VM's guest has booted."""

    def boot(self, tx: Tx, job: Job) -> Call | None:
        """Ask to be told when the guest agent answers; a guest without one counts as booted at once."""
        vm = get(tx, Vm, self.vm_id)
        if vm.state != "powering_up":
            if vm.state in ("up", "paused"):
                return None
            if vm.state == "unknown":
                raise Later("Waits for its host, which does not answer.")
            if vm.state == "down" and vm.ended_by == "lost":
                raise Impossible("vm_lost", f"VM {vm.name} went down with its host while it booted.")
            raise Impossible("vm_went_down", f"VM {vm.name} went {vm.state.replace('_', ' ')} while it booted.")
        if not vm.guest_agent:
            move(tx, vm, "booted")
            return None
        assert vm.host_id is not None
        return Call(vm.host_id, "await_boot", {"vm_id": vm.id, "timeout_s": vm.boot_timeout_s})

    def boot_done(self, tx: Tx, job: Job, guest: GuestReport | None) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state == "powering_up":  # the monitor may have seen it first
            move(tx, vm, "booted", guest=msgspec.to_builtins(guest), why="")

    def boot_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if failure.code in ("vm_not_running", "vm_lost") and VM.may(vm.state, "died"):  # the host's word, not a time-out
            move(tx, vm, "died", host_id=None, guest=None, ended_by="lost" if failure.code == "vm_lost" else "")
        vm.why = failure.message
        if failure.code != "cancelled" and not _pool_tells(vm, job):
            record(tx, "vm.boot_failed", vm, task_id=job.task_id, why=failure.message)


class Starting(Booting):
    """The steps that run a VM on the host the scheduler picks; one that was suspended goes on where it was."""

    def launch(self, tx: Tx, job: Job) -> Call:
        """Choose the host, hold its memory, and say what it is to run."""
        vm = get(tx, Vm, self.vm_id, lock=True)
        how = _how(vm)
        VM.next(vm.state, how, vm.name)
        if how == "start":
            _take_next_run(tx, vm, job)
        disks, nics = tx.execute(_DISKS, {"vm_id": vm.id}).all(), tx.execute(_NICS, {"vm_id": vm.id}).all()
        placement = facts.reserve(tx, vm, now=job.now)  # others wait for the host from here on
        host = get(tx, Host, placement.host_id)
        once = self._once(tx)
        fresh: dict[str, Any] = {"boots": None, "why": "", "guest": None, "started_at": job.now, "ended_by": ""}
        if how == "start":
            cpu_id = cpus.given(tx, vm.cluster_id, host.virt_type)
            fresh |= {"pause": "", "run_once": once or None, "cpu_id": cpu_id}
        move(tx, vm, how, words={"host": host.name}, host_id=host.id, **fresh)
        spec = vm_spec(
            vm_id=vm.id,
            name=vm.name,
            memory_mib=vm.memory_mib,
            vcpus=vm.vcpus,
            virt_type=host.virt_type,
            boot=boot_of(vm.boot, once),
            protocols=once.get("protocols") or vm.protocols,
            video=once.get("video") or vm.video,
            disks=[(row.id, row.path) for row in disks],
            boot_from=once.get("boot_from") or (),
            cd=once.get("cd"),
            paused=getattr(self, "paused", False),
            nics=[NicSpec(*nic) for nic in nics],
            max_memory_mib=vm.max_memory_mib,
            max_vcpus=vm.max_vcpus,
            cpu=cpus.of_kind(tx, vm.cpu_id),
        )
        if how == "restore":
            return Call(host.id, "restore_vm", {"spec": spec, "path": vm.saved_path})
        return Call(host.id, "start_vm", {"spec": spec})

    def launch_done(self, tx: Tx, job: Job, report: VmReport) -> None:
        vm = get(tx, Vm, self.vm_id)
        failing.started(tx, vm.host_id)
        if vm.state == "restoring_state":
            move(tx, vm, "restored", saved_path="", pause="")
        elif getattr(self, "paused", False):
            move(tx, vm, "launched_paused", pause="start", paused_at=job.now)
        else:
            move(tx, vm, "launched")

    def _once(self, tx: Tx) -> dict[str, Any]:
        """What this run has otherwise than the rows say."""
        return {}

    def launch_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id)
        if vm.state == "wait_for_launch":
            if vm.host_id is not None:
                failing.start_failed(tx, vm.host_id, vm.id, failure, job.now)
            move(tx, vm, "launch_failed", host_id=None, why=failure.message)
            if not _pool_tells(vm, job):
                record(tx, "vm.start_failed", vm, task_id=job.task_id, why=failure.message)
        elif vm.state == "restoring_state" and failure.code == "saved_state_missing":
            move(tx, vm, "state_lost", host_id=None, saved_path="", why=failure.message)
        elif vm.state == "restoring_state":
            move(tx, vm, "restore_failed", host_id=None, why=f"{failure.message} Try again, or start it afresh without it.")
        else:
            vm.why = failure.message  # refused before anything was decided: the VM is as it was

    def launch_undo(self, tx: Tx, job: Job) -> Call | None:
        """A start that is cancelled while it boots ends with the VM off; one that is up by then, or was resumed, stays up."""
        vm = get(tx, Vm, self.vm_id)
        if job.cancelled and vm.state != "up" and vm.host_id is not None and VM.may(vm.state, "stop"):
            move(tx, vm, "stop")
            return Call(vm.host_id, "stop_vm", {"vm_id": vm.id})
        return None

    def launch_undone(self, tx: Tx, job: Job) -> None:
        vm = get(tx, Vm, self.vm_id)
        if VM.may(vm.state, "stopped"):
            move(tx, vm, "stopped", host_id=None, guest=None)


@dataclass(frozen=True)
class StartVm(Starting):
    """Run a VM on the host the scheduler picks, and wait until its guest has booted.
    One that was suspended goes on where it was; if what was saved cannot be used it stays suspended. Started paused, it
    begins when it is let go on."""

    vm_id: UUID
    paused: bool = False
    name, permission, steps = "vm.start", "vm.operate", ("launch", "boot")
    verb = "Start"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, _how(vm), vm.name)
        if self.paused and vm.state == "suspended":
            raise Impossible("suspended", f"VM {vm.name} is suspended, so it goes on where it was; it cannot begin paused.")


@dataclass(frozen=True)
class ShutdownVm(OnVm):
    """Ask the guest to shut down, and wait until the VM is off."""

    vm_id: UUID
    timeout_s: int = 120
    name, permission, steps = "vm.shutdown", "vm.operate", ("shutdown",)
    verb = "Shut down"

    def check(self, tx: Tx) -> None:
        if not 1 <= self.timeout_s <= 3600:
            raise Invalid("bad_timeout", "A guest may take between 1 and 3,600 seconds to shut down.", fields=["timeout_s"])
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, "shutdown", vm.name)

    def shutdown(self, tx: Tx, job: Job) -> Call:
        vm = get(tx, Vm, self.vm_id, lock=True)
        assert vm.host_id is not None
        move(tx, vm, "shutdown")
        return Call(vm.host_id, "shutdown_vm", {"vm_id": vm.id, "timeout_s": self.timeout_s})

    def shutdown_done(self, tx: Tx, job: Job, result: Any) -> None:
        now_off(tx, self.vm_id)

    def shutdown_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id)
        if VM.may(vm.state, "shutdown_failed"):
            move(tx, vm, "shutdown_failed", words={"why": failure.message}, why=failure.message)


@dataclass(frozen=True)
class StopVm(OnVm):
    """Cut a VM's power, also while it waits for its guest to shut down; what was saved of a suspended one is thrown away."""

    vm_id: UUID
    name, permission, steps = "vm.stop", "vm.operate", ("stop",)
    instead_of = ("vm.shutdown", "vm.reboot", "vm.migrate")
    verb = "Power off"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        if vm.state != "migrating":  # then it is cut when that is cancelled
            VM.next(vm.state, "stop", vm.name)

    def stop(self, tx: Tx, job: Job) -> Call:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state == "suspended":
            host_id = host_of(tx, require_disk(tx, vm, "beside which it was saved"))
            move(tx, vm, "stop")
            return Call(host_id, "discard_saved", {"path": vm.saved_path})
        assert vm.host_id is not None
        move(tx, vm, "stop")
        return Call(vm.host_id, "stop_vm", {"vm_id": vm.id})

    def stop_done(self, tx: Tx, job: Job, result: Any) -> None:
        now_off(tx, self.vm_id)

    def stop_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id)
        if vm.state == "powering_down" and vm.host_id is None:  # it was suspended, and is
            move(tx, vm, "discard_failed", words={"why": failure.message}, why=failure.message)
        elif VM.may(vm.state, "shutdown_failed"):
            move(tx, vm, "shutdown_failed", words={"why": failure.message}, why=failure.message)


def now_off(tx: Tx, vm_id: UUID) -> None:
    """The host has proved that the VM is off; the monitor may have recorded it first."""
    vm = get(tx, Vm, vm_id, lock=True)
    if VM.may(vm.state, "stopped"):
        move(tx, vm, "stopped", host_id=None, guest=None, why="", saved_path="")


def _take_next_run(tx: Tx, vm: Vm, job: Job) -> None:
    """What waited for this start takes effect."""
    if vm.next_run:
        has = {name: getattr(vm, name) for name in vm.next_run}
        record(tx, "vm.next_run_taken", vm, task_id=job.task_id, what=told(has, vm.next_run))
        for name, value in vm.next_run.items():
            setattr(vm, name, value)
        vm.next_run = None
        tx.flush()


def _pool_tells(vm: Vm, job: Job) -> bool:
    """Whether a pool started it for itself, and tells what came of that."""
    return vm.pool_id is not None and job.actor == SYSTEM


def _how(vm: Vm) -> str:
    """The event that starts it: one that is suspended is restored."""
    return "restore" if vm.state == "suspended" else "start"
