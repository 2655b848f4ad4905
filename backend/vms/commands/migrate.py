"""Live migration: prepare the other host, move the VM, settle where it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid5

import sqlalchemy as sa

from backend import facts
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import move
from backend.ha.proof import want_restart
from backend.hosts.models import Host
from backend.scheduling.facts import NoHost, Placement
from backend.storage.models import Disk
from backend.tasks.command import Call, Job, Later
from backend.tasks.models import Step
from backend.vms.commands.power import OnVm
from backend.vms.destinations import destinations, under_way
from backend.vms.machine import VM
from backend.vms.models import Vm
from hostapi.types import BootSpec, DiskSpec, Failure, MigrationReport, MigrationSpec, Peer, VmReport, VmSpec

GONE = ("vm_not_running", "host_lost")  # the source does not run it any more, for certain
UNSURE = (*GONE, "internal_error", "hypervisor_down", "hypervisor_silent", "hypervisor_error")


@dataclass(frozen=True)
class MigrateVm(OnVm):
    """Move a running VM to another host, the given one or the one that the scheduler picks; its guest does not notice.
    It runs on where it is when that cannot be done."""

    vm_id: UUID
    host_id: UUID | None = None
    name, permission, steps, no_return = "vm.migrate", "vm.migrate", ("prepare", "migrate", "settle"), "migrate"
    forgettable = ("prepare",)
    verb = "Migrate"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        VM.next(vm.state, "migrate", vm.name)
        if self.host_id is not None:
            self._require_host(tx, vm, get(tx, Host, self.host_id))
            return
        known = destinations(tx, vm)
        if all(one.why for one in known):
            raise NoHost(facts.of_vm(tx, vm), {one.host: one.why for one in sorted(known, key=lambda one: one.host)})

    def _require_host(self, tx: Tx, vm: Vm, host: Host) -> None:
        if host.id == vm.host_id:
            raise Invalid("same_host", f"VM {vm.name} runs on host {host.name} already.", fields=["host_id"])
        known = next((one for one in destinations(tx, vm) if one.host_id == host.id), None)
        if known is None:
            raise Invalid("other_cluster", f"Host {host.name} is of another cluster than VM {vm.name}.", fields=["host_id"])
        if known.why:
            raise Impossible("cannot_migrate", known.why, fields=["host_id"])

    # -- prepare: choose, hold room there, and let the VM in ---------------------------------------
    def prepare(self, tx: Tx, job: Job) -> Call:
        """Wait for a place among the migrations that either host may be at, then hold room on the other."""
        vm = get(tx, Vm, self.vm_id, lock=True)
        VM.next(vm.state, "migrate", vm.name)
        placement = self._place(tx, vm, job.now)
        host, source = get(tx, Host, placement.host_id), get(tx, Host, vm.host_id)
        words = {"host": host.name, "source": source.name}
        move(tx, vm, "migrate", words=words, destination_id=host.id, why="")
        args = {"spec": _spec(tx, vm), "migration_id": self._id(job), "source_id": source.id}
        return Call(host.id, "prepare_migration", args)

    def _place(self, tx: Tx, vm: Vm, now: datetime) -> Placement:
        most, at_it = get(tx, Cluster, vm.cluster_id).migrations_per_host, under_way(tx)
        assert vm.host_id is not None
        only = None if self.host_id is None else [self.host_id]
        full = {id for id, count in at_it.items() if count >= most}
        if vm.host_id in full:
            raise Later(f"Waits: its host is at {most} migrations already.")
        try:
            return facts.reserve(tx, vm, only=only, exclude={vm.host_id, *full}, now=now)
        except NoHost:
            facts.reserve(tx, vm, only=only, exclude={vm.host_id})  # refuses, unless it is for the others' migrations alone
            raise Later(f"Waits: every host that can take it is at {most} migrations already.") from None

    def prepare_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state == "migrating":
            _stay(tx, vm, failure.message)

    # -- migrate: the source's work ----------------------------------------------------------------
    def migrate(self, tx: Tx, job: Job) -> Call:
        """Ask the host that it leaves."""
        vm = get(tx, Vm, self.vm_id)
        cluster, host = get(tx, Cluster, vm.cluster_id), get(tx, Host, vm.destination_id)
        assert vm.host_id is not None
        how = MigrationSpec(
            self._id(job), cluster.migration_bandwidth_mib, cluster.migration_downtime_ms,
            cluster.migration_converge,  # type: ignore[arg-type]
        )  # fmt: skip
        return Call(vm.host_id, "migrate_vm", {
            "vm_id": vm.id, "migration": how, "to": Peer(host.id, host.address, host.console_port),
        })  # fmt: skip

    # What the source refuses is looked at by `prepare_undo`: the VM runs on there, or the other host must be asked.

    # -- settle: the destination's word ------------------------------------------------------------
    def settle(self, tx: Tx, job: Job) -> Call:
        """The source says that it has gone: have it go on where it is, whatever happened meanwhile."""
        vm = get(tx, Vm, self.vm_id)
        assert vm.destination_id is not None
        return Call(vm.destination_id, "settle_migration", {"vm_id": vm.id, "migration_id": self._id(job)})

    def settle_done(self, tx: Tx, job: Job, report: VmReport | None) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if report is None:
            raise Impossible("vm_not_running", f"VM {vm.name} went down while it was migrated: neither host runs it.")
        took: MigrationReport = job.results["migrate"]
        _arrive(tx, vm, took)

    def settle_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state == "migrating" and failure.code in GONE:
            _die(tx, vm, failure.message, job.now)
        elif vm.state == "migrating":  # the source said that it went, so it is there; its host's reports say how
            _arrive(tx, vm, job.results["migrate"])

    # -- not migrated ------------------------------------------------------------------------------
    def prepare_undo(self, tx: Tx, job: Job) -> Call | None:
        """Cancelled, or refused by the source: it runs on there, unless the source is not sure; then the other host, which
        lets nothing in from now on, is asked whether it has arrived after all."""
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state != "migrating":
            return None
        failure = _error(tx, job, "migrate")
        if failure.code not in UNSURE:
            _stay(tx, vm, failure.message)
            return None
        assert vm.destination_id is not None
        return Call(vm.destination_id, "settle_migration", {"vm_id": vm.id, "migration_id": self._id(job)})

    def prepare_undone(self, tx: Tx, job: Job) -> None:
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state != "migrating":
            return
        failure = _error(tx, job, "migrate")
        if _answer(tx, job, "prepare_undo") is not None:
            _arrive(tx, vm, None)
        elif failure.code in GONE:
            _die(tx, vm, failure.message, job.now)
        else:
            _stay(tx, vm, failure.message)

    def ended(self, tx: Tx, job: Job, state: str) -> None:
        """Neither host could say where it is: both are lost, or their words are not to be had. Nothing is concluded but
        from a host that is proved off."""
        vm = get(tx, Vm, self.vm_id, lock=True)
        if vm.state == "migrating":
            first, last = _error(tx, job, "migrate").code, _error(tx, job, "prepare_undo").code
            if first in GONE and last in GONE:
                _die(tx, vm, "Both hosts were lost while it was migrated.", job.now)
            else:
                move(tx, vm, "lost_sight", destination_id=None)

    def _id(self, job: Job) -> UUID:
        return uuid5(self.vm_id, f"migration {job.task_id}")


def _stay(tx: Tx, vm: Vm, why: str) -> None:
    host = get(tx, Host, vm.host_id).name
    move(tx, vm, "stayed", words={"host": host, "why": why}, destination_id=None, why="" if why == "Cancelled." else why)


def _arrive(tx: Tx, vm: Vm, took: MigrationReport | None) -> None:
    host = get(tx, Host, vm.destination_id)
    seconds, downtime = (f"{took.total_ms / 1000:.1f}", took.downtime_ms) if took else ("?", "?")
    words = {"host": host.name, "seconds": seconds, "downtime_ms": downtime}
    move(tx, vm, "migrated", words=words, host_id=host.id, destination_id=None, why="", boots=None)


def _die(tx: Tx, vm: Vm, why: str, now: datetime) -> None:
    move(tx, vm, "died", host_id=None, destination_id=None, guest=None, why=why)
    want_restart(tx, vm, now)


def _error(tx: Tx, job: Job, step: str) -> Failure:
    """Why this step of the task failed; “Cancelled.” when it did not, or was never begun."""
    error = tx.scalar(sa.select(Step.error).where(Step.task_id == job.task_id, Step.name == step, Step.state == "failed"))
    return Failure(error["code"], error["message"]) if error else Failure("cancelled", "Cancelled.")


def _answer(tx: Tx, job: Job, step: str) -> object:
    result = tx.scalar(sa.select(Step.result).where(Step.task_id == job.task_id, Step.name == step, Step.state == "done"))
    return (result or {}).get("value")


def _spec(tx: Tx, vm: Vm) -> VmSpec:
    """As much of the VM as the other host must find before it is let in."""
    disks = tx.execute(sa.select(Disk.id, Disk.path).where(Disk.vm_id == vm.id).order_by(Disk.name))
    boot = BootSpec(vm.boot["kernel"], vm.boot["initrd"], vm.boot["cmdline"]) if vm.boot else None
    return VmSpec(vm.id, vm.name, vm.memory_mib, vm.vcpus, disks=tuple(DiskSpec(id, path) for id, path in disks), boot=boot)
