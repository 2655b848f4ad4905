"""Whether a file that somebody brought along is the image that it says: looked at byte by byte before QEMU may read it."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from typing import Any, Literal

from agent.shell import ProgramFailed, run
from hostapi.verbs import HostRefused

ImageFormat = Literal["raw", "qcow2", "iso"]

MOST_BYTES = 64 << 40  # no disk is larger
MOST_SNAPSHOTS = 64
MOST_TABLE_BYTES = 32 << 20  # of the first-level table and of that of reference counts, as QEMU has it
LOOK_S, CPU_S, SPACE_BYTES = 30.0, 10, 1 << 30
LIMITED = ("prlimit", f"--as={SPACE_BYTES}", f"--cpu={CPU_S}", "--core=0")
_QCOW2 = b"QFI\xfb"
# what begins like this is an image of its own kind, whatever it is called
_MAGIC = {
    _QCOW2: "a qcow2 image", b"KDMV": "a VMDK image", b"COWD": "a VMDK image", b"# Disk DescriptorFile": "a VMDK image",
    b"vhdxfile": "a VHDX image", b"conectix": "a VHD image", b"LUKS\xba\xbe": "encrypted", b"QED\0": "a QED image",
    b"OOOO": "a cow image", b"WithoutFreeSpace": "a Parallels image", b"WithouFreSpacExt": "a Parallels image",
    b"<<< ": "a VDI image", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "packed with gzip", b"\xfd7zXZ\0": "packed with xz",
    b"BZh": "packed with bzip2", b"\x28\xb5\x2f\xfd": "packed with zstd",
}  # fmt: skip
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED = 1, 2, 4, 8, 16
_SECTOR, _CD_AT = 512, 0x8000


@dataclass(frozen=True)
class Image:
    """What an image holds: how it is to be read, and how large the disk is for a guest."""

    format: ImageFormat
    virtual_bytes: int

    @property
    def driver(self) -> str:
        """What QEMU calls the format."""
        return "raw" if self.format == "iso" else self.format


def check(path: str, declared: ImageFormat, most_bytes: int = MOST_BYTES) -> Image:
    """The image in this file, or a refusal that says in a sentence why it is not one that can be taken. Nothing that it
    names is ever opened: QEMU sees it only after its header says that it names nothing."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(512)
        cd = _read(file, _CD_AT, 2048)
    if not size:
        raise HostRefused("image_empty", "The file is empty.")
    if declared == "qcow2":
        _require_qcow2(head, size, most_bytes)
        image = Image("qcow2", _ask_qemu(path))
    else:
        image = _flat(head, cd, size, declared)
    if image.virtual_bytes > most_bytes:
        raise _too_large(image.virtual_bytes, most_bytes)
    return image


def _flat(head: bytes, cd: bytes, size: int, declared: ImageFormat) -> Image:
    """A raw image or that of a CD: its bytes are the disk's."""
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise HostRefused("image_other_format", f"The file is said to be {_called(declared)}, but it is {what}.")
    if declared == "iso":
        if cd[:6] != b"\x01CD001":
            raise HostRefused("image_other_format", "The file is said to be the image of a CD, but it has none's file system.")
        (blocks,), (block,) = struct.unpack_from("<I", cd, 80), struct.unpack_from("<H", cd, 128)
        if blocks * block > size:
            sentence = f"The CD's image is cut off: it says that it has {blocks * block} bytes, and the file has {size}."
            raise HostRefused("image_truncated", sentence)
    elif size % _SECTOR:
        raise HostRefused("image_truncated", f"The file has {size} bytes, no multiple of {_SECTOR}: the raw image is cut off.")
    return Image(declared, size)


def _require_qcow2(head: bytes, size: int, most_bytes: int) -> None:
    """A header that names no other file, and tables of a sensible size that lie within the file."""
    if not head.startswith(_QCOW2):
        what = next((what for magic, what in _MAGIC.items() if head.startswith(magic)), "something else")
        raise HostRefused("image_other_format", f"The file is said to be a qcow2 image, but it is {what}.")
    if len(head) < 104:
        raise HostRefused("image_truncated", "The qcow2 image is cut off within its header.")
    (version, backing_at, backing_bytes, cluster_bits, virtual, crypt, l1_entries, l1_at, counts_at, counts_clusters,
     snapshots, snapshots_at) = struct.unpack_from(">IQIIQIIQQIIQ", head, 4)  # fmt: skip
    features, length = (0, 72)
    if version == 3:
        (features,), (length,) = struct.unpack_from(">Q", head, 72), struct.unpack_from(">I", head, 100)
    elif version != 2:
        raise HostRefused("image_header", f"The qcow2 image has version {version}; versions 2 and 3 can be taken.")
    if not 9 <= cluster_bits <= 21:
        raise HostRefused("image_header", f"The qcow2 image has clusters of 2^{cluster_bits} bytes; 2^9 to 2^21 are possible.")
    cluster = 1 << cluster_bits
    if version == 3 and not 104 <= length <= cluster:
        raise HostRefused("image_header", f"The header of the qcow2 image is said to have {length} bytes: that cannot be.")
    if backing_at or backing_bytes:
        raise HostRefused("image_backing", "The image rests on another file, which is not taken. Bring one that holds all its "
                          "data: qemu-img convert -O qcow2 makes it.")  # fmt: skip
    if features & _DATA_FILE:
        raise HostRefused("image_data_file", "The image keeps its data in another file. Bring one that holds all its data.")
    if crypt:
        raise HostRefused("image_encrypted", "The image is encrypted. Bring one that is not.")
    if features & _CORRUPT:
        raise HostRefused("image_corrupt", "The image says that it is corrupt. Mend it with qemu-img check -r all first.")
    if features & ~(_DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED):
        raise HostRefused("image_header", "The qcow2 image uses features that nobody knows.")
    if virtual > most_bytes:
        raise _too_large(virtual, most_bytes)
    if snapshots > MOST_SNAPSHOTS:
        sentence = f"There are {snapshots} snapshots in the image; at most {MOST_SNAPSHOTS} can be. They are not taken anyway."
        raise HostRefused("image_snapshots", sentence)
    for name, at, length in (("first-level table", l1_at, l1_entries * 8), ("reference count table", counts_at,
                              counts_clusters * cluster), ("list of snapshots", snapshots_at, snapshots * 40)):  # fmt: skip
        if length > MOST_TABLE_BYTES:
            raise HostRefused("image_table", f"The {name} of the qcow2 image is said to have {length} bytes: that cannot be.")
        if length and at + length > size:
            raise HostRefused("image_truncated", f"The qcow2 image is cut off: its {name} lies beyond the end of the file.")


def _ask_qemu(path: str) -> int:
    """The size of the disk as QEMU has it, which is told the format, and may use little time and memory."""
    try:
        said = run([*LIMITED, "qemu-img", "info", "-U", "--output=json", "-f", "qcow2", os.path.abspath(path)], timeout_s=LOOK_S)
        info: dict[str, Any] = json.loads(said)
    except ProgramFailed as no:
        if no.said.startswith("it "):  # did not end in time, is not installed: that says nothing of the image
            raise HostRefused("storage_failed", f"The image cannot be looked at: qemu-img: {no.said}.") from no
        why = no.said.splitlines()[-1].rpartition(": ")[2] if no.said else "no reason"
        raise HostRefused("image_unreadable", f"The qcow2 image cannot be read: {why.rstrip('.')}.") from no
    named = {"backing-filename", "full-backing-filename"} & info.keys()
    if info["format"] != "qcow2" or named or "data-file" in info.get("format-specific", {}).get("data", {}):
        raise HostRefused("image_backing", "The image rests on another file, which is not taken.")
    return int(info["virtual-size"])


def _read(file: Any, at: int, count: int) -> bytes:
    file.seek(at)
    found: bytes = file.read(count)
    return found.ljust(count, b"\0")


def _too_large(virtual: int, most: int) -> HostRefused:
    sentence = f"The image is of a disk of {virtual >> 20:,} MiB; at most {most >> 20:,} MiB can be taken."
    return HostRefused("image_too_large", sentence)


def _called(declared: ImageFormat) -> str:
    return {"raw": "a raw image", "qcow2": "a qcow2 image", "iso": "the image of a CD"}[declared]
