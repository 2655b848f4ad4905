"""What happens in the life of a simulated run besides beginning and ending: pauses, storage that fails it, its own reboots."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from hostapi.types import DiskSpec, EndedBy, HookOutput, NicSpec, PausedFor, VmSpec
from hostapi.verbs import HostRefused, Steering

if TYPE_CHECKING:
    from sim.world import World


@dataclass
class Run:
    """A VM that runs here."""

    spec: VmSpec
    since: datetime
    boots_at: datetime | None  # None: its guest agent will never answer
    off_at: datetime | None = None
    reboots_at: datetime | None = None
    paused_for: PausedFor = ""
    boots: int = 0


class Lives:
    """The part of `SimHost` that pauses and disturbs what runs."""

    world: World
    runs: dict[UUID, Run]
    ends: dict[UUID, EndedBy]
    _changed: threading.Condition
    _happened: int

    # -- steps -----------------------------------------------------------------------------------
    def pause_vm(self, vm_id: UUID, steering: Steering) -> None:
        """It stands still."""
        with self._changed:
            run = self._run(vm_id)
            run.paused_for = run.paused_for or "asked"

    def unpause_vm(self, vm_id: UUID, steering: Steering) -> None:
        """It goes on, unless its storage fails it still."""
        with self._changed:
            run = self._run(vm_id)
            folders = [self.world.folder_of(disk.path) for disk in run.spec.disks]
            if run.paused_for in ("ioerror", "enospc") and any(f is not None and (f.broken or f.full) for f in folders):
                raise HostRefused("stalled", "The VM is paused again: its storage fails it still.", vm_id=str(vm_id))
            run.paused_for = ""

    def plug_nic(self, vm_id: UUID, nic: NicSpec, steering: Steering) -> None:
        """It has a network card more."""
        with self._changed:
            run = self._run(vm_id)
            if nic.mac not in {one.mac for one in run.spec.nics}:
                run.spec = replace(run.spec, nics=(*run.spec.nics, nic))

    def update_nic(self, vm_id: UUID, nic: NicSpec, steering: Steering) -> None:
        """Its network card is as it is told."""
        with self._changed:
            run = self._run(vm_id)
            if nic.mac not in {one.mac for one in run.spec.nics}:
                raise HostRefused("no_nic", f"VM {run.spec.name} has no network card {nic.mac}.", mac=nic.mac)
            run.spec = replace(run.spec, nics=tuple(nic if one.mac == nic.mac else one for one in run.spec.nics))

    def unplug_nic(self, vm_id: UUID, mac: str, timeout_s: int, steering: Steering) -> None:
        """Its guest lets go of the network card, unless it holds on to everything."""
        self._let_go(vm_id, f"network card {mac}", timeout_s, steering)
        with self._changed:
            if run := self.runs.get(vm_id):
                run.spec = replace(run.spec, nics=tuple(one for one in run.spec.nics if one.mac != mac))

    def plug_disk(self, vm_id: UUID, disk: DiskSpec, steering: Steering) -> None:
        """It has a disk more."""
        with self._changed:
            run = self._run(vm_id)
            if disk.path not in {one.path for one in run.spec.disks}:
                self._require_startable(replace(run.spec, disks=(disk,)))
                run.spec = replace(run.spec, disks=(*run.spec.disks, disk))

    def unplug_disk(self, vm_id: UUID, disk: DiskSpec, timeout_s: int, steering: Steering) -> None:
        """Its guest lets go of the disk, unless it holds on to everything."""
        self._let_go(vm_id, "disk", timeout_s, steering)
        with self._changed:
            if run := self.runs.get(vm_id):
                run.spec = replace(run.spec, disks=tuple(one for one in run.spec.disks if one.path != disk.path))

    def grow_vm(self, vm_id: UUID, memory_mib: int, vcpus: int, steering: Steering) -> None:
        """It has more, if it was started with room to grow."""
        with self._changed:
            run = self._run(vm_id)
            spec, more = run.spec, memory_mib - run.spec.memory_mib
            most = max(spec.vcpus, spec.max_vcpus) if spec.virt_type == "kvm" else spec.vcpus  # as with the real ones
            if more > 0 and (memory_mib > spec.max_memory_mib or more % 128) or vcpus > most:
                raise HostRefused("no_headroom", f"VM {spec.name} cannot grow so far: it was started without room to grow.")
            run.spec = replace(spec, memory_mib=max(spec.memory_mib, memory_mib), vcpus=max(spec.vcpus, vcpus))

    def run_hook(
        self, hook: str, args: tuple[str, ...], facts: dict[str, str], timeout_s: int, steering: Steering
    ) -> HookOutput:
        """What the world says that this hook does."""
        how = self.world.hooks.get(hook)
        if not self.world.hooks:
            raise HostRefused("no_hooks", "This host runs no hooks: its agent has no folder for them (hooks in agent.toml).")
        if how is None:
            raise HostRefused("no_hook", f"This host has no hook named {hook}.")
        if how == "hangs":
            end = self.world.clock.now() + timedelta(seconds=timeout_s)
            self._wait_until(lambda: self.world.clock.now() >= end, steering)
            sentence = f"The hook {hook} had not ended after {timeout_s} seconds, and was ended."
            raise HostRefused("hook_slow", sentence, output="", cut=False)
        output = " ".join([hook, *args, *(f"{key}={facts[key]}" for key in sorted(facts) if key.endswith("NAME"))]) + "\n"
        if how == "fails":
            raise HostRefused("hook_failed", f"The hook {hook} failed: exit code 1.", exit_code=1, output=output, cut=False)
        return HookOutput(output)

    def _let_go(self, vm_id: UUID, what: str, timeout_s: int, steering: Steering) -> None:
        end = self.world.clock.now() + timedelta(seconds=timeout_s)

        def gone() -> bool:
            run = self.runs.get(vm_id)
            if run is None or not self.world.guest(run.spec.name).holds_on:
                return True
            if self.world.clock.now() >= end:
                sentence = f"The guest has not let go of the {what} within {timeout_s} seconds; it may do so later."
                raise HostRefused("not_let_go", sentence)
            return False

        self._wait_until(gone, steering)

    # -- what the world does to it ----------------------------------------------------------------
    def disturb(self, name: str, what: str) -> None:
        """The storage fails the VM of this name, or its guest reboots, crashes or shuts down by itself."""
        with self._changed:
            self._happened += 1
            self._changed.notify_all()
            for vm_id in [vm_id for vm_id, run in self.runs.items() if run.spec.name == name]:
                if what in ("io_error", "no_space"):
                    self.runs[vm_id].paused_for = "ioerror" if what == "io_error" else "enospc"
                elif what == "reboots":
                    self.runs[vm_id].boots += 1
                    self._boot_anew(self.runs[vm_id])
                else:
                    self._end(vm_id)
                    self.ends[vm_id] = "crashed" if what == "panics" else "guest" if what == "shutdown" else "failed"

    # -- of the host ------------------------------------------------------------------------------
    def _run(self, vm_id: UUID) -> Run:
        raise NotImplementedError

    def _require_startable(self, spec: VmSpec) -> None:
        raise NotImplementedError

    def _wait_until(self, true: Callable[[], bool], steering: Steering) -> None:
        raise NotImplementedError

    def _end(self, vm_id: UUID) -> None:
        raise NotImplementedError

    def _boot_anew(self, run: Run) -> None:
        raise NotImplementedError
