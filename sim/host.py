"""`SimHost`: a `HostAgent` in memory, driven by the world."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal
from uuid import UUID, uuid4

from hostapi.types import (
    EndedBy,
    FenceSpec,
    GuestAction,
    GuestReport,
    HostReport,
    PowerKind,
    PowerReport,
    Protocol,
    Screen,
    StorageReport,
    TicketSpec,
    VmEnd,
    VmReport,
    VmSpec,
    VolumeSpec,
)
from hostapi.verbs import HostRefused, Steering
from sim import power
from sim.cpus import Processors, digest
from sim.keeping import Keeping
from sim.lives import Lives, Run
from sim.load import busy, busy_s
from sim.migration import Migrating
from sim.upgrading import Upgrading
from sim.volumes import Volumes

if TYPE_CHECKING:
    from sim.world import SimStorage, World

LONGEST_LISTEN_S = 20
POLL_S = 0.1  # real seconds between looks at a clock that may be told
PICTURE = (160, 90, base64.b64decode("UklGRhgAAABXRUJQVlA4TAwAAAAvn0AWAKhRTTrV/wA="))


class SimHost(Keeping, Lives, Migrating, Processors, Upgrading, Volumes):
    """Runs VMs by remembering them. Every wait is by the world's clock and ends early when something happens."""

    def __init__(self, world: World, name: str, *, cpus: int, memory_mib: int) -> None:
        self.world, self.name, self.cpus, self.memory_mib = world, name, cpus, memory_mib
        self.boot_id = str(uuid4())
        self.runs: dict[UUID, Run] = {}
        self.ends: dict[UUID, EndedBy] = {}  # how what does not run any more ended
        self.tickets: dict[tuple[UUID, Protocol], tuple[TicketSpec, datetime]] = {}
        self.domains: set[str] = set()
        self.networks = {"lan"}
        self.swap_mib, self.swap_used_mib, self.network_mib_s = 4096, 0, 0.0
        self.gates: dict[UUID, tuple[UUID, UUID]] = {}
        self.certificate = ""
        self._changed = threading.Condition(world.lock)
        self._happened = 0  # how often a VM began, ended or was disturbed
        self._woken = 0  # how often everybody who waits was told to look again
        self._resting: dict[object, int] = {}  # who waits, and at which waking they last looked

    # -- steps -----------------------------------------------------------------------------------
    def start_vm(self, spec: VmSpec, steering: Steering) -> VmReport:
        """Remember that it runs."""
        if spec.vm_id not in self.runs:
            self._pause(self.world.launch_s, steering)
        with self._changed:
            steering.check_cancelled()
            if spec.vm_id not in self.runs:
                self._require_startable(spec)
                now = self.world.clock.now()
                fails = self.world.guest(spec.name).boot_fails or self._over_bad_image(spec)
                boots_at = None if fails else now + timedelta(seconds=self.world.boot_s)
                self.runs[spec.vm_id] = Run(spec, now, boots_at, paused_for="asked" if spec.paused else "")
                self.ends.pop(spec.vm_id, None)
                self._changed.notify_all()
            return self._vm_report(self._run(spec.vm_id))

    def await_boot(self, vm_id: UUID, timeout_s: int, steering: Steering) -> GuestReport:
        """Wait until the guest's boot time has passed."""
        end = self.world.clock.now() + timedelta(seconds=timeout_s)
        started = self.world.clock.now()

        def booted() -> bool:
            if vm_id not in self.runs and vm_id not in self.ends:
                raise HostRefused("vm_lost", f"Host {self.name} was started again, and the VM does not run any more.")
            run, now = self._run(vm_id), self.world.clock.now()
            if self._answers(run):
                return True
            if now >= end:
                raise HostRefused(
                    "boot_timeout", f"VM {run.spec.name} did not boot within {timeout_s} seconds."
                )
            passed = (now - started).total_seconds()
            steering.progress(min(99, int(100 * passed / max(1, timeout_s))), "Waiting for the guest")
            return False

        self._wait_until(booted, steering)
        with self._changed:
            return self._guest_report(self._run(vm_id))

    def shutdown_vm(self, vm_id: UUID, timeout_s: int, steering: Steering) -> None:
        """Let the guest go off after its time, unless it hangs."""
        end = self.world.clock.now() + timedelta(seconds=timeout_s)

        def off() -> bool:
            run, now = self.runs.get(vm_id), self.world.clock.now()
            if run is None:
                return True
            if run.off_at is None and not self.world.guest(run.spec.name).hangs:
                run.off_at = now + timedelta(seconds=self.world.shutdown_s)
            if self._went_off(run):
                self._end(vm_id)
                return True
            if now >= end:
                sentence = f"VM {run.spec.name} did not shut down within {timeout_s} seconds."
                raise HostRefused("shutdown_timeout", sentence)
            return False

        self._wait_until(off, steering)

    def stop_vm(self, vm_id: UUID, steering: Steering) -> None:
        """Forget that it runs."""
        with self._changed:
            self._end(vm_id)

    def suspend_vm(self, vm_id: UUID, path: str, steering: Steering) -> None:
        """Remember its memory in the storage, where every host finds it."""
        folder = self._saved_in(path)
        if path not in folder.saved:
            self._run(vm_id)
            self._pause(self.world.save_s, steering)
        with self._changed:
            if vm_id not in self.runs and path in folder.saved:
                return
            run = self._run(vm_id)
            if self.world.guest(run.spec.name).save_fails:
                raise HostRefused("save_failed", f"VM {run.spec.name} could not be saved: the hypervisor refused.")
            self._require_room(folder)
            folder.saved[path] = run.spec
            self._end(vm_id)

    def restore_vm(self, spec: VmSpec, path: str, steering: Steering) -> VmReport:
        """It runs again as it was, and its memory is forgotten."""
        folder = self._saved_in(path)
        if spec.vm_id not in self.runs:
            self._pause(self.world.save_s, steering)
        with self._changed:
            steering.check_cancelled()
            if spec.vm_id not in self.runs:
                if self._misses(folder):
                    raise _broken(folder)
                if path not in folder.saved:
                    raise HostRefused("saved_state_missing", f"The saved state of VM {spec.name} is not there any more.")
                if self.world.guest(spec.name).restore_fails:
                    sentence = f"The saved state of VM {spec.name} cannot be used: the hypervisor refused."
                    raise HostRefused("saved_state_unusable", sentence)
                self._require_startable(spec)
                now = self.world.clock.now()
                self.runs[spec.vm_id] = Run(spec, now, None if self.world.guest(spec.name).boot_fails else now)
                self._changed.notify_all()
            folder.saved.pop(path, None)
            return self._vm_report(self._run(spec.vm_id))

    def discard_saved(self, path: str, steering: Steering) -> None:
        """Forget its memory."""
        folder = self._saved_in(path)
        if self._misses(folder):
            raise _broken(folder)
        with self._changed:
            folder.saved.pop(path, None)

    def reboot_vm(self, vm_id: UUID, timeout_s: int, steering: Steering) -> None:
        """Let the guest begin anew after its time, unless it hangs."""
        end = self.world.clock.now() + timedelta(seconds=timeout_s)

        def rebooted() -> bool:
            run, now = self._run(vm_id), self.world.clock.now()
            if run.reboots_at is None and not self.world.guest(run.spec.name).hangs:
                run.reboots_at = now + timedelta(seconds=self.world.shutdown_s)
            if run.reboots_at is not None and now >= run.reboots_at:
                run.boots += 1
                self._boot_anew(run)
                return True
            if now >= end:
                sentence = f"VM {run.spec.name} did not reboot within {timeout_s} seconds."
                raise HostRefused("reboot_timeout", sentence)
            return False

        self._wait_until(rebooted, steering)

    def reset_vm(self, vm_id: UUID, steering: Steering) -> None:
        """The guest begins anew at once."""
        with self._changed:
            run = self._run(vm_id)
            run.boots += 1
            self._boot_anew(run)

    def guest_action(self, vm_id: UUID, action: GuestAction, text: str, steering: Steering) -> None:
        """Remember what the people inside see of it."""
        with self._changed:
            run = self._run(vm_id)
            guest = self.world.guest(run.spec.name)
            if not self._answers(run):
                sentence = f"The guest of VM {run.spec.name} cannot be asked: its guest agent does not answer."
                raise HostRefused("guest_silent", sentence)
            if action == "message":
                guest.shown.append(text)
            elif action == "lock":
                guest.locked = True
            else:
                guest.users = ()

    def set_ticket(self, vm_id: UUID, ticket: TicketSpec, steering: Steering) -> None:
        """Remember the password and when it ends."""
        with self._changed:
            run = self._run(vm_id)
            if ticket.protocol not in run.spec.protocols:
                sentence = f"VM {run.spec.name} has no {ticket.protocol.upper()} display."
                raise HostRefused("no_display", sentence)
            key = (vm_id, ticket.protocol)
            known = self.tickets.get(key)
            if known is None or known[0].issued_ms < ticket.issued_ms:
                self.tickets[key] = (ticket, self.world.clock.now() + timedelta(seconds=ticket.valid_s))

    def attach_domain(self, path: str, steering: Steering) -> StorageReport:
        """Use this folder."""
        folder = self.world.folder(path)
        self._require_usable(folder, steering)
        self.domains.add(folder.path)
        return self._storage_report(folder)

    def attach_shared_domain(self, path: str, domain_id: UUID, first: bool, steering: Steering) -> StorageReport:
        """Use this folder, if it is the one that bears the mark."""
        folder = self.world.folder(path)
        self._require_usable(folder, steering)
        with self._changed:
            if folder.mark is None and first:
                folder.mark = domain_id
            if folder.mark is None:
                raise HostRefused("not_shared", f"{path} is not that storage domain here: mount it at the same path.")
            if folder.mark != domain_id:
                raise HostRefused("other_domain", f"{path} is another storage domain already.")
        self.domains.add(folder.path)
        return self._storage_report(folder)

    def create_volume(self, volume: VolumeSpec, steering: Steering) -> str:
        """Remember the volume."""
        folder = self.world.folder(volume.domain_path)
        self._require_usable(folder, steering)
        with self._changed:
            known = folder.volumes.get(volume.volume_id)
            if known is not None and known != volume:
                raise HostRefused(
                    "volume_differs", f"Volume {volume.volume_id} exists already and is another one."
                )
            self._require_backing(volume)
            folder.volumes[volume.volume_id] = volume
        return _path(volume.domain_path, volume.volume_id)

    def reset_volume(self, volume: VolumeSpec, steering: Steering) -> str:
        """Count that its changes are thrown away."""
        folder = self.world.folder(volume.domain_path)
        self._require_usable(folder, steering)
        path = _path(volume.domain_path, volume.volume_id)
        with self._changed:
            self._require_unused(path)
            self._require_backing(volume)
            folder.volumes[volume.volume_id] = volume
            folder.snapshots.pop(volume.volume_id, None)
            folder.resets[volume.volume_id] = folder.resets.get(volume.volume_id, 0) + 1
        return path

    def delete_volume(self, domain_path: str, volume_id: UUID, steering: Steering) -> None:
        """Forget the volume."""
        folder = self.world.folder(domain_path)
        if self._misses(folder):
            raise _broken(folder)
        with self._changed:
            self._require_unused(_path(domain_path, volume_id))
            for kept in (folder.volumes, folder.snapshots, folder.parts, folder.files):
                kept.pop(volume_id, None)

    def snapshot_volume(
        self, vm_id: UUID, domain_path: str, volume_id: UUID, snapshot_id: UUID, steering: Steering
    ) -> bool:
        """Remember the snapshot; at rest when the VM is off or its agent answers."""
        folder = self.world.folder(domain_path)
        self._require_usable(folder, steering)
        with self._changed:
            self._require_volume(folder, volume_id)
            run = self.runs.get(vm_id)
            if run is None:
                self._require_unused(_path(domain_path, volume_id))
            taken = folder.snapshots.setdefault(volume_id, [])
            if snapshot_id not in taken:
                taken.append(snapshot_id)
            return run is None or self._answers(run)

    def revert_volume(self, domain_path: str, volume_id: UUID, snapshot_id: UUID, steering: Steering) -> None:
        """Count that it was gone back to."""
        folder = self.world.folder(domain_path)
        self._require_usable(folder, steering)
        with self._changed:
            self._require_volume(folder, volume_id)
            self._require_unused(_path(domain_path, volume_id))
            if snapshot_id not in folder.snapshots.get(volume_id, []):
                raise HostRefused("snapshot_missing", f"Volume {volume_id} has no such snapshot any more.")
            folder.reverts.append((volume_id, snapshot_id))

    def delete_snapshot(
        self, vm_id: UUID, domain_path: str, volume_id: UUID, snapshot_id: UUID, steering: Steering
    ) -> None:
        """Forget the snapshot."""
        folder = self.world.folder(domain_path)
        if self._misses(folder):
            raise _broken(folder)
        with self._changed:
            if vm_id not in self.runs:
                self._require_unused(_path(domain_path, volume_id))
            taken = folder.snapshots.get(volume_id, [])
            if snapshot_id in taken:
                taken.remove(snapshot_id)

    def fence(self, spec: FenceSpec, steering: Steering) -> PowerReport:
        """Have the world's power agents do it."""
        steering.check_cancelled()
        return power.fence(self.world, spec)

    def certify(self, certificate: str, ca: str, steering: Steering) -> None:
        """Remember it: the simulator's doors need none."""
        self.certificate = certificate

    # -- questions -------------------------------------------------------------------------------
    def report(self) -> HostReport:
        """What is remembered."""
        with self._changed:
            for vm_id in [vm_id for vm_id, run in self.runs.items() if self._went_off(run)]:
                self._end(vm_id)
            used = sum(run.spec.memory_mib for run in self.runs.values())
            return HostReport(
                hostname=self.name,
                boot_id=self.boot_id,
                agent_version=self.agent_version,
                hypervisor="simulated",
                virt_type="kvm",
                cpus=self.cpus,
                memory_mib=self.memory_mib,
                memory_free_mib=max(0, self.memory_mib - used),
                load1=self._load(),
                networks=tuple(sorted(self.networks)),
                cpu_percent=round(min(100.0, 100 * self._load() / max(1, self.cpus)), 1),
                swap_mib=self.swap_mib,
                swap_free_mib=max(0, self.swap_mib - self.swap_used_mib),
                network_mib_s=self.network_mib_s,
                cpu=digest(self.cpu),
                vms=tuple(self._vm_report(run) for run in self.runs.values()),
                storage=tuple(self._storage_report(self.world.folder(path)) for path in sorted(self.domains)),
                ended=tuple(VmEnd(vm_id, by) for vm_id, by in self.ends.items()),
            )

    def listen(self, seen: int, wait_s: int) -> int:
        """In real time, as whoever asks waits in it."""
        with self._changed:
            self._changed.wait_for(lambda: self._happened != seen, min(wait_s, LONGEST_LISTEN_S))
            return self._happened

    def screens(self, vm_ids: tuple[UUID, ...]) -> tuple[Screen, ...]:
        """The pictures that the world has of them."""
        with self._changed:
            names = {vm_id: self.runs[vm_id].spec.name for vm_id in vm_ids if vm_id in self.runs}
        return tuple(Screen(vm_id, *self.world.picture(name)) for vm_id, name in names.items())

    def power_kinds(self) -> tuple[str, ...]:
        """The one kind that there is."""
        return (power.KIND.name,)

    def power_kind(self, name: str) -> PowerKind:
        """What it is."""
        if name != power.KIND.name:
            raise HostRefused("no_power_program", f"There is no fence_{name} here: install Debian's package fence-agents.")
        return power.KIND

    # -- what the world does to it, and what tests look at ----------------------------------------
    def password(self, vm_id: UUID, protocol: Protocol) -> str | None:
        """The display password that is accepted now, if any."""
        with self._changed:
            ticket, ends = self.tickets.get((vm_id, protocol), (None, None))
            if ticket is None or ends is None or self.world.clock.now() >= ends:
                return None
            return ticket.password.value

    def put(self, spec: VmSpec) -> None:
        """This VM runs here, and has booted long ago."""
        with self._changed:
            now = self.world.clock.now()
            self.runs[spec.vm_id] = Run(spec, now, now)

    def lose_power(self) -> None:
        """Everything that ran is gone."""
        with self._changed:
            for vm_id in list(self.runs):
                self._end(vm_id)
            self.ends.clear()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        with self._changed:
            self._woken += 1
            self._changed.notify_all()

    def resting(self) -> int:
        """How many steps have looked since the last waking and can only wait on."""
        with self._changed:
            return sum(1 for seen in self._resting.values() if seen == self._woken)

    # -- inside ----------------------------------------------------------------------------------
    def _run(self, vm_id: UUID) -> Run:
        run = self.runs.get(vm_id)
        if run is None:
            raise HostRefused("vm_not_running", f"The VM does not run on host {self.name}.", vm_id=str(vm_id))
        return run

    def _end(self, vm_id: UUID) -> None:
        if self.runs.pop(vm_id, None) is not None:
            self._happened += 1
            self.ends.setdefault(vm_id, "host")
        for key in [key for key in self.tickets if key[0] == vm_id]:
            del self.tickets[key]
        self._changed.notify_all()

    def _went_off(self, run: Run) -> bool:
        return run.off_at is not None and self.world.clock.now() >= run.off_at

    def _answers(self, run: Run) -> bool:
        silent = self.world.guest(run.spec.name).agent_silent or run.paused_for
        return not silent and run.boots_at is not None and self.world.clock.now() >= run.boots_at

    def _boot_anew(self, run: Run) -> None:
        guest = self.world.guest(run.spec.name)
        guest.users, guest.locked, run.reboots_at = (), False, None
        run.boots_at = None if guest.boot_fails else self.world.clock.now() + timedelta(seconds=self.world.boot_s)
        self._changed.notify_all()

    def _saved_in(self, path: str) -> SimStorage:
        """The storage domain that this saved state lies in."""
        return self.world.folder(path.partition("/saved/")[0])

    def _require_volume(self, folder: SimStorage, volume_id: UUID) -> None:
        if volume_id not in folder.volumes:
            raise HostRefused("volume_missing", f"Volume {volume_id} is not there.")

    def _load(self) -> float:
        if not self.world.lively:
            return round(sum(self.world.guest(run.spec.name).cpus() for run in self.runs.values()), 2)
        now = self.world.clock.now()
        return round(sum(busy(run.spec, (now - run.since).total_seconds()) for run in self.runs.values()), 2)

    def _vm_report(self, run: Run) -> VmReport:
        guest = self._guest_report(run) if self._answers(run) else None
        passed = (self.world.clock.now() - run.since).total_seconds()
        told = self.world.guest(run.spec.name)
        cpu_s = busy_s(run.spec, passed) if self.world.lively else told.cpu_s(run.since, self.world.clock.now())
        state: Literal["running", "paused"] = "paused" if run.paused_for else "running"
        return VmReport(run.spec.vm_id, run.spec.name, state, guest, run.spec.memory_mib, cpu_s, run.paused_for, run.boots)

    def _guest_report(self, run: Run) -> GuestReport:
        tail = run.spec.vm_id.bytes
        ip = f"10.{tail[0]}.{tail[1]}.{tail[2]}"
        return GuestReport(run.spec.name, "Simulated guest", (ip,), self.world.guest(run.spec.name).users)

    def _storage_report(self, folder: SimStorage) -> StorageReport:
        if self._misses(folder):
            return StorageReport(folder.path, False, why=_broken(folder).failure.message)
        return StorageReport(folder.path, True, folder.total_mib, 0 if folder.full else folder.free_mib)

    def _over_bad_image(self, spec: VmSpec) -> bool:
        """Whether one of its disks lies over an image that does not boot."""
        folders = [(disk, self.world.folder_of(disk.path)) for disk in spec.disks]
        volumes = [folder.volumes.get(disk.volume_id) for disk, folder in folders if folder is not None]
        return any(volume is not None and volume.backing in self.world.bad_images for volume in volumes)

    def _require_startable(self, spec: VmSpec) -> None:
        if self.world.guest(spec.name).start_fails:
            raise HostRefused("start_failed", f"VM {spec.name} could not be started: the hypervisor refused.")
        self._require_disks(spec)
        if spec.cpu is not None and self.cpu is not None and not set(spec.cpu.features) <= set(self.cpu.cpu.features):
            sentence = f"VM {spec.name} could not be started: the processor lacks features of the CPU {spec.cpu.model}."
            raise HostRefused("start_failed", sentence)
        for disk in spec.disks:
            users = self.world.users_of(disk.path)
            if users and not disk.readonly:
                sentence = f"VM {spec.name} cannot start: its disk is in use by VM {users[0]}."
                raise HostRefused("volume_in_use", sentence, path=disk.path)

    def _require_disks(self, spec: VmSpec) -> None:
        for disk in spec.disks:
            folder = self.world.folder_of(disk.path)
            if folder is not None and self._misses(folder):
                raise _broken(folder)
            ours = folder is not None and disk.path == _path(folder.path, disk.volume_id)
            if folder is not None and ours and disk.volume_id not in folder.volumes:
                raise HostRefused(
                    "disk_missing", f"VM {spec.name} cannot start: its disk {disk.path} is not there."
                )

    def _require_unused(self, path: str) -> None:
        if users := self.world.users_of(path):
            raise HostRefused(
                "volume_in_use", f"The volume is in use by VM {users[0]}, which runs.", path=path
            )

    def _require_backing(self, volume: VolumeSpec) -> None:
        if volume.backing is None:
            return
        folder = self.world.folder_of(volume.backing)
        if folder is None:
            return
        name = volume.backing.rsplit("/", 1)[-1]
        volumes = {_path(folder.path, one) for one in folder.volumes}
        unmade = volume.backing.startswith(f"{folder.path}/volumes/") and volume.backing not in volumes
        if unmade or name in folder.lost:
            sentence = f"The volume's base {volume.backing} is not there."
            raise HostRefused("backing_missing", sentence, path=volume.backing)

    def _require_usable(self, folder: SimStorage, steering: Steering) -> None:
        self._pause(folder.slow_s, steering)
        self._require_room(folder)

    def _misses(self, folder: SimStorage) -> bool:
        """Whether this host cannot get at the folder."""
        return folder.broken or self.name in folder.cut

    def _require_room(self, folder: SimStorage) -> None:
        if self._misses(folder):
            raise _broken(folder)
        if folder.full:
            raise HostRefused("storage_full", f"The storage at {folder.path} is full.", path=folder.path)

    def _pause(self, seconds: float, steering: Steering) -> None:
        end = self.world.clock.now() + timedelta(seconds=seconds)
        self._wait_until(lambda: self.world.clock.now() >= end, steering)

    def _wait_until(self, true: Callable[[], bool], steering: Steering) -> None:
        me = object()
        with self._changed:
            try:
                while True:
                    steering.check_cancelled()
                    if true():
                        return
                    self._resting[me] = self._woken
                    self._changed.wait(POLL_S if self.world.polls else None)
            finally:
                self._resting.pop(me, None)


def _path(domain_path: str, volume_id: UUID) -> str:
    return f"{domain_path.rstrip('/')}/volumes/{volume_id}.qcow2"


def _broken(folder: SimStorage) -> HostRefused:
    return HostRefused(
        "storage_broken",
        f"The storage at {folder.path} does not answer: input/output error.",
        path=folder.path,
    )
