"""Monitoring: known rows + a report, or silence, -> changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from backend.hosts.rules import KnownHost, KnownVm, changes, usages
from hostapi.types import GuestReport, HostReport, VmReport

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOST, VM = uuid4(), uuid4()
GUEST = GuestReport("w7", "Leasehold Guest", ("10.0.0.7",), ("anna",))
GUEST_ROW = {"hostname": "w7", "os": "Leasehold Guest", "ips": ["10.0.0.7"], "users": ["anna"]}


def report(*vms: VmReport) -> HostReport:
    return HostReport("alpha", "boot-1", "1", "QEMU 7.2", "qemu", 8, 16_384, 8_000, 0.5, vms)


def known(*vms: KnownVm, state: str = "up", silent_s: float = 0) -> KnownHost:
    return KnownHost(HOST, state, NOW - timedelta(seconds=silent_s), vms)


def vm_events(found: list) -> list[str | None]:
    return [c.event for c in found if c.kind == "vm"]


@pytest.mark.parametrize(
    "state, running, event",
    [
        ("up", VmReport(VM, "w7", "running", GUEST), None),
        ("up", VmReport(VM, "w7", "paused", GUEST), "pause"),
        ("paused", VmReport(VM, "w7", "running", GUEST), "resume"),
        ("powering_up", VmReport(VM, "w7", "running"), None),
        ("powering_up", VmReport(VM, "w7", "running", GUEST), "booted"),
        ("unknown", VmReport(VM, "w7", "running", GUEST), "seen_running"),
        ("unknown", VmReport(VM, "w7", "paused", GUEST), "seen_paused"),
        ("up", None, "died"),
        ("paused", None, "died"),
        ("powering_up", None, "died"),
        ("unknown", None, "died"),
        ("up", VmReport(VM, "w7", "off"), "died"),
        ("powering_down", None, "stopped"),
        ("wait_for_launch", None, None),  # its task knows better
        ("image_locked", None, None),
    ],
)
def test_vms(state: str, running: VmReport | None, event: str | None) -> None:
    found = changes(known(KnownVm(VM, state, GUEST_ROW)), report(*[running] if running else []), NOW)
    assert vm_events(found) == ([event] if event else [])


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(("vm", "cpu_s", "usage"), [
    (KnownVm(VM, "up", None, NOW - 60 * SECOND, 2, 10.0, NOW - 10 * SECOND), 15.0, 25.0),  # 5 s of 10 s on two
    (KnownVm(VM, "up", None, NOW - 60 * SECOND, 1, 10.0, NOW - 10 * SECOND), 10.0, 0.0),
    (KnownVm(VM, "up", None, NOW - 60 * SECOND, 1, 10.0, NOW - 10 * SECOND), 99.0, 100.0),
    (KnownVm(VM, "up", None, NOW - 60 * SECOND, 1, 10.0, NOW - 9 * SECOND), 15.0, "too early"),
    (KnownVm(VM, "up", None, NOW - 60 * SECOND, 1, 0.0, None), 15.0, None),  # the first sample
    (KnownVm(VM, "up", None, NOW - 5 * SECOND, 1, 10.0, NOW - 10 * SECOND), 15.0, None),  # of another run
    (KnownVm(VM, "up", None, NOW - 60 * SECOND, 1, 10.0, NOW - 1 * SECOND), 3.0, None),  # its counter began anew
    (KnownVm(VM, "up", None, NOW - 60 * SECOND, 1, 10.0, NOW + 9 * SECOND), 15.0, None),  # the clock was turned back
    (KnownVm(VM, "image_locked", None), 15.0, "too early"),
])
def test_usage_is_the_difference_of_two_samples(vm: KnownVm, cpu_s: float, usage: float | str | None) -> None:
    found = usages(known(vm), report(VmReport(VM, "w7", "running", GUEST, 512, cpu_s)), NOW)
    assert [(u.cpu_usage, u.cpu_s, u.memory_given_mib) for u in found] == ([] if usage == "too early" else [(usage, cpu_s, 512)])


def test_a_new_word_from_the_guest_is_kept_and_an_old_one_is_no_change() -> None:
    said = report(VmReport(VM, "w7", "running", GUEST))
    assert [c.sets for c in changes(known(KnownVm(VM, "up", None)), said, NOW) if c.kind == "vm"] == [{"guest": GUEST_ROW}]
    assert vm_events(changes(known(KnownVm(VM, "up", GUEST_ROW)), said, NOW)) == []


@pytest.mark.parametrize(
    "state, silent_s, events",
    [
        ("up", 5, []),
        ("up", 10, ["silent"]),
        ("up", 3600, ["silent"]),
        ("connecting", 30, []),
        ("connecting", 60, ["lost", "host_silent"]),
        ("non_responsive", 9999, []),
        ("maintenance", 9999, []),
    ],
)
def test_silence_proves_nothing_about_vms(state: str, silent_s: float, events: list[str]) -> None:
    found = changes(known(KnownVm(VM, "up", None), state=state, silent_s=silent_s), None, NOW)
    assert [c.event for c in found] == events


def test_an_answer_brings_a_host_back_and_empties_one() -> None:
    assert [c.event for c in changes(known(state="connecting"), report(), NOW)] == ["answered"]
    assert [c.event for c in changes(known(state="preparing_for_maintenance"), report(), NOW)] == ["emptied"]
    busy = known(KnownVm(VM, "up", None), state="preparing_for_maintenance")
    assert changes(busy, report(VmReport(VM, "w7", "running")), NOW)[0].event is None
