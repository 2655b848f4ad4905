"""What the agent does when libvirt is away, and when guests hang, lie or draw nonsense."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from PIL import Image

from agent.config import AgentConfig, load, save
from agent.deadline import Overdue, within
from agent.guests import MOST_AT_ONCE, Guests
from agent.pictures import Pictures
from agent.service import AgentService
from agent.shell import ProgramFailed, run
from hostapi.client import HostUnreachable
from hostapi.desk import Desk
from hostapi.journal import Journal
from hostapi.types import GuestReport
from hostapi.verbs import HostRefused


def wait(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


ANSWERS: dict[str, Any] = {
    "guest-ping": {},
    "guest-get-host-name": {"host-name": "w1"},
    "guest-get-osinfo": {"pretty-name": "Debian GNU/Linux 12", "name": "Debian"},
    "guest-network-get-interfaces": [
        {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1"}, {"ip-address": "::1"}]},
        {"name": "eth0", "ip-addresses": [{"ip-address": "10.0.0.5"}, {"ip-address": "fe80::1"}, {"ip-address": "fd00::5"}]},
        {"name": "down"},
    ],
    "guest-get-users": [{"user": "bob"}, {"user": "alice"}, {"user": "bob"}],
}


# -- libvirt is away -----------------------------------------------------------------------------------
def test_without_libvirt_there_is_no_report_rather_than_an_empty_one(tmp_path: Path) -> None:
    config = AgentConfig("h1", f"qemu+unix:///system?socket={tmp_path}/nowhere", storage_roots=(str(tmp_path),))
    desk = Desk(AgentService(config, tmp_path), Journal(None))
    with pytest.raises(HostUnreachable, match="Is libvirtd running") as no:
        desk.report()
    assert no.value.code == "hypervisor_down"
    with pytest.raises(HostRefused):
        desk.question("report", {})


# -- guests ----------------------------------------------------------------------------------------------
def test_a_guest_is_asked_in_the_background() -> None:
    vm_id, guests = uuid4(), Guests(lambda _, command: ANSWERS[command])
    wait(lambda: guests.last([vm_id])[vm_id] is not None)
    expected = GuestReport("w1", "Debian GNU/Linux 12", ("10.0.0.5", "fd00::5"), ("alice", "bob"))
    assert guests.last([vm_id]) == {vm_id: expected}
    assert guests.last([]) == {}
    assert guests.ask_now(vm_id) == expected


def test_a_guest_that_hangs_holds_nobody_up_and_is_asked_once() -> None:
    hung, well, asked, release = uuid4(), uuid4(), [], threading.Event()

    def ask(vm_id: UUID, command: str) -> Any:
        if vm_id == hung:
            asked.append(command)
            release.wait(30)
        return ANSWERS[command]

    guests = Guests(ask)
    wait(lambda: guests.last([hung, well])[well] is not None)
    for _ in range(50):
        assert guests.last([hung, well])[hung] is None
    assert asked == ["guest-ping"]
    release.set()
    wait(lambda: guests.last([hung, well])[hung] is not None)


def test_more_hung_guests_than_may_be_asked_at_a_time_are_no_trouble() -> None:
    release = threading.Event()

    def ask(_: UUID, command: str) -> Any:
        release.wait(30)
        return ANSWERS[command]

    guests, vm_ids = Guests(ask), [uuid4() for _ in range(3 * MOST_AT_ONCE)]
    for _ in range(5):
        guests.last(vm_ids)
    release.set()
    wait(lambda: all(guests.last(vm_ids).get(vm_id) for vm_id in vm_ids))


@pytest.mark.parametrize("lie", [
    None, [], {}, "text", 5, [None], [{"user": None}], [{"user": {"a": 1}}], [{"ip-addresses": 5}], {"host-name": ["x"]},
    [{"ip-addresses": [{"ip-address": "x" * 10_000}]}] * 10_000, {"host-name": "y" * 100_000, "pretty-name": {"z": 1}},
    ConnectionError("no"),
])
def test_a_guest_that_lies_is_heard_with_care(lie: Any) -> None:
    def ask(_: UUID, command: str) -> Any:
        if command == "guest-ping":
            return {}
        if isinstance(lie, Exception):
            raise lie
        return lie

    report = Guests(ask).ask_now(uuid4())
    assert len(report.hostname or "") <= 200 and len(report.os or "") <= 200
    assert len(report.ips) <= 5000 and all(len(ip) <= 45 for ip in report.ips)
    assert all(len(user) <= 64 for user in report.users)


def test_what_is_known_of_a_vms_last_run_is_forgotten() -> None:
    vm_id, answers, release = uuid4(), threading.Event(), threading.Event()
    answers.set()

    def ask(_: UUID, command: str) -> Any:
        if not answers.is_set():
            release.wait(30)
        return ANSWERS[command]

    guests = Guests(ask)
    guests.ask_now(vm_id)
    assert guests.last([vm_id])[vm_id] is not None
    answers.clear()
    guests.forget(vm_id)
    assert guests.last([vm_id]) == {vm_id: None}
    release.set()


# -- pictures --------------------------------------------------------------------------------------------
def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(("size", "expected"), [((1920, 1080), (480, 270)), ((100, 50), (100, 50)), ((600, 4800), (60, 480))])
def test_pictures_become_small(size: tuple[int, int], expected: tuple[int, int]) -> None:
    vm_id = uuid4()
    (screen,) = Pictures(lambda _: png(*size)).take((vm_id,))
    assert (screen.width, screen.height) == expected
    assert Image.open(io.BytesIO(screen.webp)).size == expected


def test_what_is_no_picture_is_left_out() -> None:
    good, bad, off, refused = (uuid4() for _ in range(4))

    def shoot(vm_id: UUID) -> bytes | None:
        if vm_id == refused:
            raise HostRefused("hypervisor_silent", "It hangs.")
        return {good: png(8, 8), bad: b"P6 nonsense", off: None}[vm_id]

    screens = Pictures(shoot).take((bad, off, good, refused, good))
    assert {screen.vm_id for screen in screens} == {good}


# -- the small parts -------------------------------------------------------------------------------------
def test_a_call_that_hangs_is_left_behind() -> None:
    release = threading.Event()
    with pytest.raises(Overdue):
        within(0.1, lambda: release.wait(30))
    release.set()
    assert within(10, lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 // 0)


def test_a_program_that_hangs_is_ended_with_its_children() -> None:
    with pytest.raises(ProgramFailed, match="did not end within"):
        run(["sh", "-c", "sleep 300 & wait"], timeout_s=0.5)
    with pytest.raises(ProgramFailed, match="not installed"):
        run(["no-such-program-anywhere"])
    with pytest.raises(ProgramFailed, match="oh no"):
        run(["sh", "-c", "echo oh no >&2; exit 3"])
    assert run(["echo", "hello"]) == "hello\n"


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    config = AgentConfig('Büro "1" \\ <x>', "qemu:///system", "::", 1, 2, ("/srv/a b", "/srv/ü"), "kvm")
    save(tmp_path, config)
    assert load(tmp_path) == config
    (tmp_path / "agent.toml").write_text('name = "x"\nport = "many"\n')
    with pytest.raises(ValueError, match="cannot be used"):
        load(tmp_path)
