"""Pure: known rows + a host's report (or its silence) -> list of changes.

No time-out ever concludes that a VM is off: a VM `died` only when its host answers and does not have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from backend.hosts.machine import HOST
from backend.vms.machine import VM
from hostapi.types import HostReport, VmReport

SILENT_AFTER = timedelta(seconds=10)  # up -> connecting
LOST_AFTER = timedelta(seconds=60)  # connecting -> non_responsive; its VMs become unknown
SAMPLE_EVERY = timedelta(seconds=10)  # a VM's usage; oftener would only be more writes
SAME_AGAIN = timedelta(seconds=60)  # one that is as it was is written as seldom as this
SAME_PERCENT = 1.0
STALLS = {
    "ioerror": "Its storage fails it (an input/output error).",
    "enospc": "Its storage is full.",
}
ENDED = {"crashed": "Its guest crashed: the kernel panicked.", "shut_itself_down": "It was shut down from inside."}
_MAY_RUN = ("powering_up", "up", "paused", "powering_down", "reboot_in_progress", "unknown")


@dataclass(frozen=True)
class KnownVm:
    """A VM that was on this host before the host was asked."""

    vm_id: UUID
    state: str
    guest: dict[str, Any] | None
    started_at: datetime | None = None
    vcpus: int = 1
    cpu_s: float = 0.0
    cpu_at: datetime | None = None
    cpu_usage: float | None = None
    memory_given_mib: int | None = None
    logged_in: frozenset[str] = frozenset()
    pause: str = ""
    boots: int | None = 0  # null: not known yet in this run


@dataclass(frozen=True)
class KnownHost:
    """A host and its VMs as the rows had them before it was asked."""

    host_id: UUID
    state: str
    answered_at: datetime  # when it last answered, or was enrolled
    vms: Sequence[KnownVm]
    needs: frozenset[str] = frozenset()  # networks that its cluster's VMs are on
    cpu_lacks: str = ""  # what it lacks of its cluster's CPU
    storage_lacks: str = ""  # which storage of its data center it does not reach, in a sentence
    error_until: datetime | None = None
    for_maintenance: bool = False


@dataclass(frozen=True)
class OtherVersion:
    """A host answers, but its agent speaks another version of the host API: it lives, and tells nothing more."""

    why: str


Heard = HostReport | OtherVersion | None


@dataclass(frozen=True)
class Change:
    """An event for a thing's state table, with the columns to set; `event` None only sets columns."""

    kind: Literal["host", "vm"]
    id: UUID
    was: str
    event: str | None
    sets: dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """What a VM takes: a sample of its processor time, and what that makes of the time since the one before."""

    vm_id: UUID
    started_at: datetime | None
    cpu_s: float
    cpu_usage: float | None  # None with the first sample of a run
    memory_given_mib: int


def usages(known: KnownHost, report: HostReport, now: datetime) -> list[Usage]:
    """New samples of the VMs whose last one is old enough to tell something."""
    running = {vm.vm_id: vm for vm in report.vms if vm.state != "off"}
    found = []
    for vm in known.vms:
        said = running.get(vm.vm_id)
        if said is None or vm.state not in _MAY_RUN:
            continue
        fresh = vm.cpu_at is None or (vm.started_at is not None and vm.cpu_at < vm.started_at) or said.cpu_s < vm.cpu_s
        usage = None
        if not fresh and vm.cpu_at is not None:
            passed = now - vm.cpu_at
            if timedelta(0) <= passed < SAMPLE_EVERY:
                continue
            if passed > timedelta(0):
                usage = round(min(100.0, 100 * (said.cpu_s - vm.cpu_s) / passed.total_seconds() / max(1, vm.vcpus)), 1)
            same = usage is not None and vm.cpu_usage is not None and abs(usage - vm.cpu_usage) < SAME_PERCENT
            if same and said.memory_mib == vm.memory_given_mib and timedelta(0) <= passed < SAME_AGAIN:
                continue
        found.append(Usage(vm.vm_id, vm.started_at, said.cpu_s, usage, said.memory_mib))
    return found


@dataclass(frozen=True)
class GuestNews:
    """What a guest says of its people, beside what was known: who came and who left."""

    vm_id: UUID
    came: frozenset[str]
    left: frozenset[str]


def guest_news(known: KnownHost, report: HostReport) -> list[GuestNews]:
    """Of every VM whose guest agent answers. A silent agent is no news: people may still be logged in."""
    said = {vm.vm_id: frozenset(vm.guest.users) for vm in report.vms if vm.guest is not None and vm.state != "off"}
    there = [vm for vm in known.vms if vm.state in _MAY_RUN and vm.vm_id in said]
    return [GuestNews(vm.vm_id, said[vm.vm_id] - vm.logged_in, vm.logged_in - said[vm.vm_id]) for vm in there]


def changes(known: KnownHost, report: Heard, now: datetime) -> list[Change]:
    """What the host's answer, or its silence, makes of the host and of its VMs."""
    if isinstance(report, OtherVersion):
        event = "unfit" if HOST.may(known.state, "unfit") else None
        return [Change("host", known.host_id, known.state, event, {"reported_at": now, "silences": 0, "why": report.why})]
    return _silent(known, now) if report is None else [*_answered(known, report, now), *_vms(known, report, now)]


def _answered(known: KnownHost, report: HostReport, now: datetime) -> list[Change]:
    sets = {
        "reported_at": now,
        "silences": 0,
        "hypervisor": report.hypervisor,
        "agent_version": report.agent_version,
        "boot_id": report.boot_id,
        "cpus": report.cpus,
        "memory_mib": report.memory_mib,
        "memory_free_mib": report.memory_free_mib,
        "load1": report.load1,
        "virt_type": report.virt_type,
        "networks": sorted(report.networks),
        "cpu_seen": report.cpu,
        "cpu_percent": report.cpu_percent,
        "swap_mib": report.swap_mib,
        "swap_free_mib": report.swap_free_mib,
        "network_mib_s": report.network_mib_s,
        "why": unfit(known, report),
    }
    event = "answered" if HOST.may(known.state, "answered") else None
    if known.for_maintenance and HOST.may(known.state, "leaves"):
        event = "leaves"
    if sets["why"]:
        event = "unfit" if HOST.may(known.state, "unfit") else None
    elif known.state == "error":
        if known.error_until is None or now >= known.error_until:
            event = "recovered"
        else:
            del sets["why"]  # it stands until then
    if known.state == "preparing_for_maintenance" and not known.vms:
        event = "emptied"
    return [Change("host", known.host_id, known.state, event, sets)]


def unfit(known: KnownHost, report: HostReport) -> str:
    """Why a host that answers cannot run its cluster's VMs; nothing when it can."""
    told = (_networks(known.needs - set(report.networks)), _cpu(known.cpu_lacks), known.storage_lacks)
    return " ".join(filter(None, told))


def _cpu(lacks: str) -> str:
    if not lacks:
        return ""
    return f"It cannot give VMs the CPU of its cluster: {lacks} Choose a lower CPU for the cluster, or another cluster."


def _networks(missing: frozenset[str]) -> str:
    lacking = sorted(missing)
    if not lacking:
        return ""
    names, are = ", ".join(lacking), "networks {} are" if len(lacking) > 1 else "network {} is"
    return f"The {are.format(names)} missing: make a bridge of that name on the host, or take it from the cluster."


def _silent(known: KnownHost, now: datetime) -> list[Change]:
    silence = now - known.answered_at
    if HOST.may(known.state, "silent") and silence >= SILENT_AFTER:
        return [Change("host", known.host_id, known.state, "silent", {})]
    if known.state == "connecting" and silence >= LOST_AFTER:
        return [
            Change("host", known.host_id, known.state, "lost", {}),
            *(Change("vm", vm.vm_id, vm.state, "host_silent", {}) for vm in known.vms if VM.may(vm.state, "host_silent")),
        ]
    return []


def _vms(known: KnownHost, report: HostReport, now: datetime) -> list[Change]:
    running = {vm.vm_id: vm for vm in report.vms if vm.state != "off"}
    ended = {end.vm_id: end.by for end in report.ended}
    found = []
    for vm in known.vms:
        if vm.state in _MAY_RUN:
            change = _there(vm, running[vm.vm_id], now) if vm.vm_id in running else _gone(vm, ended.get(vm.vm_id))
            if change is not None:
                found.append(change)
    return found


def _gone(vm: KnownVm, by: str | None) -> Change:
    # on the way down it was expected; the task that asked for it may record it first, which is as good
    by_itself = {"guest": "shut_itself_down", "crashed": "crashed"}.get(by or "", "died")
    event = "stopped" if vm.state == "powering_down" else by_itself
    why = {"why": ENDED[event]} if event in ENDED else {}
    # a host that saw it end says how: who does not was not there, so the host or its agent was started again
    return Change("vm", vm.vm_id, vm.state, event, {"host_id": None, "guest": None, "ended_by": by or "lost", **why})


def _there(vm: KnownVm, report: VmReport, now: datetime) -> Change | None:
    guest = (
        None
        if report.guest is None
        else {
            "hostname": report.guest.hostname,
            "os": report.guest.os,
            "ips": list(report.guest.ips),
            "users": list(report.guest.users),
        }
    )
    event = None
    sets: dict[str, Any] = {} if guest is None or guest == vm.guest else {"guest": guest}
    if vm.state == "unknown":
        event = "seen_paused" if report.state == "paused" else "seen_running"
    elif vm.state in ("up", "powering_up") and report.state == "paused":
        event = "stall" if report.paused_for in STALLS else "pause"
    elif vm.state == "paused" and report.state == "running":
        event, sets["why"] = "begin" if vm.pause == "start" else "resume", ""
    elif vm.state == "powering_up" and guest is not None:
        event = "booted"
    elif vm.state == "up" and vm.boots is not None and report.boots > vm.boots:
        event = "rebooted_itself"
    if report.state == "paused" and (event or vm.pause not in ("start", report.paused_for or "other")):
        sets |= {"pause": report.paused_for or "other", "paused_at": now, "why": STALLS.get(report.paused_for, "")}
    if vm.boots != report.boots:
        sets["boots"] = report.boots
    return Change("vm", vm.vm_id, vm.state, event, sets) if event or sets else None
