"""Images that somebody brought along: good ones are taken, hostile ones refused with a sentence."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.images import check
from hostapi.verbs import HostRefused

MIB = 1 << 20


def made(path: Path, *options: str, size: str = "8M") -> Path:
    """A qcow2 image by qemu-img."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, size], check=True)
    return path


def patched(path: Path, at: int, form: str, value: int) -> Path:
    """The image with one number of its header changed."""
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack(form, value))
    return path


def cd(path: Path, blocks: int = 20, size: int = 20 * 2048) -> Path:
    """As much of a CD's image as says that it is one."""
    volume = bytearray(2048)
    volume[:6] = b"\x01CD001"
    struct.pack_into("<I", volume, 80, blocks)
    struct.pack_into("<H", volume, 128, 2048)
    path.write_bytes((bytes(0x8000) + bytes(volume)).ljust(size, b"\0"))
    return path


def test_what_it_says_it_is(tmp_path: Path) -> None:
    (raw := tmp_path / "raw").write_bytes(bytes(MIB))
    assert check(str(raw), "raw").virtual_bytes == MIB
    assert check(str(made(tmp_path / "q")), "qcow2").virtual_bytes == 8 * MIB
    assert check(str(made(tmp_path / "old", "-o", "compat=0.10")), "qcow2").virtual_bytes == 8 * MIB
    assert check(str(made(tmp_path / "new", "-o", "compression_type=zstd,extended_l2=on")), "qcow2").format == "qcow2"
    assert check(str(cd(tmp_path / "cd")), "iso").driver == "raw"


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def with_data_file(path: Path) -> Path:
    return made(path, "-o", f"data_file={path}.data,data_file_raw=on")


def encrypted(path: Path) -> Path:
    secret = ["--object", "secret,id=s,data=leasehold"]
    return made(path, *secret, "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10")


HOSTILE: dict[str, tuple[str, str, Callable[[Path], Path]]] = {
    "a backing file": ("qcow2", "image_backing", lambda p: made(p, "-u", "-b", "/etc/shadow", "-F", "raw")),
    "a backing file of json": ("qcow2", "image_backing",
                               lambda p: made(p, "-u", "-b", 'json:{"driver":"nbd","host":"127.0.0.1"}', "-F", "raw")),
    "a name of a backing file without its place": ("qcow2", "image_backing", lambda p: patched(made(p), 16, ">I", 11)),
    "a data file": ("qcow2", "image_data_file", with_data_file),
    "the bit of a data file": ("qcow2", "image_data_file", lambda p: patched(made(p), 72, ">Q", 4)),
    "encrypted": ("qcow2", "image_encrypted", encrypted),
    "a size of 2^62": ("qcow2", "image_too_large", lambda p: patched(made(p), 24, ">Q", 1 << 62)),
    "a size of 2^64 - 1": ("qcow2", "image_too_large", lambda p: patched(made(p), 24, ">Q", (1 << 64) - 1)),
    "a huge first-level table": ("qcow2", "image_table", lambda p: patched(made(p), 36, ">I", (1 << 32) - 1)),
    "a first-level table far away": ("qcow2", "image_truncated", lambda p: patched(made(p), 40, ">Q", 1 << 60)),
    "a huge reference count table": ("qcow2", "image_table", lambda p: patched(made(p), 56, ">I", (1 << 32) - 1)),
    "a huge header": ("qcow2", "image_header", lambda p: patched(made(p), 100, ">I", (1 << 32) - 8)),
    "no header": ("qcow2", "image_header", lambda p: patched(made(p), 100, ">I", 0)),
    "huge clusters": ("qcow2", "image_header", lambda p: patched(made(p), 20, ">I", 40)),
    "a version of tomorrow": ("qcow2", "image_header", lambda p: patched(made(p), 4, ">I", 9)),
    "a feature of tomorrow": ("qcow2", "image_header", lambda p: patched(made(p), 72, ">Q", 1 << 40)),
    "corrupt": ("qcow2", "image_corrupt", lambda p: patched(made(p), 72, ">Q", 2)),
    "too many snapshots": ("qcow2", "image_snapshots", lambda p: patched(made(p), 60, ">I", (1 << 32) - 1)),
    "a list of snapshots far away": ("qcow2", "image_truncated",
                                     lambda p: patched(patched(made(p), 60, ">I", 3), 64, ">Q", 1 << 50)),
    "a first-level table in the header": ("qcow2", "image_unreadable", lambda p: patched(made(p), 40, ">Q", 13)),
    "a table too small for the size": ("qcow2", "image_unreadable", lambda p: patched(made(p), 24, ">Q", 1 << 45)),
    "cut off in its header": ("qcow2", "image_truncated", lambda p: cut(made(p), 60)),
    "cut off in its tables": ("qcow2", "image_truncated", lambda p: cut(made(p), 4096)),
    "raw that is called qcow2": ("qcow2", "image_other_format", lambda p: cd(p)),
    "qcow2 that is called raw": ("raw", "image_other_format", lambda p: made(p)),
    "qcow2's first bytes alone": ("raw", "image_other_format", lambda p: cut(made(p), 512)),
    "qcow2 that is called a CD": ("iso", "image_other_format", lambda p: made(p)),
    "no CD": ("iso", "image_other_format", lambda p: cut(cd(p), 0x8000)),
    "a CD cut off": ("iso", "image_truncated", lambda p: cd(p, blocks=1 << 31)),
    "half a sector": ("raw", "image_truncated", lambda p: cut(cd(p), 1000)),
    "nothing": ("raw", "image_empty", lambda p: cut(cd(p), 0)),
    "a qcow2 of nothing": ("qcow2", "image_empty", lambda p: cut(cd(p), 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_refused(name: str, tmp_path: Path) -> None:
    declared, code, make = HOSTILE[name]
    path = make(tmp_path / "image")
    with pytest.raises(HostRefused) as refused:
        check(str(path), declared)  # type: ignore[arg-type]
    assert refused.value.failure.code == code
    assert refused.value.failure.message.endswith(".")


def test_a_limit_of_its_own(tmp_path: Path) -> None:
    (raw := tmp_path / "raw").write_bytes(bytes(2 * MIB))
    for path, declared in ((raw, "raw"), (made(tmp_path / "q"), "qcow2")):
        with pytest.raises(HostRefused) as refused:
            check(str(path), declared, MIB)  # type: ignore[arg-type]
        assert refused.value.failure.code == "image_too_large"
