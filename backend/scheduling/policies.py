"""Pure: the scheduling policies that there are, their thresholds, and what of them may be set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from backend.errors import Invalid

BALANCING = ("none", "evenly_distributed", "power_saving", "vm_evenly_distributed")


@dataclass(frozen=True)
class Thresholds:
    """When a cluster is out of balance. Per cents are of a host's processors or of its memory."""

    high_cpu_percent: int = 80  # a busier host gives VMs away
    low_cpu_percent: int = 20  # power saving: an idler host is emptied
    over_s: int = 120  # how long it must have been so
    high_memory_percent: int = 95
    low_memory_percent: int = 40  # power saving: a host that has promised less is emptied
    hosts_in_reserve: int = 1  # power saving: so many empty hosts stay up
    shut_down_hosts: bool = False  # power saving: whether empty hosts are switched off, and on again
    high_vm_count: int = 10  # a host with more VMs gives some away
    vm_migration_threshold: int = 5  # as soon as the fullest has so many more than the emptiest
    spm_vm_grace: int = 5  # the storage pool manager counts as having so many more
    at_once: int = 2  # moves of a round
    rest_s: int = 600  # a VM that was moved stays for so long


_LIMITS = {
    "high_cpu_percent": (10, 100), "low_cpu_percent": (0, 90), "over_s": (0, 86_400), "high_memory_percent": (10, 400),
    "low_memory_percent": (0, 390), "hosts_in_reserve": (0, 1000), "high_vm_count": (1, 10_000),
    "vm_migration_threshold": (1, 1000), "spm_vm_grace": (0, 1000), "at_once": (1, 100), "rest_s": (0, 86_400),
}  # fmt: skip

# name -> (scores, what it is in a sentence)
SCORES: dict[str, Mapping[str, float]] = {
    "none": {"free_memory": 1.0, "idle": 0.5, "affinity": 4.0},
    "evenly_distributed": {"idle": 1.0, "free_cpus": 1.0, "free_memory": 1.0, "affinity": 4.0},
    "power_saving": {"packed": 2.0, "calm": 2.0, "affinity": 4.0},
    "vm_evenly_distributed": {"few_vms": 2.0, "free_memory": 0.25, "affinity": 4.0},
}
ABOUT: dict[str, str] = {
    "none": "VMs start where there is most room, and are not moved.",
    "evenly_distributed": "VMs start, and are moved, so that all hosts are about as busy.",
    "power_saving": "VMs are gathered on few hosts; hosts that are left empty can be switched off.",
    "vm_evenly_distributed": "Every host has about as many VMs.",
}


def thresholds(given: Mapping[str, Any]) -> Thresholds:
    """The thresholds with what a cluster wants otherwise."""
    known = {f.name for f in fields(Thresholds)}
    return replace(Thresholds(), **{name: value for name, value in given.items() if name in known and value is not None})


def require_thresholds(given: Mapping[str, Any]) -> Thresholds:
    """As `thresholds`; `Invalid` names what cannot be."""
    for name, (least, most) in _LIMITS.items():
        value = given.get(name)
        if value is not None and not least <= value <= most:
            raise Invalid("bad_threshold", f"{name} must lie between {least:,} and {most:,}.", fields=[name])
    found = thresholds(given)
    for what in ("cpu", "memory"):
        low, high = getattr(found, f"low_{what}_percent"), getattr(found, f"high_{what}_percent")
        if low >= high:
            raise Invalid("bad_threshold", f"The low threshold ({low} %) must be below the high one ({high} %): a host that is "
                          "emptied would fill others up, and they would give it VMs back.", fields=[f"low_{what}_percent"])
    return found
