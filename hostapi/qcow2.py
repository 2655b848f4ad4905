"""What a qcow2 file's header says: its size, what it rests on, its snapshots. Read byte by byte, nothing else opened."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"QFI\xfb"
MOST_SNAPSHOTS = 1024
_DATA_FILE, _KNOWN = 4, 31  # among the features that a reader must know
_FORMAT = 0xE2792ACA  # the header extension that names the format of what it rests on


class NoQcow2(ValueError):
    """It is none, or not a sound one; `str()` says why."""


@dataclass(frozen=True)
class Qcow2:
    """What the header says. `backing` is as it is written there."""

    virtual_bytes: int
    backing: str = ""
    backing_format: str = ""
    snapshots: tuple[str, ...] = ()


def look(path: str) -> Qcow2:
    """Read the header; raises `NoQcow2` for what is none, or keeps its data in another file."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise NoQcow2("it is no plain file")
        try:
            return _parse(file, about.st_size)
        except (struct.error, UnicodeDecodeError) as no:
            raise NoQcow2("its header is cut off or makes no sense") from no


def _parse(file: BinaryIO, size: int) -> Qcow2:
    head = file.read(104)
    if head[:4] != MAGIC:
        raise NoQcow2("it is no qcow2 file")
    version, backing_at, backing_bytes, cluster_bits, virtual = struct.unpack_from(">IQIIQ", head, 4)
    snapshots, snapshots_at = struct.unpack_from(">IQ", head, 60)
    features, length = 0, 72
    if version == 3:
        (features,), (length,) = struct.unpack_from(">Q", head, 72), struct.unpack_from(">I", head, 100)
    elif version != 2:
        raise NoQcow2(f"it is qcow2 of version {version}")
    if not 9 <= cluster_bits <= 21 or not 72 <= length <= 1 << cluster_bits or features & ~_KNOWN:
        raise NoQcow2("its header makes no sense, or is of a newer kind")
    if features & _DATA_FILE:
        raise NoQcow2("it keeps its data in another file")
    if backing_bytes > 1023 or backing_at + backing_bytes > size or snapshots > MOST_SNAPSHOTS:
        raise NoQcow2("its header makes no sense")
    backing = ""
    if backing_at:
        file.seek(backing_at)
        backing = file.read(backing_bytes).decode()
    kind = _backing_format(file, length, backing_at or 1 << cluster_bits) if backing else ""
    return Qcow2(virtual, backing, kind, _snapshots(file, snapshots, snapshots_at))


def _backing_format(file: BinaryIO, at: int, end: int) -> str:
    while at + 8 <= end:
        file.seek(at)
        kind, length = struct.unpack(">II", file.read(8))
        if not kind or length > 4096:
            break
        if kind == _FORMAT:
            return file.read(length).decode()
        at += 8 + (length + 7) // 8 * 8
    return ""


def _snapshots(file: BinaryIO, count: int, at: int) -> tuple[str, ...]:
    """Their names, the oldest first."""
    names = []
    for _ in range(count):
        file.seek(at)
        fields = struct.unpack(">QIHHIIQII", file.read(40))
        id_bytes, name_bytes, extra = fields[2], fields[3], fields[8]
        if extra > 1024:
            raise NoQcow2("its list of snapshots makes no sense")
        file.seek(extra + id_bytes, os.SEEK_CUR)
        names.append(file.read(name_bytes).decode())
        at += (40 + extra + id_bytes + name_bytes + 7) // 8 * 8
    return tuple(names)
