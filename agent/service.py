"""Implements `HostAgent`: one short method a verb, each handing on to a module below."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from agent.arriving import Arriving
from agent.config import AgentConfig
from agent.cpus import Cpus
from agent.domxml import domain_xml
from agent.enroll import CA, CERTIFICATE, KEY, EnrollFailed, install
from agent.guests import Guests
from agent.hooks import Hooks
from agent.hotplug import Hotplug
from agent.inside import act, set_clock
from agent.leaving import Leaving
from agent.load import Load
from agent.moves import Moves
from agent.pictures import Pictures
from agent.power import PowerAgents
from agent.saves import Saves
from agent.stats import sample_host, utc_now
from agent.storage import Storage, flush
from agent.upgrade import Upgrade
from agent.uploads import Uploads
from agent.virt import GuestSilent, Hypervisor, HypervisorDown
from hostapi.tls import client_context
from hostapi.types import (
    ContentReport,
    Cpu,
    Definition,
    DiskSpec,
    DomainFound,
    FenceSpec,
    GuestAction,
    GuestReport,
    HookOutput,
    HostCpu,
    HostReport,
    MigrationReport,
    MigrationSpec,
    NicSpec,
    Peer,
    PowerKind,
    PowerReport,
    Protocol,
    Screen,
    Secret,
    StorageReport,
    TakenReport,
    TicketSpec,
    UploadSpec,
    VmReport,
    VmSpec,
    VolumeSpec,
)
from hostapi.verbs import HostRefused, Steering

T = TypeVar("T")
LONGEST_LISTEN_S = 20  # so long a manager may listen in one question
TOLD_WITHIN_S = 2.0  # so soon after a VM is gone libvirt's event has told how it ended
LOOK_S = 0.5  # how often a wait looks, unless an event wakes it
PATIENCE_S = 30.0  # how long a step waits for libvirtd to come back
STALLS_S = 0.5  # so soon a VM that is let go on would meet the broken storage again
PRESS_S = 15.0  # how often the power button is pressed at a guest that does not react


class AgentService:
    """This host, over libvirt. Reboots of the agent lose nothing: VMs live in libvirt, steps in the journal."""

    def __init__(
        self, config: AgentConfig, state: Path, certified: Callable[[], None] = lambda: None,
        again: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`certified` is told that the state folder has another certificate or CA than before, `again` that the agent is to
        start again."""
        self.config, self.state, self._certified = config, state, certified
        self._wake = threading.Condition()
        self._happened = secrets.randbelow(2**31)  # events of libvirt; another number after another start
        self.hypervisor = Hypervisor(config.libvirt_uri, self._changed)
        self.saves = Saves(self.hypervisor)
        self.storage = Storage(config.storage_roots, state / "domains.json", self.hypervisor.users_of)
        self.uploads = Uploads(self.storage)
        self.moves = Moves(self.hypervisor, config.migrate_unsafe)
        self.arriving = Arriving(self.moves, config.libvirt_uri)
        self.guests = Guests(self.hypervisor.ask_guest)
        self.hotplug = Hotplug(self.hypervisor, self.guests)
        self.hooks = Hooks(config.hooks)
        self.pictures = Pictures(self.hypervisor.screenshot)
        self.power = PowerAgents(config.name)
        self.upgrade = Upgrade(config.upgrade, state, again)
        self.load = Load()
        self.cpus = Cpus(self.hypervisor, config.virt_type)

    # -- steps -----------------------------------------------------------------------------------
    def start_vm(self, spec: VmSpec, steering: Steering) -> VmReport:
        """Run this VM, its displays closed."""
        paths = self._paths(spec)
        steering.check_cancelled()
        if not self._patiently(lambda: self.hypervisor.runs(spec.vm_id), steering):
            self.guests.forget(spec.vm_id)
        self.arriving.gates.close_for(spec.vm_id)

        def xml(test_driver: bool) -> str:
            return domain_xml(spec, "test" if test_driver else None)

        with self.storage.held(paths):
            self._require_disks(spec, paths, steering)
            self._patiently(lambda: self.hypervisor.start(spec.name, spec.vm_id, xml, spec.paused), steering)
        return next((vm for vm in self._vms() if vm.vm_id == spec.vm_id), _fresh(spec))

    def await_boot(self, vm_id: UUID, timeout_s: int, steering: Steering) -> GuestReport:
        """Wait until the guest agent answers."""
        begun = time.monotonic()
        missed: float | None = None

        def answer() -> GuestReport | None:
            nonlocal missed
            if not self._patiently(lambda: self.hypervisor.runs(vm_id), steering):
                missed = missed or time.monotonic()
                return self._gone(vm_id, time.monotonic() - missed)
            try:
                return self._patiently(lambda: self.guests.ask_now(vm_id), steering)
            except GuestSilent:
                waited = time.monotonic() - begun
                if waited >= timeout_s:
                    sentence = f"The guest did not answer within {timeout_s} seconds of waiting."
                    raise HostRefused("boot_timeout", sentence, vm_id=str(vm_id)) from None
                steering.progress(min(99, int(100 * waited / timeout_s)), "Waiting for the guest")
                return None

        return self._wait_for(answer, steering)

    def shutdown_vm(self, vm_id: UUID, timeout_s: int, steering: Steering) -> None:
        """Ask the guest to shut down, by its agent or else by its power button, until it is off."""
        begun = time.monotonic()
        pressed: float | None = None

        def off() -> bool | None:
            nonlocal pressed
            if not self._patiently(lambda: self.hypervisor.runs(vm_id), steering):
                return True
            waited = time.monotonic() - begun
            if pressed is None or time.monotonic() - pressed > PRESS_S:
                first = pressed is None
                ask = self.hypervisor.ask_to_shut_down
                self._patiently(lambda: self._press(ask, vm_id, by_agent=first), steering)
                pressed = time.monotonic()
                return None
            if waited >= timeout_s:
                sentence = f"The guest did not shut down within {timeout_s} seconds."
                raise HostRefused("shutdown_timeout", sentence, vm_id=str(vm_id))
            steering.progress(
                min(99, int(100 * waited / max(1, timeout_s))), "Waiting for the guest to shut down"
            )
            return None

        self._wait_for(off, steering)

    def stop_vm(self, vm_id: UUID, steering: Steering) -> None:
        """Cut the VM's power."""
        self._patiently(lambda: self.hypervisor.stop(vm_id), steering)

    def suspend_vm(self, vm_id: UUID, path: str, steering: Steering) -> None:
        """Save the VM's memory and switch it off."""
        file = self.storage.require_saved(path)
        steering.check_cancelled()
        begun = False
        while self._patiently(lambda: self.hypervisor.runs(vm_id), steering):
            if not begun:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                begun = True
            steering.progress(10, "Writing its memory to disk")
            if not self._patiently(lambda: self.saves.save(vm_id, file), steering):
                self._nap()
        if self._patiently(lambda: self.saves.saved_vm(file), steering) != vm_id:
            self.storage.forget_saved(file)  # a torn one
            raise HostRefused("vm_not_running", "The VM does not run on this host (any more).", vm_id=str(vm_id))
        flush(file)
        flush(str(Path(file).parent))

    def restore_vm(self, spec: VmSpec, path: str, steering: Steering) -> VmReport:
        """Let a saved VM go on. Paused until its file is deleted: as long as there is a file, its disks are as they
        were when it was written."""
        file, paths = self.storage.require_saved(path), self._paths(spec)
        steering.check_cancelled()
        self.arriving.gates.close_for(spec.vm_id)
        with self.storage.held(paths):
            if not self._patiently(lambda: self.hypervisor.runs(spec.vm_id), steering):
                if not Path(file).is_file():
                    sentence = f"The saved state of VM {spec.name} is not there any more."
                    raise HostRefused("saved_state_missing", sentence, path=path)
                if self._patiently(lambda: self.saves.saved_vm(file), steering) != spec.vm_id:
                    sentence = f"The saved state of VM {spec.name} cannot be used: the file is damaged or another VM's."
                    raise HostRefused("saved_state_unusable", sentence, path=path)
                self._require_disks(spec, paths, steering)
                self.guests.forget(spec.vm_id)
                self._patiently(lambda: self.saves.restore(spec.name, spec.vm_id, file), steering)
            self.storage.forget_saved(file)
            self._patiently(lambda: self.saves.resume(spec.vm_id), steering)
        set_clock(partial(self.hypervisor.ask_guest, spec.vm_id), spec.name, time.time_ns())
        return next((vm for vm in self._vms() if vm.vm_id == spec.vm_id), _fresh(spec))

    def discard_saved(self, path: str, steering: Steering) -> None:
        """Delete a saved VM's memory."""
        self.storage.forget_saved(self.storage.require_saved(path))

    def pause_vm(self, vm_id: UUID, steering: Steering) -> None:
        """Stop the VM's processors."""
        self._patiently(lambda: self.hypervisor.pause(vm_id), steering)

    def unpause_vm(self, vm_id: UUID, steering: Steering) -> None:
        """Let a paused VM go on, and look whether it does."""
        self._patiently(lambda: self.saves.resume(vm_id), steering)
        time.sleep(STALLS_S)
        if self._patiently(lambda: self.hypervisor.paused_for(vm_id), steering) in ("ioerror", "enospc"):
            sentence = "The VM is paused again: its storage fails it still."
            raise HostRefused("stalled", sentence, vm_id=str(vm_id))

    def prepare_migration(self, spec: VmSpec, migration_id: UUID, source_id: UUID, steering: Steering) -> None:
        """Let a VM in from another host."""
        self._require_disks(spec, self._paths(spec), steering)
        self._patiently(lambda: self.arriving.let_in(spec.vm_id, migration_id, source_id), steering)

    def migrate_vm(self, vm_id: UUID, migration: MigrationSpec, to: Peer, steering: Steering) -> MigrationReport:
        """Move a VM to another host."""
        files = [self.state / name for name in (CA, CERTIFICATE, KEY)]
        leaving = Leaving(self.moves, vm_id, migration, to, lambda: client_context(*files), steering)
        report = self._patiently(leaving.go, steering)
        self.guests.forget(vm_id)
        return report

    def settle_migration(self, vm_id: UUID, migration_id: UUID, steering: Steering) -> VmReport | None:
        """Tell whether a VM has arrived, and let it go on."""
        if not self.arriving.settle(vm_id, migration_id, steering):
            return None
        return self._patiently(lambda: next((vm for vm in self._vms() if vm.vm_id == vm_id), None), steering)

    def plug_nic(self, vm_id: UUID, nic: NicSpec, steering: Steering) -> None:
        """Put a network card in."""
        self._patiently(lambda: self.hotplug.plug_nic(vm_id, nic), steering)

    def update_nic(self, vm_id: UUID, nic: NicSpec, steering: Steering) -> None:
        """Put a network card on another bridge, its cable in or out."""
        self._patiently(lambda: self.hotplug.update_nic(vm_id, nic), steering)

    def unplug_nic(self, vm_id: UUID, mac: str, timeout_s: int, steering: Steering) -> None:
        """Ask for a network card back."""
        self._ask_back(lambda: self.hotplug.ask_nic_back(vm_id, mac), f"network card {mac}", timeout_s, steering)

    def plug_disk(self, vm_id: UUID, disk: DiskSpec, steering: Steering) -> None:
        """Put a disk in, unless another VM writes to it."""
        path = self.storage.require_inside(disk.path)
        with self.storage.held([path]):
            facts = self._patiently(lambda: self.hypervisor.facts(vm_id), steering)
            if facts is None:
                raise HostRefused("vm_not_running", "The VM does not run on this host.", vm_id=str(vm_id))
            if path not in map(os.path.realpath, facts.disks):
                spec = VmSpec(uuid4(), facts.name, 0, 0, disks=(disk,))
                self._require_disks(spec, [path], steering)
            self._patiently(lambda: self.hotplug.plug_disk(vm_id, disk), steering)

    def unplug_disk(self, vm_id: UUID, disk: DiskSpec, timeout_s: int, steering: Steering) -> None:
        """Ask for a disk back."""
        self._ask_back(lambda: self.hotplug.ask_disk_back(vm_id, disk.path), "disk", timeout_s, steering)

    def grow_vm(self, vm_id: UUID, memory_mib: int, vcpus: int, steering: Steering) -> None:
        """Give it more memory and processors."""
        self._patiently(lambda: self.hotplug.grow(vm_id, memory_mib, vcpus), steering)

    def run_hook(
        self, hook: str, args: tuple[str, ...], facts: dict[str, str], timeout_s: int, steering: Steering
    ) -> HookOutput:
        """Run a program of the folder of hooks."""
        return self.hooks.run(hook, args, facts, timeout_s, steering)

    def reboot_vm(self, vm_id: UUID, timeout_s: int, steering: Steering) -> None:
        """Ask the guest to reboot, by its agent or else by its power button, until it has begun anew."""
        before, begun = self.hypervisor.resets(vm_id), time.monotonic()
        pressed: float | None = None

        def rebooted() -> bool | None:
            nonlocal pressed
            if not self._patiently(lambda: self.hypervisor.runs(vm_id), steering):
                raise HostRefused("vm_not_running", "The VM does not run on this host (any more).", vm_id=str(vm_id))
            if self.hypervisor.resets(vm_id) > before:
                self.guests.forget(vm_id)
                return True
            waited = time.monotonic() - begun
            if pressed is None or time.monotonic() - pressed > PRESS_S:
                ask, first = self.hypervisor.ask_to_reboot, pressed is None
                self._patiently(lambda: self._press(ask, vm_id, by_agent=first), steering)
                pressed = time.monotonic()
                return None
            if waited >= timeout_s:
                sentence = f"The guest did not reboot within {timeout_s} seconds."
                raise HostRefused("reboot_timeout", sentence, vm_id=str(vm_id))
            steering.progress(min(99, int(100 * waited / max(1, timeout_s))), "Waiting for the guest to reboot")
            return None

        self._wait_for(rebooted, steering)

    def reset_vm(self, vm_id: UUID, steering: Steering) -> None:
        """Press the VM's reset button."""
        self._patiently(lambda: self.hypervisor.reset(vm_id), steering)
        self.guests.forget(vm_id)

    def guest_action(self, vm_id: UUID, action: GuestAction, text: str, steering: Steering) -> None:
        """Show a message inside, lock screens, or log people out."""
        facts = self._patiently(lambda: self.hypervisor.facts(vm_id), steering)
        if facts is None:
            raise HostRefused("vm_not_running", "The VM does not run on this host.", vm_id=str(vm_id))
        act(partial(self.hypervisor.ask_guest, vm_id), facts.name, action, text)

    def set_ticket(self, vm_id: UUID, ticket: TicketSpec, steering: Steering) -> None:
        """Open a display to this password until it expires."""
        self._patiently(lambda: self.hypervisor.set_ticket(vm_id, ticket, utc_now), steering)

    def attach_domain(self, path: str, steering: Steering) -> StorageReport:
        """Use this folder."""
        return self.storage.attach(path)

    def attach_shared_domain(self, path: str, domain_id: UUID, first: bool, steering: Steering) -> StorageReport:
        """Use this folder that other hosts use, too."""
        return self.storage.attach_shared(path, domain_id, first)

    def keep_definitions(
        self, domain_path: str, definitions: tuple[Definition, ...], steering: Steering
    ) -> tuple[int, ...]:
        """Write definitions down in a storage domain."""
        return self.storage.keep(domain_path, definitions)

    def read_domain(self, path: str, steering: Steering) -> DomainFound:
        """All that lies in a storage domain."""
        return self.storage.read(path)

    def create_volume(self, volume: VolumeSpec, steering: Steering) -> str:
        """Create a volume."""
        return self.storage.create(volume)

    def reset_volume(self, volume: VolumeSpec, steering: Steering) -> str:
        """Throw a volume's changes away."""
        return self._patiently(lambda: self.storage.reset(volume), steering)

    def resize_volume(
        self, vm_id: UUID | None, domain_path: str, volume_id: UUID, capacity_mib: int, steering: Steering
    ) -> None:
        """Make a volume larger, by QEMU when the VM runs."""
        path = self.storage.volume(domain_path, volume_id)
        with self.storage.held([path]):
            if self.storage.lacks(path, capacity_mib):
                if vm_id is not None and self._patiently(lambda: self.hypervisor.runs(vm_id), steering):
                    self._patiently(lambda: self.hotplug.grow_disk(vm_id, path, capacity_mib), steering)
                else:
                    self._patiently(lambda: self.storage.grow(path, capacity_mib), steering)
            self.storage.note_size(path, capacity_mib)

    def take_upload(self, upload: UploadSpec, steering: Steering) -> TakenReport:
        """Make a volume of what was uploaded."""
        return self.uploads.take(upload, steering)

    def delete_volume(self, domain_path: str, volume_id: UUID, steering: Steering) -> None:
        """Delete a volume."""
        self._patiently(lambda: self.storage.delete(domain_path, volume_id), steering)

    def certify(self, certificate: str, ca: str, steering: Steering) -> None:
        """Show another certificate."""
        try:
            install(self.state, certificate, ca)
        except EnrollFailed as no:
            raise HostRefused("bad_certificate", str(no)) from no
        self._certified()

    def snapshot_volume(
        self, vm_id: UUID, domain_path: str, volume_id: UUID, snapshot_id: UUID, steering: Steering
    ) -> bool:
        """Take a snapshot inside a volume."""
        path, name = self.storage.volume(domain_path, volume_id), str(snapshot_id)
        steering.check_cancelled()
        with self.storage.held([path]):
            taken = name in self.storage.snapshots(path)
            if self._patiently(lambda: self.hypervisor.runs(vm_id), steering):
                if not taken:
                    return self._patiently(lambda: self.saves.take_snapshot(vm_id, path, name), steering)
                self._patiently(lambda: self.saves.thaw(vm_id), steering)  # cut off before it could
                return False
            if not taken:
                self._patiently(lambda: self.storage.change_snapshot("-c", path, name), steering)
            return True

    def revert_volume(self, domain_path: str, volume_id: UUID, snapshot_id: UUID, steering: Steering) -> None:
        """Go back to a snapshot."""
        path, name = self.storage.volume(domain_path, volume_id), str(snapshot_id)
        with self.storage.held([path]):
            if name not in self.storage.snapshots(path):
                sentence = f"Volume {volume_id} has no such snapshot any more."
                raise HostRefused("snapshot_missing", sentence, path=path)
            self._patiently(lambda: self.storage.change_snapshot("-a", path, name), steering)

    def delete_snapshot(
        self, vm_id: UUID, domain_path: str, volume_id: UUID, snapshot_id: UUID, steering: Steering
    ) -> None:
        """Delete a snapshot."""
        path, name = self.storage.volume(domain_path, volume_id), str(snapshot_id)
        with self.storage.held([path]):
            if name not in self.storage.snapshots(path):
                return
            if self._patiently(lambda: self.hypervisor.runs(vm_id), steering):
                self._patiently(lambda: self.saves.drop_snapshot(vm_id, path, name), steering)
            else:
                self._patiently(lambda: self.storage.change_snapshot("-d", path, name), steering)

    def fence(self, spec: FenceSpec, steering: Steering) -> PowerReport:
        """Have another host's power agents do it."""
        return self.power.fence(spec, steering)

    def upgrade_agent(self, version: str, sha256: str, package: Secret, steering: Steering) -> None:
        """Install another version and start again with it."""
        self.upgrade.install(version, sha256, package.value, steering)

    # -- questions -------------------------------------------------------------------------------
    def report(self) -> HostReport:
        """The host, its VMs and its storage. Refuses while libvirt is away: no answer is not "no VMs"."""
        host = sample_host()
        cpu_percent, network_mib_s = self.load.now()
        return HostReport(
            hostname=host.hostname,
            boot_id=host.boot_id,
            agent_version=metadata.version("leasehold"),
            hypervisor=self.hypervisor.version(),
            virt_type=self.config.virt_type,
            cpus=host.cpus,
            memory_mib=host.memory_mib,
            memory_free_mib=host.memory_free_mib,
            load1=host.load1,
            networks=host.networks,
            cpu_percent=cpu_percent,
            swap_mib=host.swap_mib,
            swap_free_mib=host.swap_free_mib,
            network_mib_s=network_mib_s,
            cpu=self.cpus.digest(),
            vms=tuple(self._vms()),
            storage=self.storage.reports(),
            ended=self.hypervisor.runs_seen.ends(),
        )

    def listen(self, seen: int, wait_s: int) -> int:
        """What libvirt tells, as soon as it tells it."""
        with self._wake:
            self._wake.wait_for(lambda: self._happened != seen, min(wait_s, LONGEST_LISTEN_S))
            return self._happened

    def screens(self, vm_ids: tuple[UUID, ...]) -> tuple[Screen, ...]:
        """Small pictures; those that cannot be had in time are left out."""
        return self.pictures.take(vm_ids)

    def power_kinds(self) -> tuple[str, ...]:
        """The kinds of power agents that there are programs for here."""
        return self.power.kinds()

    def power_kind(self, name: str) -> PowerKind:
        """What one of them is."""
        return self.power.kind(name)

    def host_cpu(self) -> HostCpu:
        """Which processor VMs can be given here."""
        return self.cpus.host_cpu()

    def common_cpu(self, cpus: tuple[Cpu, ...]) -> Cpu:
        """What several processors have in common."""
        return self.cpus.common_cpu(cpus)

    def part_size(self, domain_path: str, volume_id: UUID) -> int:
        """How much of an upload is here."""
        return self.uploads.size(domain_path, volume_id)

    def write_part(self, domain_path: str, volume_id: UUID, offset: int, data: bytes) -> int:
        """Take a piece of an upload."""
        return self.uploads.write(domain_path, volume_id, offset, data)

    def content(self, domain_path: str, volume_id: UUID) -> ContentReport:
        """What a volume's file is."""
        return self.uploads.content(domain_path, volume_id)

    def read_content(self, domain_path: str, volume_id: UUID, mark: str, offset: int, count: int) -> bytes:
        """A piece of it."""
        return self.uploads.read(domain_path, volume_id, mark, offset, count)

    def display_port(self, vm_id: UUID, protocol: Protocol) -> int | None:
        """The port on loopback where this VM's display listens; None when there is none."""
        facts = self.hypervisor.facts(vm_id)
        return facts.displays.get(protocol) if facts is not None and facts.ours else None

    # -- inside ----------------------------------------------------------------------------------
    def _vms(self) -> list[VmReport]:
        samples = self.hypervisor.samples()
        guests = self.guests.last(sample.vm_id for sample in samples)
        return [
            VmReport(
                one.vm_id, one.name, one.state, guests.get(one.vm_id), one.memory_mib, one.cpu_s, one.paused_for, one.boots
            )
            for one in samples
            if not self.arriving.hides(one.vm_id, one.state)
        ]

    def _ask_back(self, out: Callable[[], bool], what: str, timeout_s: int, steering: Steering) -> None:
        """Ask the guest until it lets go of a device."""
        begun = time.monotonic()

        def gone() -> bool | None:
            if self._patiently(out, steering):
                return True
            waited = time.monotonic() - begun
            if waited >= timeout_s:
                sentence = f"The guest has not let go of the {what} within {timeout_s} seconds; it may do so later."
                raise HostRefused("not_let_go", sentence)
            steering.progress(min(99, int(100 * waited / max(1, timeout_s))), "Waiting for the guest to let go of it")
            return None

        self._wait_for(gone, steering)

    def _press(self, ask: Callable[[UUID, bool], bool], vm_id: UUID, by_agent: bool) -> None:
        if not (by_agent and ask(vm_id, True)):
            ask(vm_id, False)

    def _paths(self, spec: VmSpec) -> list[str]:
        """The real paths of the VM's disks; a refusal when one of its files lies outside of the storage folders."""
        if spec.boot:
            self.storage.require_inside(spec.boot.kernel)
            self.storage.require_inside(spec.boot.initrd)
        if spec.cd and not Path(self.storage.require_inside(spec.cd)).is_file():
            raise HostRefused("disk_missing", f"VM {spec.name} cannot start: the CD {spec.cd} is not there.", path=spec.cd)
        return [self.storage.require_inside(disk.path) for disk in spec.disks]

    def _require_disks(self, spec: VmSpec, paths: list[str], steering: Steering) -> None:
        for disk, path in zip(spec.disks, paths, strict=True):
            if not Path(path).is_file():
                sentence = f"VM {spec.name} cannot start: its disk {disk.path} is not there."
                raise HostRefused("disk_missing", sentence, path=disk.path)
            if not disk.readonly:
                self._require_unshared(spec, path, steering)

    def _require_unshared(self, spec: VmSpec, path: str, steering: Steering) -> None:
        """QEMU's own locks refuse a second writer as well; this says by whom the disk is used."""
        if self._patiently(lambda: self.hypervisor.runs(spec.vm_id), steering):
            return
        if users := self._patiently(lambda: self.hypervisor.users_of(path), steering):
            sentence = f"VM {spec.name} cannot start: its disk is in use by VM {users[0]}."
            raise HostRefused("volume_in_use", sentence, path=path)

    def _patiently(self, work: Callable[[], T], steering: Steering) -> T:
        """Do it again while libvirtd is being restarted: every verb may be done twice."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return work()
            except HypervisorDown:
                if time.monotonic() >= end:
                    raise
            steering.check_cancelled()
            self._nap()

    def _wait_for(self, answer: Callable[[], T | None], steering: Steering) -> T:
        while True:
            steering.check_cancelled()
            if (found := answer()) is not None:
                return found
            self._nap()

    def _nap(self) -> None:
        with self._wake:
            self._wake.wait(LOOK_S)

    def _gone(self, vm_id: UUID, seconds: float) -> None:
        """Refuse: the VM does not run. How it ended may be told a moment later."""
        if self.hypervisor.runs_seen.end_of(vm_id) is not None:
            raise HostRefused("vm_not_running", "The VM does not run on this host (any more).", vm_id=str(vm_id))
        if seconds >= TOLD_WITHIN_S:
            sentence = "The host or its agent was started again while the VM booted, and it does not run any more."
            raise HostRefused("vm_lost", sentence, vm_id=str(vm_id))

    def _changed(self) -> None:
        with self._wake:
            self._happened += 1
            self._wake.notify_all()


def _fresh(spec: VmSpec) -> VmReport:
    """A VM that was started and is gone again already: it ran, and the next report says that it is off."""
    return VmReport(spec.vm_id, spec.name, "off", None, spec.memory_mib)
