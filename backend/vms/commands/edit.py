"""Change a VM: what can be changed at once is, the rest with its next start."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend import facts
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.hosts.models import Host
from backend.tasks.command import GO_ON, Actor, Call, Job
from backend.vms.commands.power import OnVm
from backend.vms.edits import AT_ONCE, OF_A_RUN, split, told
from backend.vms.models import Vm
from backend.vms.once import PROTOCOLS, VIDEOS
from backend.vms.rules import BEHAVIOURS, require_sizes
from hostapi.types import Failure

FIELDS = (*AT_ONCE, *OF_A_RUN)
OFF = ("down", "image_locked")
GROWING = ("up", "paused", "powering_up")


@dataclass(frozen=True)
class EditVm(OnVm):
    """Change a VM. While it runs, what it can be given at once it is given; the rest waits for its next start.

    Memory and processors can be added to a running VM that was started with room to grow."""

    vm_id: UUID
    description: str | None = None
    memory_mib: int | None = None
    vcpus: int | None = None
    max_memory_mib: int | None = None
    max_vcpus: int | None = None
    video: str | None = None
    protocols: tuple[str, ...] | None = None
    guest_agent: bool | None = None
    boot_timeout_s: int | None = None
    resume_behaviour: str | None = None
    name, permission, steps = "vm.edit", "vm.edit", ("write", "grow")
    verb = "Change"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        require_sizes(memory_mib=self.memory_mib, vcpus=self.vcpus, boot_timeout_s=self.boot_timeout_s,
                      max_memory_mib=self.max_memory_mib or None, max_vcpus=self.max_vcpus or None)  # fmt: skip
        if self.video is not None and self.video not in VIDEOS:
            raise Invalid("bad_video", "video is one of virtio, vga and qxl.", fields=["video"])
        if self.protocols is not None and (not self.protocols or not set(self.protocols) <= set(PROTOCOLS)):
            raise Invalid("bad_protocols", "protocols are spice, vnc or both.", fields=["protocols"])
        if self.resume_behaviour is not None and self.resume_behaviour not in BEHAVIOURS:
            sentence = "resume_behaviour is one of auto_resume, leave_paused and kill."
            raise Invalid("bad_behaviour", sentence, fields=["resume_behaviour"])
        will = {**_has(vm), **(vm.next_run or {}), **self._wanted()}
        for most, now, what in (("max_memory_mib", "memory_mib", "memory"), ("max_vcpus", "vcpus", "processors")):
            if 0 < will[most] < will[now]:
                sentence = f"It cannot have more {what} from the start than it may grow to; 0 means that it does not grow."
                raise Invalid("bad_size", sentence, fields=[most])

    def _wanted(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in FIELDS}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if v is not None}

    def write(self, tx: Tx, job: Job) -> None:
        """What can be written down at once, and what waits."""
        self.check(tx)
        vm = get(tx, Vm, self.vm_id, lock=True)
        has = _has(vm)
        edit = split(has, vm.next_run, self._wanted(), runs=vm.state not in OFF)
        for name, value in edit.now.items():
            setattr(vm, name, value)
        before, vm.next_run = vm.next_run, edit.next_run or None
        if edit.now:
            what = told(has, {n: v for n, v in edit.now.items() if n in OF_A_RUN})
            others = ", ".join(n.removesuffix("_s").replace("_", " ") for n in edit.now if n in AT_ONCE)
            record(tx, "vm.edited", vm, actor=job.actor.name, task_id=job.task_id, what=", ".join(filter(None, (what, others))))
        news = {n: v for n, v in edit.next_run.items() if n not in edit.grow and v != (before or {}).get(n)}
        back = {n: v for n, v in (before or {}).items() if n not in edit.next_run and n not in edit.now}
        for code, changed in (("vm.next_run_cancelled", back), ("vm.next_run", news)):
            if changed:
                record(tx, code, vm, actor=job.actor.name, task_id=job.task_id, what=told(has, changed))

    def grow(self, tx: Tx, job: Job) -> Call | None:
        """Give the running VM what it can be given."""
        vm = get(tx, Vm, self.vm_id, lock=True)
        grow = self._grows(vm)
        if not grow or vm.state not in GROWING or vm.host_id is None:
            return None
        more = grow.get("memory_mib", vm.memory_mib) - vm.memory_mib
        if not _has_room(tx, vm, more):
            raise Impossible("no_room", f"The host of VM {vm.name} has no {more:,} MiB more; it gets them with its next start, "
                             "on a host that has.")  # fmt: skip
        has = {"memory_mib": vm.memory_mib, "vcpus": vm.vcpus}
        return Call(vm.host_id, "grow_vm", {"vm_id": vm.id, **has, **grow})

    def grow_done(self, tx: Tx, job: Job, result: Any) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if grown := self._grows(vm):
            record(tx, "vm.grew", vm, actor=job.actor.name, task_id=job.task_id, what=told(_has(vm), grown))
            for name, value in grown.items():
                setattr(vm, name, value)
            vm.next_run = {name: value for name, value in (vm.next_run or {}).items() if name not in grown} or None

    def grow_failed(self, tx: Tx, job: Job, failure: Failure) -> Any:
        """Then it gets it with its next start."""
        vm = get(tx, Vm, self.vm_id, lock=True)
        record(tx, "vm.not_grown", vm, task_id=job.task_id, why=failure.message)
        return GO_ON

    def _grows(self, vm: Vm) -> dict[str, int]:
        """What of the edit a running VM can be given; the same before it is asked and after."""
        return split(_has(vm), vm.next_run, self._wanted(), runs=True).grow


@dataclass(frozen=True)
class CancelNextRun(OnVm):
    """Take back the changes that wait for a VM's next start."""

    vm_id: UUID
    name, permission, steps = "vm.cancel_next_run", "vm.edit", ()
    verb = "Take back what waits for the next start of"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        if not vm.next_run:
            raise Impossible("nothing_waits", f"No change waits for the next start of VM {vm.name}.")

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        record(tx, "vm.next_run_cancelled", vm, actor=actor.name, what=told(_has(vm), vm.next_run))
        vm.next_run = None


def _has(vm: Vm) -> dict[str, Any]:
    return {name: getattr(vm, name) for name in FIELDS}


def _has_room(tx: Tx, vm: Vm, more_mib: int) -> bool:
    """Whether the VM's host has so much memory that is promised to nobody; its row is held meanwhile."""
    assert vm.host_id is not None
    tx.execute(sa.select(Host.id).where(Host.id == vm.host_id).with_for_update())
    host = facts.of_hosts(tx, vm.cluster_id, only=[vm.host_id])[0]
    percent = facts.policy(tx, vm.cluster_id).memory_overcommit_percent
    return host.memory_promised_mib + more_mib <= host.memory_mib * percent // 100
