"""The agent as a process of its own on real QEMU guests: consoles, kills, and guests that hang."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from PIL import Image

from agent import config as settings
from agent.config import AgentConfig
from hostapi.client import HostClient, HostUnreachable, client_context
from hostapi.types import BootSpec, DiskSpec, HostReport, Outcome, Secret, TicketSpec, VmSpec, VolumeSpec
from standalone import guest
from tests.displays import spice_lets_in, vnc_lets_in
from tests.libvirtd import PrivateLibvirtd
from tests.pki import Pki

pytestmark = pytest.mark.lab
ROOT = Path(__file__).parents[2]
BOOT_S = 240


def wait(true: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.1)


class Agent:
    """`python -m agent run` in a folder of its own, with a volume root beside it."""

    def __init__(self, folder: Path, uri: str, pki: Pki) -> None:
        self.state, self.root, self.pki, self.uri = folder / "state", folder / "storage", pki, uri
        self.state.mkdir()
        self.root.mkdir()
        certificate = pki.issue("host", folder.name)
        for name, file in zip(("ca.pem", "cert.pem", "key.pem"), certificate, strict=True):
            shutil.copy(file, self.state / name)
        self.port, self.console_port = _free_port(), _free_port()
        roots = (str(self.root),)
        settings.save(self.state, AgentConfig("h1", uri, "127.0.0.1", self.port, self.console_port, roots))
        self.client = HostClient("127.0.0.1", self.port, client_context(*pki.issue("manager")))
        self.gateway = client_context(*pki.issue("gateway"))
        self.made: list[UUID] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run", "--state", str(self.state)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "READY\n"

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def ask(self, verb: str, uid: UUID | None = None, within_s: float = 90.0, **args: Any) -> Outcome:
        uid, end = uid or uuid4(), time.monotonic() + within_s
        while (outcome := self.client.ask(uid, verb, args, wait_s=1)).state == "running":
            assert time.monotonic() < end, outcome
        return outcome

    def done(self, verb: str, **args: Any) -> Any:
        outcome = self.ask(verb, **args)
        assert outcome.state == "done", outcome
        return outcome.result

    def vm(self, image: guest.GuestImage | None = None) -> VmSpec:
        """A VM that runs; without an image, one that only sits there."""
        vm_id, path = uuid4(), str(self.root / "domain")
        self.done("attach_domain", path=path)
        name, boot = f"vm-{vm_id.hex[:8]}", None
        volume = VolumeSpec(uuid4(), path, 16)
        if image is not None:
            for file in (image.kernel, image.initrd, image.disk):
                if not (self.root / file.name).exists():
                    shutil.copy(file, self.root / file.name)
            volume = VolumeSpec(uuid4(), path, guest.DISK_MIB, str(self.root / image.disk.name))
            boot = BootSpec(
                str(self.root / image.kernel.name), str(self.root / image.initrd.name), guest.CMDLINE.format(name=name)
            )
        disk = DiskSpec(volume.volume_id, self.done("create_volume", volume=volume))
        spec = VmSpec(vm_id, name, guest.MEMORY_MIB if boot else 32, 1, "qemu", (disk,), boot=boot)
        self.made.append(vm_id)
        self.done("start_vm", spec=spec)
        return spec

    def ticket(self, spec: VmSpec, protocol: str, password: str, issued_ms: int, valid_s: int = 120) -> None:
        ticket = TicketSpec(uuid4(), protocol, Secret("display:x", password), valid_s, issued_ms)  # type: ignore[arg-type]
        self.done("set_ticket", vm_id=spec.vm_id, ticket=ticket)

    def console(self, spec: VmSpec, protocol: str) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.console_port), timeout=30)
        sock = self.gateway.wrap_socket(plain, server_hostname="127.0.0.1")
        sock.sendall(json.dumps({"vm_id": str(spec.vm_id), "protocol": protocol}).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += sock.recv(1)
        assert json.loads(answer) == {"ok": True}
        return sock

    def vnc(self, spec: VmSpec, password: str) -> bool:
        with self.console(spec, "vnc") as sock:
            return vnc_lets_in(sock, password)

    def spice(self, spec: VmSpec, password: str) -> bool:
        with self.console(spec, "spice") as sock:
            return spice_lets_in(sock, password)

    def running(self) -> set[UUID]:
        return {vm.vm_id for vm in self.client.report().vms if vm.vm_id in self.made}


@pytest.fixture
def agent(private_libvirtd: PrivateLibvirtd, pki: Pki) -> Iterator[Agent]:
    folder = Path(tempfile.mkdtemp(prefix="lh-agent-"))
    agent = Agent(folder, private_libvirtd.uri, pki)
    try:
        yield agent
        for vm_id in agent.made:
            agent.done("stop_vm", vm_id=vm_id)
    finally:
        agent.kill()
        agent.client.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> guest.GuestImage:
    return guest.build(tmp_path_factory.mktemp("guest"))


def test_a_display_opens_to_the_newest_ticket_alone(agent: Agent) -> None:
    spec = agent.vm()
    assert not agent.vnc(spec, "closed")  # the password it was made with has never been good
    agent.ticket(spec, "vnc", "sesame12", issued_ms=10)
    assert agent.vnc(spec, "sesame12")
    assert not agent.vnc(spec, "sesame13")
    agent.ticket(spec, "vnc", "newer123", issued_ms=20)
    assert agent.vnc(spec, "newer123") and not agent.vnc(spec, "sesame12")
    agent.ticket(spec, "vnc", "older123", issued_ms=15)
    assert agent.vnc(spec, "newer123") and not agent.vnc(spec, "older123")
    agent.kill()
    agent.start()
    agent.ticket(spec, "vnc", "older123", issued_ms=15)  # not even after a restart
    assert agent.vnc(spec, "newer123") and not agent.vnc(spec, "older123")


def test_spice_and_vnc_have_tickets_of_their_own(agent: Agent) -> None:
    spec = agent.vm()
    agent.ticket(spec, "vnc", "forvnc12", issued_ms=10)
    assert not agent.spice(spec, "forvnc12") and not agent.spice(spec, "closed")
    agent.ticket(spec, "spice", "forspice", issued_ms=5)
    assert agent.spice(spec, "forspice")
    assert agent.vnc(spec, "forvnc12") and not agent.vnc(spec, "forspice")


def test_a_ticket_ends(agent: Agent) -> None:
    spec = agent.vm()
    agent.ticket(spec, "vnc", "sesame12", issued_ms=10, valid_s=5)
    wait(lambda: not agent.vnc(spec, "sesame12"), "the password is no good any more")
    agent.ticket(spec, "vnc", "sesame12", issued_ms=11, valid_s=0)
    wait(lambda: not agent.vnc(spec, "sesame12"), "a ticket without time opens nothing")


def test_displays_listen_on_loopback_alone(agent: Agent) -> None:
    spec = agent.vm()
    xml = subprocess.run(["virsh", "-c", agent.uri, "dumpxml", spec.name], capture_output=True, text=True, check=True).stdout
    displays = [one for one in ET.fromstring(xml).iterfind("devices/graphics")]
    ports = {int(one.get("port", "0")) for one in displays}
    assert len(ports) == 2 and 0 not in ports
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {
        one[1].split(":")[0] for one in listening if one[3] == "0A" and int(one[1].split(":")[1], 16) in ports
    }
    assert addresses == {"0100007F"}


def test_an_agent_killed_while_a_guest_boots_goes_on_waiting_for_it(agent: Agent, image: guest.GuestImage) -> None:
    spec, uid = agent.vm(image), uuid4()
    args = {"vm_id": spec.vm_id, "timeout_s": BOOT_S}
    assert agent.client.ask(uid, "await_boot", args, wait_s=0).state == "running"
    agent.kill()
    with pytest.raises(HostUnreachable):
        agent.client.report()
    agent.start()
    assert agent.running() == {spec.vm_id}
    outcome = agent.ask("await_boot", uid, within_s=BOOT_S, **args)
    assert outcome.state == "done" and outcome.result.hostname == spec.name
    agent.done("shutdown_vm", vm_id=spec.vm_id, timeout_s=60)
    assert agent.running() == set()


def test_a_suspended_guest_goes_on_and_opens_to_no_earlier_ticket(agent: Agent, image: guest.GuestImage) -> None:
    """With what only a real guest shows: its screen, its files, and a power button that reboots."""
    spec = agent.vm(image)
    agent.done("await_boot", vm_id=spec.vm_id, timeout_s=BOOT_S, within_s=BOOT_S)
    before = agent.client.screens((spec.vm_id,))[0].webp
    agent.done("guest_action", vm_id=spec.vm_id, action="message", text="It ends at 17:00 %s \\033[2J $(poweroff)")
    assert _inside(agent, spec, "cat /run/message") == "It ends at 17:00 %s \\033[2J $(poweroff)"
    wait(lambda: _red(agent.client.screens((spec.vm_id,))[0].webp) > _red(before) + 500, "the banner shows it")
    agent.done("guest_action", vm_id=spec.vm_id, action="lock", text="")
    wait(lambda: _inside(agent, spec, "cat /sys/class/tty/tty0/active") == "tty2", "its screen is locked")
    snapshot = {"vm_id": spec.vm_id, "domain_path": str(agent.root / "domain"), "volume_id": spec.disks[0].volume_id,
                "snapshot_id": uuid4()}
    _inside(agent, spec, "echo kept > /home/guest/file; sync")
    assert agent.done("snapshot_volume", **snapshot) is True
    _inside(agent, spec, "echo later > /home/guest/file; sync; echo memory > /run/file")
    agent.ticket(spec, "vnc", "sesame12", issued_ms=10)
    assert agent.vnc(spec, "sesame12")
    path = Path(str(agent.root / "domain" / "saved" / f"{spec.vm_id}-1.save"))
    agent.done("suspend_vm", vm_id=spec.vm_id, path=str(path))
    assert agent.running() == set() and b"sesame12" not in path.read_bytes()[:65536]
    agent.kill()
    agent.start()
    agent.done("restore_vm", spec=spec, path=str(path))
    assert not path.exists() and not agent.vnc(spec, "sesame12") and not agent.vnc(spec, "closed")
    assert _inside(agent, spec, "cat /run/file") == "memory"  # it went on, it did not boot
    agent.ticket(spec, "vnc", "sesame34", issued_ms=11)
    assert agent.vnc(spec, "sesame34")
    _inside(agent, spec, "echo '#!/bin/sh' > /sbin/agent; echo exec sleep 9999 >> /sbin/agent; sync; pkill qemu-ga &")
    agent.done("reboot_vm", vm_id=spec.vm_id, timeout_s=90, within_s=120)  # by its power button
    agent.done("stop_vm", vm_id=spec.vm_id)
    back = {name: value for name, value in snapshot.items() if name != "vm_id"}
    agent.done("revert_volume", **back)
    agent.done("start_vm", spec=spec)
    agent.done("await_boot", vm_id=spec.vm_id, timeout_s=BOOT_S, within_s=BOOT_S)
    assert _inside(agent, spec, "cat /home/guest/file") == "kept"


def _inside(agent: Agent, spec: VmSpec, script: str) -> str:
    """What a shell inside the guest says."""

    def ask(command: str, **arguments: Any) -> Any:
        question = json.dumps({"execute": command, "arguments": arguments})
        argv = ["virsh", "-q", "-c", agent.uri, "qemu-agent-command", spec.name, question]
        return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)["return"]

    pid = ask("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})["pid"]
    while not (status := ask("guest-exec-status", pid=pid))["exited"]:
        time.sleep(0.1)
    return base64.b64decode(status.get("out-data", "")).decode().strip()


def _red(webp: bytes) -> int:
    """How many red points a picture has."""
    picture = Image.open(io.BytesIO(webp)).convert("RGB")
    colors = picture.getcolors(picture.width * picture.height) or []
    return sum(count for count, (r, g, b) in colors if r > 120 and g < 60 and b < 60)  # type: ignore[misc]


def test_a_libvirtd_that_dies_is_waited_for(agent: Agent, private_libvirtd: PrivateLibvirtd) -> None:
    spec = agent.vm()
    agent.ticket(spec, "vnc", "sesame12", issued_ms=10)
    private_libvirtd.kill_daemon()
    # Steps wait until it is back; the report says that it is away, and never that there are no VMs.
    other = agent.vm()
    wait(lambda: _running_or_none(agent) == {spec.vm_id, other.vm_id}, "both are reported")
    agent.ticket(spec, "vnc", "older123", issued_ms=5)
    assert agent.vnc(spec, "sesame12")


def _running_or_none(agent: Agent) -> set[UUID] | None:
    try:
        running = agent.running()
    except HostUnreachable as no:
        assert no.code in ("hypervisor_down", "unreachable"), no
        return None
    assert running, "a libvirtd that restarts is no proof that VMs are off"
    return running


def test_a_qemu_that_hangs_holds_nobody_up(agent: Agent, private_libvirtd: PrivateLibvirtd) -> None:
    hung = [agent.vm() for _ in range(6)]  # more than libvirtd serves at a time on one connection
    well = agent.vm()
    for spec in hung:
        private_libvirtd.inside("sh", "-c", f"kill -STOP $(cat /run/libvirt/qemu/{spec.name}.pid)")
    everybody = {spec.vm_id for spec in [*hung, well]}
    assert agent.running() == everybody
    agent.client.screens(tuple(everybody))  # asks every QEMU; what hangs is left behind
    assert agent.running() == everybody
    agent.ticket(well, "vnc", "sesame12", issued_ms=10)
    assert agent.vnc(well, "sesame12")
    # libvirt gives each of them some seconds to end before it kills it
    stops = [threading.Thread(target=agent.done, args=("stop_vm",), kwargs={"vm_id": spec.vm_id}) for spec in hung]
    for stop in stops:
        stop.start()
    for stop in stops:
        stop.join()
    assert agent.running() == {well.vm_id}
    wait(lambda: [one.vm_id for one in agent.client.screens((well.vm_id,))] == [well.vm_id], "a picture again")


def test_a_vm_that_was_started_elsewhere_is_neither_reported_nor_touched(agent: Agent) -> None:
    spec = agent.vm()
    xml = f"<domain type='qemu'><name>alien-{spec.name}</name><memory>16384</memory><os><type>hvm</type></os></domain>"
    file = agent.root / "alien.xml"
    file.write_text(xml)
    subprocess.run(["virsh", "-q", "-c", agent.uri, "create", str(file)], check=True)
    try:
        report: HostReport = agent.client.report()
        assert not [vm for vm in report.vms if vm.name.startswith("alien")]
        again = replace(spec, vm_id=uuid4(), name=f"alien-{spec.name}", disks=())
        outcome = agent.ask("start_vm", spec=again)
        assert outcome.failure is not None and outcome.failure.code == "name_taken"
    finally:
        subprocess.run(["virsh", "-q", "-c", agent.uri, "destroy", f"alien-{spec.name}"], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
