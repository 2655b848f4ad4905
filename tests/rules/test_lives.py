"""Stalls, runs that are otherwise, edits for the next start, addresses of network cards: pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from backend.errors import Invalid
from backend.hosts.rules import KnownHost, KnownVm, changes
from backend.vms import edits, once
from backend.vms.rules import next_mac, require_nic
from backend.vms.stalls import Stall, due
from hostapi.types import HostReport, VmEnd, VmReport

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
S = timedelta(seconds=1)
STALL = Stall("ioerror", "auto_resume", NOW - 60 * S, None, True)
VM = uuid4()


@pytest.mark.parametrize(("stall", "what"), [
    (STALL, "unpause"),
    (replace(STALL, pause="enospc"), "unpause"),
    (replace(STALL, pause="asked"), None),  # somebody wanted it
    (replace(STALL, pause="start"), None),
    (replace(STALL, behaviour="leave_paused"), None),
    (replace(STALL, behaviour="kill"), "stop"),
    (replace(STALL, well=False), None),
    (replace(STALL, well=False, behaviour="kill"), None),
    (replace(STALL, paused_at=NOW - 9 * S), None),
    (replace(STALL, tried_at=NOW - 59 * S), None),
    (replace(STALL, tried_at=NOW - 60 * S), "unpause"),
    (replace(STALL, tried_at=NOW + 3600 * S), "unpause"),  # the clock was turned back
])
def test_what_becomes_of_a_stalled_vm(stall: Stall, what: str | None) -> None:
    assert due(stall, NOW) == what


def heard(vm: KnownVm, *said: VmReport, ended: tuple[VmEnd, ...] = ()) -> tuple[str | None, dict[str, object]] | None:
    report = HostReport("alpha", "boot-1", "1", "QEMU", "qemu", 8, 16_384, 8_000, 0.5, said, (), ended)
    found = [c for c in changes(KnownHost(uuid4(), "up", NOW, (vm,)), report, NOW) if c.kind == "vm"]
    return (found[0].event, found[0].sets) if found else None


def test_why_a_vm_is_paused_is_heard() -> None:
    paused = VmReport(VM, "w7", "paused", paused_for="enospc")
    event, sets = heard(KnownVm(VM, "up", None), paused) or (None, {})
    assert (event, sets["pause"], sets["paused_at"]) == ("stall", "enospc", NOW)
    assert heard(KnownVm(VM, "paused", None, pause="enospc"), paused) is None
    assert heard(KnownVm(VM, "paused", None, pause="start"), replace(paused, paused_for="asked")) is None
    assert (heard(KnownVm(VM, "paused", None, pause="start"), replace(paused, state="running")) or ("",))[0] == "begin"
    assert (heard(KnownVm(VM, "powering_up", None), replace(paused, paused_for="asked")) or ("",))[0] == "pause"


def test_a_reboot_is_news_once_and_only_when_nobody_asked_for_it() -> None:
    running = VmReport(VM, "w7", "running", boots=2)
    assert heard(KnownVm(VM, "up", None, boots=1), running) == ("rebooted_itself", {"boots": 2})
    assert heard(KnownVm(VM, "up", None, boots=2), running) is None
    assert heard(KnownVm(VM, "up", None, boots=None), running) == (None, {"boots": 2})  # a new run, or a reboot that was wanted
    assert heard(KnownVm(VM, "up", None, boots=5), running) == (None, {"boots": 2})  # the agent counts anew
    assert heard(KnownVm(VM, "reboot_in_progress", None, boots=1), running) == (None, {"boots": 2})


@pytest.mark.parametrize(("by", "event", "why"), [
    ("guest", "shut_itself_down", "It was shut down from inside."),
    ("crashed", "crashed", "Its guest crashed: the kernel panicked."),
    ("failed", "died", None), ("host", "died", None), (None, "died", None),
])
def test_how_a_vm_ended_is_heard(by: str | None, event: str, why: str | None) -> None:
    ended = (VmEnd(VM, by),) if by else ()  # type: ignore[arg-type]
    heard_of = heard(KnownVm(VM, "up", None), ended=ended)
    assert heard_of is not None and (heard_of[0], heard_of[1].get("why")) == (event, why)
    assert (heard(KnownVm(VM, "powering_down", None), ended=ended) or ("",))[0] == "stopped"


HAS = {"memory_mib": 256, "vcpus": 1, "max_memory_mib": 1024, "max_vcpus": 4, "video": "virtio", "protocols": ["vnc"],
       "description": "", "guest_agent": True, "boot_timeout_s": 60, "resume_behaviour": "auto_resume"}  # fmt: skip


@pytest.mark.parametrize(("before", "wanted", "now", "later", "grow"), [
    ({}, {"description": "x"}, {"description": "x"}, {}, {}),
    ({}, {"description": ""}, {}, {}, {}),
    ({}, {"video": "vga"}, {}, {"video": "vga"}, {}),
    ({"video": "vga"}, {"video": "virtio"}, {}, {}, {}),  # taken back
    ({"video": "vga"}, {"vcpus": 9}, {}, {"video": "vga", "vcpus": 9}, {}),
    ({}, {"memory_mib": 512, "vcpus": 4}, {}, {"memory_mib": 512, "vcpus": 4}, {"memory_mib": 512, "vcpus": 4}),
    ({}, {"memory_mib": 500}, {}, {"memory_mib": 500}, {}),  # no whole module
    ({}, {"memory_mib": 128}, {}, {"memory_mib": 128}, {}),
    ({}, {"memory_mib": 1152}, {}, {"memory_mib": 1152}, {}),
    ({"memory_mib": 512}, {"description": "x"}, {"description": "x"}, {"memory_mib": 512}, {}),  # it was tried when it was wanted
])
def test_an_edit_of_a_running_vm(before: dict, wanted: dict, now: dict, later: dict, grow: dict) -> None:
    assert edits.split(HAS, before, wanted, runs=True) == edits.Edit(now, later, grow)
    off = edits.split(HAS, before, wanted, runs=False)
    assert off == edits.Edit(now | later, {}, {})


def test_what_waits_is_told() -> None:
    assert edits.told(HAS, {"memory_mib": 2048, "vcpus": 2, "protocols": ["vnc", "spice"]}) == (
        "memory 256 → 2,048 MiB, processors 1 → 2, consoles vnc → vnc, spice")  # fmt: skip
    assert edits.told(HAS, None) == ""


BOOT = {"kernel": "/srv/k", "initrd": "/srv/i", "cmdline": "quiet"}


@pytest.mark.parametrize(("usual", "given", "boot"), [
    (BOOT, {}, BOOT),
    (None, {}, None),
    (BOOT, {"boot_from": ["cd"]}, None),
    (BOOT, {"cmdline": "single"}, {**BOOT, "cmdline": "single"}),
    (BOOT, {"boot_from": ["cd"], "kernel": "/srv/k2"}, {**BOOT, "kernel": "/srv/k2"}),
    (None, {"kernel": "/srv/k", "initrd": "/srv/i"}, {"kernel": "/srv/k", "initrd": "/srv/i", "cmdline": ""}),
])
def test_what_a_run_boots(usual: dict | None, given: dict, boot: dict | None) -> None:
    assert once.boot_of(usual, given) == boot


@pytest.mark.parametrize("iso", ["../x.iso", "/etc/x.iso", "volumes/x.qcow2", "a/../b.iso", "x.iso\n", ".x.iso", "a//b.iso"])
def test_an_iso_file_is_called_so_and_lies_below(iso: str) -> None:
    with pytest.raises(Invalid):
        once.require_once((), iso, None, None)


def test_addresses_of_network_cards() -> None:
    assert next_mac(None) == "02:4c:48:00:00:01"
    assert next_mac("02:4c:48:00:00:ff") == "02:4c:48:00:01:00"
    with pytest.raises(Invalid):
        next_mac("02:4c:48:ff:ff:ff")
    require_nic("52:54:00:12:34:56", "br0", "virtio")
    for mac, bridge, model in (("53:54:00:12:34:56", "br0", "virtio"), ("x", "br0", "virtio"), ("", "a b", "virtio"),
                               ("", "", "virtio"), ("", "a-name-that-is-too-long", "virtio"), ("", "br0", "ne2k")):
        with pytest.raises(Invalid):
            require_nic(mac, bridge, model)
