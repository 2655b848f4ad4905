"""Pure: what one run of a VM has otherwise than its rows say, and how that is told."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from backend.errors import Invalid

BOOT_DEVICES = ("disk", "cd", "network")
VIDEOS = ("virtio", "vga", "qxl")
PROTOCOLS = ("spice", "vnc")
_FILE = re.compile(r"\w[\w .+-]*(/\w[\w .+-]*)*\.iso", re.IGNORECASE)  # never a disk: those are not called so


def require_once(boot_from: Sequence[str], iso: str, video: str | None, protocols: Sequence[str] | None) -> None:
    """`Invalid` unless a run can be so."""
    if bad := [device for device in boot_from if device not in BOOT_DEVICES]:
        raise Invalid("bad_boot", f"“{bad[0][:40]}” is nothing to boot from: choose disk, cd, network.", fields=["boot_from"])
    if len(set(boot_from)) != len(boot_from):
        raise Invalid("bad_boot", "Name each thing to boot from once, in the order of trying.", fields=["boot_from"])
    if iso and not _FILE.fullmatch(iso):
        raise Invalid("bad_iso", "Name the ISO file by its path below the storage domain's folder, such as iso/debian.iso.",
                      fields=["iso"])  # fmt: skip
    if "cd" in boot_from and not iso:
        raise Invalid("no_iso", "To boot from a CD, choose the ISO file to put in.", fields=["iso"])
    if video is not None and video not in VIDEOS:
        raise Invalid("bad_video", "video is one of virtio, vga and qxl.", fields=["video"])
    if protocols is not None and (not protocols or not set(protocols) <= set(PROTOCOLS)):
        raise Invalid("bad_protocols", "protocols are spice, vnc or both.", fields=["protocols"])


def boot_of(usual: Mapping[str, Any] | None, once: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The kernel that this run boots directly: the one it was given, none when it boots from devices, else the usual one;
    what is given of a kernel overrides that part alone."""
    given = {key: once[key] for key in ("kernel", "initrd", "cmdline") if once.get(key)}
    if once.get("boot_from") and "kernel" not in given:
        return None
    return {"cmdline": "", **(usual or {}), **given} if given or usual else None


def told(once: Mapping[str, Any]) -> str:
    """What is otherwise in this run, for people: “boots from cd, network; CD debian.iso”."""
    parts = [
        "boots from " + ", ".join(once["boot_from"]) if once.get("boot_from") else "",
        f"CD {once['iso']}" if once.get("iso") else "",
        f"kernel {once['kernel']}" if once.get("kernel") else "",
        f"initrd {once['initrd']}" if once.get("initrd") else "",
        f"command line “{once['cmdline']}”" if once.get("cmdline") else "",
        f"graphics card {once['video']}" if once.get("video") else "",
        "consoles " + ", ".join(once["protocols"]) if once.get("protocols") else "",
    ]
    return "; ".join(part for part in parts if part) or "nothing otherwise"
