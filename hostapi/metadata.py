"""The metadata that a storage domain keeps of itself: what is in those small files, and how they are read and written.

docs/storage-format.md describes them byte by byte. They are foreign input: whoever reads one believes nothing of it."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid4

import msgspec
from msgspec import Meta

Kind = Literal["domain", "volume", "vm", "template"]
VERSION = 1
MOST_BYTES = 1 << 20  # of one file: what a VM is takes a few hundred
FOLDERS = {"vm": "vms", "template": "templates"}
SUFFIX = ".meta"
_HEAD = re.compile(rb"leasehold (domain|volume|vm|template) ([0-9]{1,6}) ([0-9]{1,18}) ([0-9]{1,8}) ([0-9a-f]{64})\n")
_LONGEST_HEAD = 128

Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[^\x00]*\Z")]
Text = Annotated[str, Meta(max_length=65_536, pattern=r"\A[^\x00]*\Z")]
Mib = Annotated[int, Meta(ge=1, le=1 << 40)]
Count = Annotated[int, Meta(ge=0, le=1 << 30)]


class DomainBody(msgspec.Struct, frozen=True):
    """What `domain.meta` says: which storage domain this folder is, and where hosts had it."""

    id: UUID
    name: Name
    type: Literal["local", "posixfs"]
    data_center: Name
    path: Annotated[str, Meta(min_length=1, max_length=4096, pattern="^/")]


class VolumeBody(msgspec.Struct, frozen=True):
    """What a volume's file says. One that is not `legal` was being made or deleted (`doing`) when this was written."""

    id: UUID
    disk: Annotated[str, Meta(max_length=255, pattern=r"\A[^\x00]*\Z")]
    owner: Literal["", "vm", "template"]  # what it was made for; nothing: for itself
    owner_id: UUID | None
    capacity_mib: Mib
    format: Literal["qcow2", "iso"]
    backing: Text | None  # as the volume has it
    parent: UUID | None  # the volume at that path, if it is one
    legal: bool
    doing: Literal["", "create", "delete"]
    created: datetime


class BootBody(msgspec.Struct, frozen=True):
    """Direct kernel boot."""

    kernel: Text
    initrd: Text
    cmdline: Text


class DiskBody(msgspec.Struct, frozen=True):
    """A disk of a VM or template; its volume has the same id."""

    id: UUID
    name: Name
    capacity_mib: Mib
    backing_id: UUID | None = None


class NicBody(msgspec.Struct, frozen=True):
    """A network card."""

    id: UUID
    name: Name
    mac: Annotated[str, Meta(pattern="^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
    bridge: Name
    model: Name
    linked: bool
    plugged: bool


class SnapshotBody(msgspec.Struct, frozen=True):
    """A snapshot inside the VM's disk, where it goes by its id."""

    id: UUID
    name: Name
    at_rest: bool
    created: datetime


class TemplateBody(msgspec.Struct, frozen=True):
    """Everything that makes a template's row anew."""

    id: UUID
    name: Name
    version: Annotated[int, Meta(ge=1, le=1 << 30)]
    description: Text
    cluster: Name
    memory_mib: Mib
    vcpus: Annotated[int, Meta(ge=1, le=4096)]
    boot: BootBody | None
    video: Literal["virtio", "vga", "qxl"]
    guest_agent: bool
    boot_timeout_s: Annotated[int, Meta(ge=1, le=1 << 20)]
    disks: Annotated[tuple[DiskBody, ...], Meta(max_length=256)]


class VmBody(msgspec.Struct, frozen=True):
    """Everything that makes a VM's row anew; of people and of what it does now there is nothing."""

    id: UUID
    name: Name
    description: Text
    cluster: Name
    template_id: UUID | None
    memory_mib: Mib
    vcpus: Annotated[int, Meta(ge=1, le=4096)]
    max_memory_mib: Count
    max_vcpus: Annotated[int, Meta(ge=0, le=4096)]
    boot: BootBody | None
    video: Literal["virtio", "vga", "qxl"]
    guest_agent: bool
    boot_timeout_s: Annotated[int, Meta(ge=1, le=1 << 20)]
    protocols: Annotated[tuple[Literal["spice", "vnc"], ...], Meta(max_length=8)]
    resume_behaviour: Name
    high_availability: bool
    priority: Annotated[int, Meta(ge=1, le=100)]
    created: datetime
    disks: Annotated[tuple[DiskBody, ...], Meta(max_length=256)]
    nics: Annotated[tuple[NicBody, ...], Meta(max_length=256)]
    snapshots: Annotated[tuple[SnapshotBody, ...], Meta(max_length=1024)]


Body = DomainBody | VolumeBody | VmBody | TemplateBody
BODIES: Mapping[str, type[Any]] = {"domain": DomainBody, "volume": VolumeBody, "vm": VmBody, "template": TemplateBody}


class BadMetadata(ValueError):
    """A file that cannot be believed: torn, of a newer version, or refused. `str()` says why, in words."""

    def __init__(self, what: Literal["torn", "newer", "refused"], why: str) -> None:
        super().__init__(why)
        self.what = what


class Kept(NamedTuple):
    """What a file holds: how often it was written, and its JSON, looked at and found good."""

    generation: int
    text: str
    body: Any


def place(kind: Kind, id: UUID) -> str:
    """The file's path below the domain's folder."""
    if kind == "domain":
        return f"domain{SUFFIX}"
    return f"{FOLDERS.get(kind, 'volumes')}/{id}{SUFFIX}"


def parse(kind: Kind, text: str | bytes) -> Any:
    """The typed body, or `BadMetadata`."""
    try:
        return msgspec.json.decode(text, type=BODIES[kind])
    except (msgspec.DecodeError, UnicodeDecodeError) as no:
        raise BadMetadata("refused", f"it does not hold what such a file holds: {str(no).rstrip('.')}.") from no


def encode(kind: Kind, generation: int, text: str) -> bytes:
    """The bytes of a file."""
    body = text.encode()
    head = f"leasehold {kind} {VERSION} {generation} {len(body)}".encode()
    return head + b" " + _sum(head, body) + b"\n" + body


def decode(kind: Kind, data: bytes) -> Kept:
    """What the bytes of a file say, or `BadMetadata`."""
    head = _HEAD.match(data[:_LONGEST_HEAD])
    if head is None:
        raise BadMetadata("torn", "its first line is none of such a file.")
    found, version, generation, length, digest = head.groups()
    if int(version) > VERSION:
        raise BadMetadata("newer", f"it has version {int(version)}, and only {VERSION} is known here: use a newer Leasehold.")
    body = data[head.end() :]
    if len(body) != int(length) or _sum(data[: head.start(5) - 1], body) != digest:
        raise BadMetadata("torn", "it was not written to its end, or has changed since: its checksum is another.")
    if found.decode() != kind:
        raise BadMetadata("refused", f"it is of a {found.decode()}, not of a {kind}.")
    typed = parse(kind, body)
    return Kept(int(generation), body.decode(), typed)


def load(path: str | Path, kind: Kind) -> Kept | None:
    """What a file says; None when there is none. Never follows a link, opens no device, reads no huge file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as no:
        if no.errno == errno.ELOOP:
            raise BadMetadata("refused", "it is a link.") from no
        raise
    with os.fdopen(file, "rb") as opened:
        about = os.fstat(opened.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise BadMetadata("refused", "it is no plain file.")
        if about.st_size > MOST_BYTES:
            raise BadMetadata("refused", f"it has {about.st_size:,} bytes; such a file has at most {MOST_BYTES:,}.")
        return decode(kind, opened.read(MOST_BYTES + 1))


def store(path: str | Path, data: bytes) -> None:
    """Write a file so that there is always the old one or the new one, whatever happens, and for good before this returns."""
    path = Path(path)
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid4().hex}.new")
    try:
        with open(fresh, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)  # it is not there any more when all went well
    _flush(path.parent)


def remove(path: str | Path) -> None:
    """Delete a file, for good before this returns; one that is not there is fine."""
    path = Path(path)
    if path.is_symlink() or path.exists():
        path.unlink(missing_ok=True)
        _flush(path.parent)


def _flush(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _sum(head: bytes, body: bytes) -> bytes:
    return hashlib.sha256(head + b"\n" + body).hexdigest().encode()
