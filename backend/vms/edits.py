"""Pure: what of an edit takes effect at once, what while the VM runs, and what with its next start; and how that is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AT_ONCE = ("description", "guest_agent", "boot_timeout_s", "resume_behaviour")
OF_A_RUN = ("memory_mib", "vcpus", "max_memory_mib", "max_vcpus", "video", "protocols")
GROWS = ("memory_mib", "vcpus")
MODULE_MIB = 128  # guests take memory in blocks of this size
LABELS = {
    "memory_mib": "memory", "vcpus": "processors", "max_memory_mib": "memory it can grow to",
    "max_vcpus": "processors it can grow to", "video": "graphics card", "protocols": "consoles",
}  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """What is written now; what the VM is to be from its next start on (all of it, earlier edits too); and which of that
    the running VM is asked to grow to already."""

    now: dict[str, Any]
    next_run: dict[str, Any]
    grow: dict[str, int]


def split(has: Mapping[str, Any], next_run: Mapping[str, Any] | None, wanted: Mapping[str, Any], *, runs: bool) -> Edit:
    """Of these wishes, on top of what already waits for the next start. A wish for what it has takes an earlier one back."""
    later = dict(next_run or {}) | {name: wanted[name] for name in OF_A_RUN if name in wanted}
    later = {name: value for name, value in later.items() if value != has[name]}
    at_once = {name: wanted[name] for name in AT_ONCE if name in wanted and wanted[name] != has[name]}
    if not runs:
        return Edit(at_once | later, {}, {})
    grow = {name: later[name] for name in GROWS if name in later and name in wanted and _can_grow(has, name, later[name])}
    return Edit(at_once, later, grow)


def _can_grow(has: Mapping[str, Any], name: str, to: int) -> bool:
    if name == "vcpus":
        return bool(has["vcpus"] < to <= has["max_vcpus"])
    return bool(has["memory_mib"] < to <= has["max_memory_mib"]) and (to - has["memory_mib"]) % MODULE_MIB == 0


def told(has: Mapping[str, Any], next_run: Mapping[str, Any] | None) -> str:
    """What the next start changes, for people: “memory 96 → 128 MiB, processors 1 → 2”."""
    return ", ".join(_one(name, has.get(name), (next_run or {})[name]) for name in OF_A_RUN if name in (next_run or {}))


def _one(name: str, was: Any, to: Any) -> str:
    unit = " MiB" if name.endswith("_mib") else ""
    return f"{LABELS.get(name, name)} {_word(was)} → {_word(to)}{unit}"


def _word(value: Any) -> str:
    return ", ".join(value) if isinstance(value, (list, tuple)) else f"{value:,}" if isinstance(value, int) else str(value)
