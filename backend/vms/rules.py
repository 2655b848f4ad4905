"""Pure: rows' facts -> VmSpec; names that may be given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from backend.errors import Invalid
from hostapi.types import BootSpec, Cpu, DiskSpec, NicSpec, VmSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def require_name(name: str, what: str = "VM") -> None:
    """`Invalid` unless the name can be a host name inside the guest too (RFC 1123, 2.1, with dots and underscores)."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            "bad_name",
            f"“{name}” cannot name a {what}: use up to 63 letters, digits, dots, dashes "
            "and underscores, beginning with a letter or digit.",
            fields=["name"],
        )


BEHAVIOURS = ("auto_resume", "leave_paused", "kill")  # when the storage that has paused a VM is back
MAC_PREFIX = 0x02_4C_48 << 24  # addresses that are nobody's but ours to give (02: locally administered)
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


def require_nic(mac: str, bridge: str, model: str) -> None:
    """`Invalid` unless a network card can be so."""
    if mac and not _MAC.fullmatch(mac):
        raise Invalid("bad_mac", "A network card's address looks like 02:4c:48:00:00:01; left open, it gets one.", fields=["mac"])
    if not _BRIDGE.fullmatch(bridge):
        raise Invalid("bad_bridge", "Name a bridge of the hosts, such as br0: up to 15 letters and digits.", fields=["bridge"])
    if model not in NIC_MODELS:
        raise Invalid("bad_model", f"model is one of {', '.join(NIC_MODELS)}.", fields=["model"])


def next_mac(last: str | None) -> str:
    """The address after the last one that was given."""
    number = MAC_PREFIX + 1 if last is None else int(last.replace(":", ""), 16) + 1
    if number >> 24 != MAC_PREFIX >> 24:
        raise Invalid("no_mac_left", "No address for a network card is left; name one yourself.", fields=["mac"])
    return ":".join(f"{number:012x}"[i : i + 2] for i in range(0, 12, 2))


NIC_MODELS = ("virtio", "e1000e", "rtl8139")
_SIZES = {"capacity_mib": (1, 2**30), "memory_mib": (16, 2**24), "vcpus": (1, 1024), "max_memory_mib": (16, 2**24),
          "max_vcpus": (1, 1024), "boot_timeout_s": (5, 86_400)}


def require_sizes(**given: int | None) -> None:
    """`Invalid` unless each size that is given is one that a machine can have."""
    for field, value in given.items():
        least, most = _SIZES[field]
        if value is not None and not least <= value <= most:
            raise Invalid("bad_size", f"{field} must lie between {least:,} and {most:,}.", fields=[field])


def require_availability(priority: int | None) -> None:
    """`Invalid` unless the priority is one."""
    if priority is not None and not 1 <= priority <= 100:
        raise Invalid("bad_priority", "priority lies between 1 and 100: 1 is low, 50 medium, 100 high.", fields=["priority"])


def vm_spec(
    *,
    vm_id: UUID,
    name: str,
    memory_mib: int,
    vcpus: int,
    virt_type: str,
    boot: Mapping[str, Any] | None,
    protocols: Sequence[str],
    video: str,
    disks: Sequence[tuple[UUID, str]],
    boot_from: Sequence[str] = (),
    cd: str | None = None,
    paused: bool = False,
    nics: Sequence[NicSpec] = (),
    max_memory_mib: int = 0,
    max_vcpus: int = 0,
    cpu: Cpu | None = None,
) -> VmSpec:
    """What the host is asked to run; `disks` are (volume id, path) in boot order."""
    return VmSpec(
        vm_id=vm_id,
        name=name,
        memory_mib=memory_mib,
        vcpus=vcpus,
        virt_type=virt_type,  # type: ignore[arg-type]
        disks=tuple(DiskSpec(volume_id, path) for volume_id, path in disks),
        boot=BootSpec(boot["kernel"], boot["initrd"], boot["cmdline"].replace("{name}", name)) if boot else None,
        protocols=tuple(protocols),  # type: ignore[arg-type]
        video=video,  # type: ignore[arg-type]
        boot_from=tuple(boot_from) or ("disk",),  # type: ignore[arg-type]
        cd=cd,
        paused=paused,
        nics=tuple(nics),
        max_memory_mib=max_memory_mib,
        max_vcpus=max_vcpus,
        cpu=cpu,
    )
