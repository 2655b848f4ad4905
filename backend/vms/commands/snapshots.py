"""Take snapshots of a VM's disk, go back to one, remove one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Impossible, Invalid, NotFound
from backend.events import move, record
from backend.storage.models import Disk, StorageDomain
from backend.storage.reach import host_of
from backend.tasks.command import Call, Job
from backend.vms.commands.power import OnVm
from backend.vms.disks import require_disk
from backend.vms.machine import VM
from backend.vms.models import Vm, VmSnapshot
from hostapi.types import Failure

MOST = 8  # snapshots of one VM: each keeps what was overwritten since, in the same file


class _OnDisk(OnVm):
    """What the commands on a VM's disk share: a VM that is down is locked meanwhile, one that runs runs on."""

    def _require(self, tx: Tx) -> tuple[Vm, Disk]:
        vm = get(tx, Vm, self.vm_id)
        if vm.state not in ("up", "down"):
            state = vm.state.replace("_", " ")
            raise Impossible("wrong_state", f"VM {vm.name} is {state}; this is possible when it is down or up.", state=vm.state)
        return vm, require_disk(tx, vm, "of which there could be snapshots")

    def _begin(self, tx: Tx) -> tuple[Vm, UUID]:
        """The VM, locked, and the host to ask."""
        vm, disk = self._require(tx)
        vm = get(tx, Vm, vm.id, lock=True)
        if vm.state == "down":
            move(tx, vm, "lock")
            return vm, host_of(tx, disk)
        assert vm.host_id is not None
        return vm, vm.host_id

    def _volume(self, tx: Tx, disk: Disk) -> dict[str, Any]:
        return {"domain_path": get(tx, StorageDomain, disk.domain_id).path, "volume_id": disk.id}

    def _end(self, tx: Tx, why: str = "") -> Vm:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state == "image_locked":
            move(tx, vm, "unlocked", why=why)
        return vm


class _OnSnapshot(_OnDisk):
    """What the commands on one snapshot share."""

    snapshot_id: UUID

    def _snapshot(self, tx: Tx) -> VmSnapshot:
        snapshot = get(tx, VmSnapshot, self.snapshot_id)
        if snapshot.vm_id != self.vm_id:
            raise NotFound("not_found", f"This VM has no snapshot with the id {self.snapshot_id}.", kind="snapshot")
        return snapshot

    def _forget(self, tx: Tx) -> VmSnapshot:
        snapshot = self._snapshot(tx)
        tx.delete(snapshot)
        tx.flush()
        touch(tx, "snapshot", snapshot.id, pool_id=get(tx, Vm, self.vm_id).pool_id)
        return snapshot


@dataclass(frozen=True)
class SnapshotVm(_OnDisk):
    """Keep what is on a VM's disk now, to go back to; what is only in its memory is not kept.
    While it runs its file systems are frozen for a moment, if its guest agent can."""

    vm_id: UUID
    snapshot_name: str
    name, permission, steps = "vm.snapshot", "vm.operate", ("take",)
    verb = "Take a snapshot of"

    def check(self, tx: Tx) -> None:
        called = self.snapshot_name.strip()
        if not 1 <= len(called) <= 60 or not called.isprintable():
            raise Invalid("bad_name", "A snapshot's name has between 1 and 60 characters.", fields=["snapshot_name"])
        vm, _ = self._require(tx)
        names = set(tx.scalars(sa.select(VmSnapshot.name).where(VmSnapshot.vm_id == vm.id)))
        if called in names:
            sentence = f"VM {vm.name} has a snapshot named {called} already; choose another name."
            raise Invalid("name_taken", sentence, fields=["snapshot_name"])
        if len(names) >= MOST:
            raise Impossible("too_many_snapshots", f"VM {vm.name} has {MOST} snapshots, and may have no more: remove one first.")

    def take(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        vm, host_id = self._begin(tx)
        disk = require_disk(tx, vm, "of which there could be snapshots")
        snapshot = VmSnapshot(vm_id=vm.id, name=self.snapshot_name.strip(), created_at=job.now, state=VmSnapshot.machine.initial)
        tx.add(snapshot)
        tx.flush()
        touch(tx, "snapshot", snapshot.id, pool_id=vm.pool_id)
        return Call(host_id, "snapshot_volume", {"vm_id": vm.id, **self._volume(tx, disk), "snapshot_id": snapshot.id})

    def take_done(self, tx: Tx, job: Job, at_rest: bool) -> None:
        vm, snapshot = self._end(tx), self._made(tx)
        if snapshot is not None:
            move(tx, snapshot, "taken", at_rest=at_rest)
            record(tx, "vm.snapshot_taken", vm, actor=job.actor.name, task_id=job.task_id, snapshot=snapshot.name)

    def take_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm, snapshot = get(tx, Vm, self.vm_id), self._made(tx)
        if snapshot is not None and snapshot.state == "locked":
            self._end(tx)
            tx.delete(snapshot)
            touch(tx, "snapshot", snapshot.id, pool_id=vm.pool_id)

    def _made(self, tx: Tx) -> VmSnapshot | None:
        mine = VmSnapshot.vm_id == self.vm_id, VmSnapshot.name == self.snapshot_name.strip()
        return tx.scalars(sa.select(VmSnapshot).where(*mine)).first()


@dataclass(frozen=True)
class GoBack(_OnSnapshot):
    """Make a VM's disk what it was when the snapshot was taken. What was written since is lost."""

    vm_id: UUID
    snapshot_id: UUID
    name, permission, steps = "vm.go_back", "vm.operate", ("go_back",)
    verb = "Go back to a snapshot of"

    def check(self, tx: Tx) -> None:
        vm, snapshot = get(tx, Vm, self.vm_id), self._snapshot(tx)
        VM.next(vm.state, "lock", vm.name)
        VmSnapshot.machine.next(snapshot.state, "lock", snapshot.name)

    def go_back(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        vm, host_id = self._begin(tx)
        disk = require_disk(tx, vm, "to go back to")
        return Call(host_id, "revert_volume", {**self._volume(tx, disk), "snapshot_id": self.snapshot_id})

    def go_back_done(self, tx: Tx, job: Job, result: Any) -> None:
        vm, snapshot = self._end(tx), self._snapshot(tx)
        record(tx, "vm.went_back", vm, actor=job.actor.name, task_id=job.task_id, snapshot=snapshot.name)

    def go_back_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        self._end(tx, failure.message)


@dataclass(frozen=True)
class RemoveSnapshot(_OnSnapshot):
    """Remove a snapshot; what is on the VM's disk now stays."""

    vm_id: UUID
    snapshot_id: UUID
    name, permission, steps, no_return = "vm.remove_snapshot", "vm.operate", ("remove",), "remove"
    verb = "Remove a snapshot of"

    def check(self, tx: Tx) -> None:
        self._require(tx)
        snapshot = self._snapshot(tx)
        VmSnapshot.machine.next(snapshot.state, "lock", snapshot.name)

    def remove(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        vm, host_id = self._begin(tx)
        disk = require_disk(tx, vm, "to remove")
        move(tx, self._snapshot(tx), "lock")
        return Call(host_id, "delete_snapshot", {"vm_id": vm.id, **self._volume(tx, disk), "snapshot_id": self.snapshot_id})

    def remove_done(self, tx: Tx, job: Job, result: Any) -> None:
        vm, snapshot = self._end(tx), self._forget(tx)
        record(tx, "vm.snapshot_removed", vm, actor=job.actor.name, task_id=job.task_id, snapshot=snapshot.name)

    def remove_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        snapshot = self._snapshot(tx)
        if snapshot.state == "locked":
            self._end(tx, failure.message)
            move(tx, snapshot, "unlocked")
