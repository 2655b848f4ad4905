"""Make a desktop anew from another version of its template; perhaps start it, to prove that the version boots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx, get
from backend.errors import Impossible
from backend.events import move, record
from backend.storage.models import Disk
from backend.storage.reach import host_of
from backend.tasks.command import Call, Job
from backend.vms.commands.define import ResetVm
from backend.vms.commands.power import StartVm
from backend.vms.disks import disk_of, volume_spec
from backend.vms.models import Template
from hostapi.types import Failure, GuestReport, VmReport
from pools import leases, versions
from pools.member_commands import ResetMember, require
from pools.models import Pool


@dataclass(frozen=True)
class RemakeMember(ResetMember):
    """Make a desktop anew from this version of a template; what was written on it is thrown away. With `prove` it is started
    too, and must boot."""

    member_id: UUID
    template_id: UUID
    prove: bool = False
    name, permission = versions.REMAKE, "pool.edit"
    steps = ("shutdown", "stop", "reset", "launch", "boot")
    verb = "Make anew"

    def check(self, tx: Tx) -> None:
        require(tx, self._member(tx), ("ready", "spare", "saving", "suspended", "leased", "resetting", "broken"), "made anew")
        template = get(tx, Template, self.template_id)
        if template.state != "ok":
            raise Impossible("template_not_ok", f"Template {template.name} is {template.state}; it can be used when it is ok.")
        if template.cluster_id != get(tx, Pool, self._member(tx).pool_id).cluster_id:
            raise Impossible("wrong_cluster", f"Template {template.name} is of another cluster than the pool.")

    def title(self, tx: Tx) -> str:
        return f"{super().title(tx)} from {versions.label(tx, self.template_id)}"

    def reset(self, tx: Tx, job: Job) -> Call | None:
        """The VM is proved off: its disk becomes an overlay of the version's."""
        vm = self._vm(tx)
        leases.over(tx, vm.id, job.now)
        disk, base = disk_of(tx, vm.id), self._base(tx)
        if disk is None or base is None:
            raise Impossible("no_disk", f"Desktop {vm.name} or the version has no disk.")
        host_id = host_of(tx, disk)
        move(tx, vm, "lock")
        spec = replace(volume_spec(tx, disk), capacity_mib=base.capacity_mib, backing=base.path)
        return Call(host_id, "reset_volume", {"volume": spec})

    def reset_done(self, tx: Tx, job: Job, path: str) -> None:
        """From now on the desktop is of that version."""
        vm, member, template = self._vm(tx), self._member(tx), get(tx, Template, self.template_id)
        disk, base = disk_of(tx, vm.id), self._base(tx)
        assert disk is not None and base is not None
        disk.backing_id, disk.capacity_mib = base.id, base.capacity_mib
        for field in ("memory_mib", "vcpus", "boot", "video", "guest_agent", "boot_timeout_s"):
            setattr(vm, field, getattr(template, field))
        vm.template_id, member.fresh_wanted = template.id, False
        ResetVm(vm.id).reset_done(tx, job, path)
        pool = get(tx, Pool, member.pool_id).name
        record(tx, "member.remade", member, task_id=job.task_id, vm=vm.name, pool=pool, version=versions.label(tx, template.id))

    def launch(self, tx: Tx, job: Job) -> Call | None:
        return self._start(tx).launch(tx, job) if self.prove else None

    def launch_done(self, tx: Tx, job: Job, report: VmReport) -> None:
        self._start(tx).launch_done(tx, job, report)

    def launch_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        self._start(tx).launch_failed(tx, job, failure)
        self._broke(tx, job, failure)

    def launch_undo(self, tx: Tx, job: Job) -> Call | None:
        return self._start(tx).launch_undo(tx, job) if self.prove else None

    def launch_undone(self, tx: Tx, job: Job) -> None:
        self._start(tx).launch_undone(tx, job)

    def boot(self, tx: Tx, job: Job) -> Call | None:
        return self._start(tx).boot(tx, job) if self.prove else None

    def boot_done(self, tx: Tx, job: Job, guest: GuestReport | None) -> None:
        self._start(tx).boot_done(tx, job, guest)

    def boot_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        self._start(tx).boot_failed(tx, job, failure)
        self._broke(tx, job, failure)

    def ended(self, tx: Tx, job: Job, state: str) -> None:
        """Free again; and if it has booted, the version is proved."""
        member = self._member(tx)
        if state == "succeeded" and self.prove:
            versions.prove(tx, member.pool_id, self.template_id)
        super().ended(tx, job, state)

    def _start(self, tx: Tx) -> StartVm:
        return StartVm(self._member(tx).vm_id)

    def _base(self, tx: Tx) -> Disk | None:
        return tx.scalars(sa.select(Disk).where(Disk.template_id == self.template_id)).first()
