"""The frozen dataclasses that travel between manager and host: plain data, msgspec-encodable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

Protocol = Literal["spice", "vnc"]
VirtType = Literal["kvm", "qemu"]
GuestAction = Literal["message", "lock", "log_out"]
BootDevice = Literal["disk", "cd", "network"]
PausedFor = Literal["", "asked", "ioerror", "enospc", "other"]
EndedBy = Literal["guest", "crashed", "failed", "host"]
Power = Literal["on", "off"]
PowerAction = Literal["on", "off", "status"]


@dataclass(frozen=True)
class Secret:
    """A secret by name; the runner fills `value` in at the wire, so that no row ever holds it."""

    name: str
    value: str = ""

    def __repr__(self) -> str:
        return f"Secret({self.name!r}, ***)"

    __str__ = __repr__


@dataclass(frozen=True)
class DiskSpec:
    """A disk as a running VM sees it: the top volume of its chain."""

    volume_id: UUID
    path: str
    format: Literal["qcow2", "raw"] = "qcow2"
    bus: Literal["virtio", "scsi", "sata"] = "virtio"
    readonly: bool = False


@dataclass(frozen=True)
class NicSpec:
    """A virtual NIC on a bridge of the host."""

    mac: str
    bridge: str
    model: str = "virtio"
    linked: bool = True  # whether its cable is in


@dataclass(frozen=True)
class BootSpec:
    """Direct kernel boot; `cmdline` is final, with the VM's name already in it."""

    kernel: str
    initrd: str
    cmdline: str


@dataclass(frozen=True)
class Cpu:
    """A processor as VMs are given it: a model that hypervisors know by name, with what is added to it and taken from it.
    `features` are all that it has in the end; none: those of the model."""

    model: str
    vendor: str = ""
    adds: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostCpu:
    """The most that a host can give to VMs that are to be migrated, and the models that it can give by name."""

    cpu: Cpu
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class VmSpec:
    """Everything a host needs to run a VM. Domains are transient: the manager alone remembers VMs."""

    vm_id: UUID
    name: str
    memory_mib: int
    vcpus: int
    virt_type: VirtType = "qemu"
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    boot: BootSpec | None = None
    protocols: tuple[Protocol, ...] = ("spice", "vnc")
    video: Literal["virtio", "vga", "qxl"] = "virtio"
    boot_from: tuple[BootDevice, ...] = ("disk",)  # in this order; means nothing with direct kernel boot
    cd: str | None = None  # an ISO file in its CD drive
    paused: bool = False  # started so, until `unpause_vm`
    max_memory_mib: int = 0  # up to which it can grow while it runs; 0: not at all
    max_vcpus: int = 0
    cpu: Cpu | None = None  # none: what the host gives without being told


@dataclass(frozen=True)
class VolumeAbout:
    """What is noted beside a volume: the name of its disk, and what it is made for; nothing: for itself."""

    disk: str = ""
    owner: Literal["", "vm", "template"] = ""
    owner_id: UUID | None = None


@dataclass(frozen=True)
class VolumeSpec:
    """A qcow2 volume as a file below a storage domain; `backing` is the full path of the base it overlays. The room of
    one that is `preallocated` is taken at once; it has no base."""

    volume_id: UUID
    domain_path: str
    capacity_mib: int
    backing: str | None = None
    preallocated: bool = False
    about: VolumeAbout = field(default=VolumeAbout(), compare=False)


@dataclass(frozen=True)
class Definition:
    """What a storage domain keeps of itself, of a VM or of a template: JSON as docs/storage-format.md has it. Without text
    nothing is kept any more."""

    kind: Literal["domain", "vm", "template"]
    id: UUID
    generation: int
    text: str = ""


@dataclass(frozen=True)
class VolumeFound:
    """A volume that lies in a storage domain: what its own header says, its metadata, and why it cannot be used, if so."""

    volume_id: UUID
    path: str
    capacity_mib: int = 0
    chain: tuple[str, ...] = ()  # the files that it rests on, the next one first
    snapshots: tuple[str, ...] = ()
    text: str = ""  # its metadata, if there are any
    why: str = ""


@dataclass(frozen=True)
class Problem:
    """Something in a storage domain that is not as it should be."""

    kind: Literal["torn", "newer", "refused", "missing", "orphaned", "unfinished"]
    file: str
    why: str


@dataclass(frozen=True)
class DomainFound:
    """All that lies in a storage domain's folder. `mark` is the shared domain that the folder is marked as."""

    path: str
    mark: UUID | None = None
    definitions: tuple[Definition, ...] = ()
    volumes: tuple[VolumeFound, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class UploadSpec:
    """A file that somebody brought along: what it says it is, its size and SHA-256 (hex), and how large a disk it may hold."""

    volume_id: UUID
    domain_path: str
    format: Literal["raw", "qcow2", "iso"]
    size_bytes: int
    sha256: str
    most_mib: int
    about: VolumeAbout = VolumeAbout()


@dataclass(frozen=True)
class TakenReport:
    """What an uploaded file has become."""

    path: str
    capacity_mib: int


@dataclass(frozen=True)
class ContentReport:
    """The file of a volume that can be read as it is: how long it is, and a mark that is another one when it changes."""

    size_bytes: int
    mark: str


@dataclass(frozen=True)
class TicketSpec:
    """A display password: accepted for `valid_s` seconds from now, over `protocol` alone."""

    ticket_id: UUID
    protocol: Protocol
    password: Secret
    valid_s: int
    issued_ms: int  # Unix time in ms: an older ticket never replaces a newer one of the same VM and protocol


@dataclass(frozen=True)
class GuestReport:
    """What the guest agent says of the inside of a VM."""

    hostname: str | None = None
    os: str | None = None
    ips: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class VmReport:
    """A VM as its host sees it; `guest` is None while no guest agent answers. `boots` counts how often it was seen to
    begin anew; the count itself begins anew with the agent."""

    vm_id: UUID
    name: str
    state: Literal["running", "paused", "off"]
    guest: GuestReport | None = None
    memory_mib: int = 0
    cpu_s: float = 0.0
    paused_for: PausedFor = ""  # why, when it is paused
    boots: int = 0


@dataclass(frozen=True)
class VmEnd:
    """How a VM went off: its guest shut down, its guest crashed, its hypervisor failed, or the host was asked to."""

    vm_id: UUID
    by: EndedBy


@dataclass(frozen=True)
class StorageReport:
    """A storage domain's folder as this host sees it; `why` says what is wrong when it is not `ok`."""

    path: str
    ok: bool
    total_mib: int = 0
    free_mib: int = 0
    why: str = ""


@dataclass(frozen=True)
class HostReport:
    """The host, its VMs and its storage, as they are now. `boot_id` changes with every boot of the host."""

    hostname: str
    boot_id: str
    agent_version: str
    hypervisor: str
    virt_type: VirtType
    cpus: int
    memory_mib: int
    memory_free_mib: int
    load1: float
    vms: tuple[VmReport, ...] = ()
    storage: tuple[StorageReport, ...] = ()
    ended: tuple[VmEnd, ...] = ()  # of VMs that do not run any more, as far as the agent saw it
    networks: tuple[str, ...] = ()  # names of its bridges
    cpu_percent: float | None = None  # of all its processors, lately; none: not known yet
    swap_mib: int = 0
    swap_free_mib: int = 0
    network_mib_s: float | None = None  # in and out over its own network cards, lately
    cpu: str = ""  # a digest of what `host_cpu` answers; nothing: not known (yet)


@dataclass(frozen=True)
class Peer:
    """Another host, as one host finds it: its certificate's name is made from the id."""

    host_id: UUID
    address: str
    port: int  # where its agent lets other hosts and gateways in


@dataclass(frozen=True)
class MigrationSpec:
    """How a VM is to be moved. It does not converge when its memory was sent twice and it still changes too fast: then it
    is paused (`suspend`), or goes on at the other side before all of it is there (`post_copy`), or has been slowed down
    more and more (`auto_converge`); otherwise, or if that was of no use, it stays where it is."""

    migration_id: UUID
    bandwidth_mib: int = 0  # MiB a second; 0 is no limit
    downtime_ms: int = 500  # so long it may stand still at the end
    converge: Literal["none", "auto_converge", "post_copy", "suspend"] = "auto_converge"


@dataclass(frozen=True)
class MigrationReport:
    """What a migration took."""

    total_ms: int
    downtime_ms: int
    sent_mib: int


@dataclass(frozen=True)
class Screen:
    """A small picture of a VM's screen: WebP bytes, at most 480 pixels wide."""

    vm_id: UUID
    width: int
    height: int
    webp: bytes


@dataclass(frozen=True)
class PowerSpec:
    """A power agent of a host: the kind of device, where it is, and with which words it lets one in."""

    type: str  # the name of a fence agent without its fence_
    address: str
    port: int = 0  # 0: the kind's usual one
    username: str = ""
    password: Secret | None = None
    encrypt: bool = True
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FenceSpec:
    """What to do to another host's power. Its power agents of one group: the host is off when all of them say so."""

    action: PowerAction
    agents: tuple[PowerSpec, ...]
    group: int = 1
    timeout_s: int = 30


@dataclass(frozen=True)
class PowerReport:
    """Whether a host has power, as its power agents say after what they were asked to do."""

    power: Power
    told: str = ""


@dataclass(frozen=True)
class PowerOption:
    """An option that a kind of power agent knows."""

    name: str
    type: str = "string"
    default: str = ""
    about: str = ""


@dataclass(frozen=True)
class PowerKind:
    """A kind of power agent that a host has a program for."""

    name: str
    about: str = ""
    options: tuple[PowerOption, ...] = ()


@dataclass(frozen=True)
class HookOutput:
    """What a hook wrote, both outputs in one; `cut` when it wrote more than is kept."""

    output: str
    cut: bool = False


@dataclass(frozen=True)
class Failure:
    """Why a host could not do what was asked: a code for programs, a sentence for people."""

    code: str
    message: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The answer to a step, asked by uid: still running, done with a result, or failed."""

    uid: UUID
    state: Literal["running", "done", "failed"]
    progress: int = 0  # per cent
    message: str = ""
    result: Any = None
    failure: Failure | None = None
