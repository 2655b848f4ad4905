"""The guest image boots in a real QEMU, shows its screen, takes keys, and answers the agent's questions."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from standalone.guest import CMDLINE, MEMORY_MIB, GuestImage, build


class Line:
    """A JSON line protocol on a Unix socket: QMP, and the guest agent's."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        _until(lambda: self._connected(path), "the socket is there")
        self.file = self.socket.makefile("rw")

    def _connected(self, path: Path) -> bool:
        try:
            self.socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def ask(self, execute: str, /, **arguments: Any) -> Any:
        self.file.write(json.dumps({"execute": execute, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]


class Machine:
    """The guest on a fresh overlay, under TCG, with a monitor, an agent channel and a NIC."""

    def __init__(self, image: GuestImage, folder: Path) -> None:
        self.folder = folder
        overlay = folder / "overlay.qcow2"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image.disk, overlay], check=True
        )
        self.qemu = subprocess.Popen([
            "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none",
            "-kernel", image.kernel, "-initrd", image.initrd, "-append", CMDLINE.format(name="blue-door"),
            "-drive", f"file={overlay},if=virtio", "-vga", "virtio", "-serial", f"file:{folder}/serial",
            "-netdev", "user,id=n,restrict=on", "-device", "virtio-net-pci,netdev=n,romfile=",
            "-device", "virtio-serial", "-chardev", f"socket,id=a,path={folder}/agent,server=on,wait=off",
            "-device", "virtserialport,chardev=a,name=org.qemu.guest_agent.0",
            "-qmp", f"unix:{folder}/qmp,server=on,wait=off",
        ])  # fmt: skip
        self.monitor = Line(folder / "qmp")
        self.monitor.file.readline()
        self.monitor.ask("qmp_capabilities")
        self.agent = Line(folder / "agent")
        self.agent.ask("guest-ping")  # the channel keeps the question until the agent is up

    def close(self) -> None:
        self.qemu.kill()
        self.qemu.wait()
        for line in (self.monitor, self.agent):
            line.file.close()
            line.socket.close()

    def sh(self, script: str) -> str:
        started = self.agent.ask("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})
        while not (status := self.agent.ask("guest-exec-status", pid=started["pid"]))["exited"]:
            time.sleep(0.05)
        return base64.b64decode(status.get("out-data", "")).decode()

    def type(self, text: str) -> None:
        named = {" ": "spc", "\n": "ret", "-": "minus", ".": "dot", "/": "slash"}
        for letter in text:
            keys = [{"type": "qcode", "data": named.get(letter, letter)}]
            if letter == ">":
                keys = [{"type": "qcode", "data": "shift"}, {"type": "qcode", "data": "dot"}]
            self.monitor.ask("send-key", keys=keys, **{"hold-time": 20})
            time.sleep(0.06)

    def screen(self) -> Image.Image:
        file = self.folder / "screen.ppm"
        self.monitor.ask("screendump", filename=str(file))
        return Image.open(file).convert("RGB")


def _until(true: Any, what: str, patience_s: float = 120) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, f"not within {patience_s} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> GuestImage:
    return build(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def machine(image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(image, tmp_path_factory.mktemp("machine"))
    yield made
    made.close()


pytestmark = pytest.mark.lab


def test_a_second_build_takes_the_finished_files(image: GuestImage) -> None:
    before = image.disk.stat().st_mtime_ns
    assert build(image.disk.parent) == image
    assert image.disk.stat().st_mtime_ns == before


def test_the_agent_tells_what_a_portal_wants_to_know(machine: Machine) -> None:
    assert machine.agent.ask("guest-get-osinfo")["pretty-name"] == "Leasehold Guest 1.0"
    assert machine.agent.ask("guest-get-host-name")["host-name"] == "blue-door"
    _until(lambda: machine.agent.ask("guest-get-users"), "somebody is signed in at the console")
    assert [person["user"] for person in machine.agent.ask("guest-get-users")] == ["guest"]

    def address() -> list[str]:
        nics = machine.agent.ask("guest-network-get-interfaces")
        return [a["ip-address"] for nic in nics if nic["name"] == "eth0" for a in nic.get("ip-addresses", [])]

    _until(lambda: "10.0.2.15" in address(), "an address by DHCP")


def test_a_password_set_from_outside_is_the_guests_password(machine: Machine) -> None:
    password = base64.b64encode(b"open sesame").decode()
    machine.agent.ask("guest-set-user-password", username="guest", password=password, crypted=False)
    hashed = machine.sh("awk -F: '$1 == \"guest\" { print $2 }' /etc/shadow").strip()
    salt = hashed.split("$")[2]
    assert machine.sh(f"mkpasswd -m sha512 -S {salt} 'open sesame'").strip() == hashed


def test_the_screen_shows_the_name_and_a_clock_that_ticks(machine: Machine) -> None:
    first = machine.screen()
    assert len(first.getcolors(1 << 20)) > 4, "a blue banner with white, yellow and green words"
    clock = (0, 4 * 16, 720, 5 * 16)  # the fifth of 25 rows
    _until(lambda: machine.screen().crop(clock).tobytes() != first.crop(clock).tobytes(), "the clock moved")


def test_keys_typed_at_the_console_reach_the_shell(machine: Machine) -> None:
    machine.type("echo typed-here > /tmp/proof\n")
    _until(
        lambda: machine.sh("cat /tmp/proof 2>/dev/null").strip() == "typed-here",
        "the shell ran what was typed",
    )


@pytest.mark.parametrize("ask", ["button", "agent"])
def test_it_shuts_down_when_asked(image: GuestImage, tmp_path: Path, ask: str) -> None:
    machine = Machine(image, tmp_path)
    try:
        if ask == "button":
            machine.monitor.ask("system_powerdown")
        else:
            request = {"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}}
            machine.agent.file.write(json.dumps(request) + "\n")
            machine.agent.file.flush()
        assert machine.qemu.wait(120) == 0
        subprocess.run(["qemu-img", "check", "-q", tmp_path / "overlay.qcow2"], check=True)
    finally:
        machine.close()
