"""`HostAgent`: every verb a host answers, as typed method signatures; the host API's one definition.

Two kinds. *Steps* change something, are asked by uid, journalled, and harmless when asked twice.
*Questions* are not journalled: they change nothing, but for a piece of an upload, which is no volume yet.
A verb that cannot do what it is asked raises `HostRefused`, which crosses the wire as a `Failure`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

from hostapi.types import (
    ContentReport,
    Cpu,
    Definition,
    DiskSpec,
    DomainFound,
    Failure,
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


class HostRefused(Exception):
    """The host says no, or could not: `failure` has the code, the sentence and the facts."""

    def __init__(self, code: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.failure = Failure(code, message, facts)


class Steering(Protocol):
    """What a long verb is handed to report progress and to hear that it is no longer wanted."""

    def progress(self, per_cent: int, message: str = "") -> None:
        """Note how far the step is; kept in the journal and shown to people."""

    def check_cancelled(self) -> None:
        """Raise `HostRefused('cancelled', …)` when the manager has cancelled this step."""


class HostAgent(Protocol):
    """Everything a host can be asked. Every step may be asked twice."""

    # -- steps: asked by uid, journalled ---------------------------------------------------------
    def start_vm(self, spec: VmSpec, steering: Steering) -> VmReport:
        """Run this VM, its displays closed until a ticket is set. A VM that already runs is left alone."""

    def await_boot(self, vm_id: UUID, timeout_s: int, steering: Steering) -> GuestReport:
        """Wait until the guest agent answers. Refuses with `boot_timeout` after `timeout_s` seconds,
        `vm_not_running` when the VM dies meanwhile, `vm_lost` when it does not run and the agent did not see it end:
        then the host or its agent was started again, and the guest has done nothing wrong."""

    def shutdown_vm(self, vm_id: UUID, timeout_s: int, steering: Steering) -> None:
        """Ask the guest to shut down (agent first, then the power button) and wait until the VM is off.
        A VM that does not run is success; refuses with `shutdown_timeout` when the guest will not."""

    def stop_vm(self, vm_id: UUID, steering: Steering) -> None:
        """Cut the VM's power and answer once it is proved off. A VM that does not run is success."""

    def suspend_vm(self, vm_id: UUID, path: str, steering: Steering) -> None:
        """Write the VM's memory to this file below a storage domain's `saved` folder, and switch it off. One that is
        saved there already is success, one that neither runs nor is saved is `vm_not_running`. Begun, it is not
        cancelled; a VM that cannot be saved runs on."""

    def restore_vm(self, spec: VmSpec, path: str, steering: Steering) -> VmReport:
        """Let a VM go on from the file that `suspend_vm` wrote, its displays closed until a ticket is set. The file is
        deleted before the guest goes on: nothing is ever restored twice. A VM that already runs is left alone; refuses
        with `saved_state_missing` or `saved_state_unusable`, and then the file stays as it was."""

    def discard_saved(self, path: str, steering: Steering) -> None:
        """Delete what `suspend_vm` wrote; a file that is not there is success."""

    def pause_vm(self, vm_id: UUID, steering: Steering) -> None:
        """Stop a VM's processors where they are; one that is paused already is success."""

    def unpause_vm(self, vm_id: UUID, steering: Steering) -> None:
        """Let a paused VM go on; one that runs is success. Refuses with `stalled` when its storage fails it again at
        once, and then it stays paused."""

    def prepare_migration(self, spec: VmSpec, migration_id: UUID, source_id: UUID, steering: Steering) -> None:
        """Let this VM in from the host `source_id`, and nobody else from there: its disks are here. Refuses with
        `disk_missing` when they are not, `runs_here` when the VM is here already."""

    def migrate_vm(self, vm_id: UUID, migration: MigrationSpec, to: Peer, steering: Steering) -> MigrationReport:
        """Move a running VM to a host that was prepared for it, over TLS between the two agents. Whatever it refuses with,
        the VM runs on here, but for `vm_not_running`: then it is not here (any more), and only the other host can tell
        whether it arrived. Cancelled, the VM stays; `not_converging` when it changes too fast for the policy."""

    def settle_migration(self, vm_id: UUID, migration_id: UUID, steering: Steering) -> VmReport | None:
        """Tell whether the VM has arrived here, and let it go on if it stands still since. None when it has not: nothing of
        it is here then, and nothing can come any more. To be asked when the other host does not run it for certain."""

    def plug_nic(self, vm_id: UUID, nic: NicSpec, steering: Steering) -> None:
        """Put a network card into a running VM; one of this address that is there already is success. Refuses with
        `not_plugged` in the hypervisor's words, `no_bridge` when the host has no such bridge."""

    def update_nic(self, vm_id: UUID, nic: NicSpec, steering: Steering) -> None:
        """Put the network card of this address on this bridge, with its cable in or out; `no_nic` when there is none."""

    def unplug_nic(self, vm_id: UUID, mac: str, timeout_s: int, steering: Steering) -> None:
        """Ask the guest for its network card back; one that is not there is success. Refuses with `not_let_go` when the
        guest has not let go of it by then: it may do so later."""

    def plug_disk(self, vm_id: UUID, disk: DiskSpec, steering: Steering) -> None:
        """Put a disk into a running VM; one that is there already is success. Refuses with `not_plugged`, `disk_missing`
        and `volume_in_use`."""

    def unplug_disk(self, vm_id: UUID, disk: DiskSpec, timeout_s: int, steering: Steering) -> None:
        """Ask the guest for a disk back, as `unplug_nic` does for a network card."""

    def grow_vm(self, vm_id: UUID, memory_mib: int, vcpus: int, steering: Steering) -> None:
        """Give a running VM memory and processors up to these totals; what it has already is success. Refuses with
        `no_headroom` when it was not started with room to grow, `not_grown` in the hypervisor's words."""

    def run_hook(
        self, hook: str, args: tuple[str, ...], facts: dict[str, str], timeout_s: int, steering: Steering
    ) -> HookOutput:
        """Run a program of the operator's folder of hooks, without a shell, with these arguments, and the facts in its
        environment (LEASEHOLD_…). Asked twice, as after a restart of the agent, it may run twice. Refuses with `no_hooks`
        when the host has no such folder, `no_hook`, `hook_refused` when others could write to it, `hook_slow`, and
        `hook_failed` with its output among the facts."""

    def reboot_vm(self, vm_id: UUID, timeout_s: int, steering: Steering) -> None:
        """Ask the guest to reboot (agent first, then the power button) and wait until it has. Refuses with
        `reboot_timeout` when the guest will not; `await_boot` tells when it is up again."""

    def reset_vm(self, vm_id: UUID, steering: Steering) -> None:
        """Press the VM's reset button: the guest is not asked."""

    def guest_action(self, vm_id: UUID, action: GuestAction, text: str, steering: Steering) -> None:
        """Show people inside the guest a message, lock their screens or log them out, through the guest agent. Refuses
        with `guest_silent` when there is none, `guest_cannot` when the guest has no program for it."""

    def set_ticket(self, vm_id: UUID, ticket: TicketSpec, steering: Steering) -> None:
        """Let the console be opened with this password until it expires. The newest ticket of a VM and protocol
        counts (`issued_ms`); an older one is success and changes nothing."""

    def attach_domain(self, path: str, steering: Steering) -> StorageReport:
        """Make the folder a storage domain of this host (idempotent); refuses when it cannot be written."""

    def attach_shared_domain(self, path: str, domain_id: UUID, first: bool, steering: Steering) -> StorageReport:
        """Make a folder that several hosts mount at this path a storage domain of this host, too. The `first` host makes
        it and marks it with the domain's id; others refuse with `not_shared` where that mark is not to be seen, so that
        an empty mount point is never taken for it. One that is another domain already is `other_domain`."""

    def keep_definitions(
        self, domain_path: str, definitions: tuple[Definition, ...], steering: Steering
    ) -> tuple[int, ...]:
        """Write down in the storage domain what it, its VMs and templates are, and delete what has no text any more. Answers
        for each the generation that is there now: a higher one than asked was there already, and stays; 0 for what cannot be
        kept, because it is none, or a newer Leasehold has written there."""

    def read_domain(self, path: str, steering: Steering) -> DomainFound:
        """All that lies in this folder as a storage domain; changes nothing. A volume that cannot be used, because it rests
        on what is not there or outside of this host's storage folders, says why. Refuses with `no_domain`."""

    def create_volume(self, volume: VolumeSpec, steering: Steering) -> str:
        """Create a qcow2 volume and answer its path. One that exists with the same spec is success."""

    def reset_volume(self, volume: VolumeSpec, steering: Steering) -> str:
        """Throw the overlay's changes away: a fresh, empty overlay takes its place in one rename.
        Refuses with `volume_in_use` while a VM runs on it."""

    def resize_volume(
        self, vm_id: UUID | None, domain_path: str, volume_id: UUID, capacity_mib: int, steering: Steering
    ) -> None:
        """Make a volume larger, also while this VM runs with it here; one that is so large already is success. Refuses with
        `would_shrink` when it is larger, `volume_in_use` when another VM runs with it, `not_resized` in the hypervisor's
        words."""

    def take_upload(self, upload: UploadSpec, steering: Steering) -> TakenReport:
        """Make a volume of what `write_part` has brought here, once its size and checksum are right and it is what it says:
        a qcow2 volume of its own, or the image of a CD as it is. One that is there already is success. Refuses with
        `part_incomplete`, and with `checksum_differs` or the code of what is wrong with the image: then what was brought is
        deleted."""

    def delete_volume(self, domain_path: str, volume_id: UUID, steering: Steering) -> None:
        """Delete a volume, and what was brought here for it; one that is not there is success, one a VM runs on is
        `volume_in_use`."""

    def certify(self, certificate: str, ca: str, steering: Steering) -> None:
        """From now on show this certificate, and believe managers and gateways of this CA alone (both PEM).
        Refuses with `bad_certificate` what is not for this host's key or not of that CA."""

    def snapshot_volume(
        self, vm_id: UUID, domain_path: str, volume_id: UUID, snapshot_id: UUID, steering: Steering
    ) -> bool:
        """Take a snapshot inside the volume and answer whether its file systems were at rest: the VM was off, or its
        guest agent froze them. One that is there already is success."""

    def revert_volume(self, domain_path: str, volume_id: UUID, snapshot_id: UUID, steering: Steering) -> None:
        """Make the volume what it was when the snapshot was taken. Refuses with `volume_in_use` while a VM runs on it,
        `snapshot_missing` when there is no such snapshot."""

    def delete_snapshot(
        self, vm_id: UUID, domain_path: str, volume_id: UUID, snapshot_id: UUID, steering: Steering
    ) -> None:
        """Delete a snapshot, whether the VM runs or not; one that is not there is success."""

    def fence(self, spec: FenceSpec, steering: Steering) -> PowerReport:
        """Switch another host's power by its power agents, or ask for it, and answer once they all say the same. “off” is
        answered only when every one of them says that it is off. Refuses with `not_fenced` and what they said,
        `no_power_program` when this host has none for that kind, `bad_option` for one that the kind does not know."""

    def upgrade_agent(self, version: str, sha256: str, package: Secret, steering: Steering) -> None:
        """Install this wheel (base64, its SHA-256 in hex) by the program that the host's operator has named for it, and start
        the agent again with it; one that is installed already is success. Asked of agents of every version: it never
        changes. Refuses with `no_upgrade` when no program is named, `bad_package`, and `upgrade_failed` with what the
        program said; then the agent runs on as it is."""

    # -- questions: nothing changes, nothing is journalled ---------------------------------------
    def report(self) -> HostReport:
        """The host, its VMs and storage, as they are now."""

    def listen(self, seen: int, wait_s: int) -> int:
        """How often something has happened to VMs of this host; kept back for up to `wait_s` seconds while it is `seen`.
        It begins anew when the agent does."""

    def screens(self, vm_ids: tuple[UUID, ...]) -> tuple[Screen, ...]:
        """Small pictures of these VMs' screens; a VM that is not running here is left out."""

    def power_kinds(self) -> tuple[str, ...]:
        """The kinds of power agents that this host has programs for."""

    def power_kind(self, name: str) -> PowerKind:
        """What a kind of power agent is, and its options. Refuses with `no_power_program` one that is not here."""

    def host_cpu(self) -> HostCpu:
        """The processor that this host can give to VMs. Refuses with `unsupported` when its hypervisor cannot tell."""

    def common_cpu(self, cpus: tuple[Cpu, ...]) -> Cpu:
        """The most that all of these have, of whichever hosts they are. Refuses with `no_common_cpu` when there is nothing,
        `unsupported` when the hypervisor cannot tell."""


    def part_size(self, domain_path: str, volume_id: UUID) -> int:
        """How many bytes of an upload are here: where to go on."""

    def write_part(self, domain_path: str, volume_id: UUID, offset: int, data: bytes) -> int:
        """Write these bytes of an upload at their place, which may be written again, and answer how many are here now.
        Refuses with `wrong_offset` when those before are not here. Nothing of it is a volume until `take_upload`."""

    def content(self, domain_path: str, volume_id: UUID) -> ContentReport:
        """What a volume's file is. Refuses with `volume_missing`, `volume_in_use` while a VM runs on it, `has_base` when it
        lies over another, without which it is worth nothing."""

    def read_content(self, domain_path: str, volume_id: UUID, mark: str, offset: int, count: int) -> bytes:
        """So many bytes of the file, from there on. Refuses as `content` does, and with `content_changed` when its mark is
        another one now."""


QUESTIONS = (
    "report", "listen", "screens", "power_kinds", "power_kind", "host_cpu", "common_cpu", "part_size", "write_part", "content",
    "read_content",
)  # fmt: skip
TRANSFERS = ("part_size", "write_part", "content", "read_content")  # all that a portal may ask
ALWAYS = ("upgrade_agent",)  # understood whatever version of the host API the manager speaks
STEPS = tuple(
    name
    for name, value in vars(HostAgent).items()
    if isinstance(value, Callable) and not name.startswith("_") and name not in QUESTIONS  # type: ignore[arg-type]
)
