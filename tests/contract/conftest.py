"""The subjects of the contract suite: every way there is to be a host."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent.config import AgentConfig
from agent.service import AgentService
from agent.shell import run
from backend.clock import WallClock
from hostapi.client import HostClient, HostUnreachable
from hostapi.desk import Desk
from hostapi.journal import Journal
from hostapi.server import HostServer
from hostapi.tls import client_context, server_context
from hostapi.types import BootSpec, DiskSpec, Outcome, VmSpec, VolumeSpec
from hostapi.verbs import HostAgent
from sim.world import World
from standalone import guest
from tests.libvirtd import PrivateLibvirtd
from tests.pki import Pki

BOOT_S = 240  # emulated guests on a busy machine


@dataclass
class Subject:
    """A host under test. `lacks` names what it honestly cannot do, with the code by which it says so."""

    kind: str
    folder: str  # a storage domain's path
    connect: Callable[[], Any]  # a door to its agent as it is now
    restart: Callable[[], None]  # the agent dies and comes back, the VMs stay
    crash: Callable[[str], None]  # a VM of this name dies
    lacks: dict[str, str] = field(default_factory=dict)
    image: guest.GuestImage | None = None  # what boots, where something really does
    told: Callable[[str], None] = lambda _: None  # the simulator's world hears sentences
    made: list[UUID] = field(default_factory=list)

    def ask(self, verb: str, *, uid: UUID | None = None, within_s: float = 60.0, **args: Any) -> Outcome:
        """Ask until it is done."""
        uid, end = uid or uuid4(), time.monotonic() + within_s
        while True:
            try:
                outcome = self.connect().ask(uid, verb, args, wait_s=1.0)
            except HostUnreachable:
                if time.monotonic() > end:
                    raise
                continue
            if outcome.state != "running":
                return outcome
            assert time.monotonic() < end, f"{verb} is still running after {within_s} s: {outcome}"

    def done(self, verb: str, **args: Any) -> Any:
        """The result of a step that must succeed."""
        outcome = self.ask(verb, **args)
        assert outcome.state == "done", outcome
        return outcome.result

    def refused(self, verb: str, **args: Any) -> str:
        """The code of a step that must be refused."""
        outcome = self.ask(verb, **args)
        assert outcome.state == "failed", outcome
        assert outcome.failure is not None and outcome.failure.message.endswith((".", "?", "!", ")")), outcome
        return outcome.failure.code

    def volume(self, backing: str | None = None, capacity_mib: int = 16) -> VolumeSpec:
        """A volume that is not there yet."""
        return VolumeSpec(uuid4(), self.folder, capacity_mib, backing)

    def spec(self, name: str = "", boots: bool = False) -> VmSpec:
        """A VM with a disk of its own; with `boots`, one whose guest agent will answer, where there are any."""
        vm_id = uuid4()
        name = name or f"vm-{vm_id.hex[:8]}"
        self.made.append(vm_id)
        volume = self.volume()
        boot = None
        if boots and self.image is not None:
            volume = self.volume(backing=str(self.image.disk), capacity_mib=guest.DISK_MIB)
            cmdline = guest.CMDLINE.format(name=name)
            boot = BootSpec(str(self.image.kernel), str(self.image.initrd), cmdline)
        path = self.done("create_volume", volume=volume)
        disk = DiskSpec(volume.volume_id, path)
        return VmSpec(vm_id, name, guest.MEMORY_MIB if boot else 32, 1, "qemu", (disk,), boot=boot)

    def states(self) -> dict[UUID, str]:
        """The reported VMs that this test made."""
        return {vm.vm_id: vm.state for vm in self.connect().report().vms if vm.vm_id in self.made}


@pytest.fixture
def storage_root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lh-contract-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sim", "wire", "test driver", pytest.param("qemu", marks=pytest.mark.lab)])
def subject(request: pytest.FixtureRequest, storage_root: Path, pki: Pki) -> Iterator[Subject]:
    """Each test runs over every subject."""
    made = {"sim": _sim, "wire": _wire, "test driver": _test_driver, "qemu": _qemu}[request.param]
    with made(request, storage_root, pki) as subject:
        subject.done("attach_domain", path=subject.folder)
        yield subject
        for vm_id in subject.made:
            subject.done("stop_vm", vm_id=vm_id)


class _sim:
    """SimHost behind a Desk, in this process."""

    def __init__(self, _: pytest.FixtureRequest, root: Path, __: Pki) -> None:
        self.world = World(WallClock(), launch_s=0.05, boot_s=0.3, shutdown_s=0.1)
        self.world.add_host("h1")
        self.root = root

    def __enter__(self) -> Subject:
        world = self.world
        return Subject(
            "sim", f"{self.root}/domain", lambda: world.door("h1"), lambda: world.do("agent h1 restart"),
            lambda name: world.do(f"vm {name} crash"), {"storage roots": "none"}, told=world.do,
        )

    def __exit__(self, *_: object) -> None:
        return None


class _served:
    """Any agent behind TLS on loopback; `restart` makes a new one over the same journal file."""

    def __init__(self, agent: Callable[[], HostAgent], root: Path, pki: Pki) -> None:
        self.agent, self.root, self.pki = agent, root, pki
        self.server: HostServer | None = None
        self.clients: list[HostClient] = []

    def start(self) -> None:
        self.desk = Desk(self.agent(), Journal(self.root / "journal.sqlite3"))
        self.server = HostServer(self.desk, "127.0.0.1", 0, server_context(*self.pki.issue("host")))
        self.server.start()
        self.client = HostClient("127.0.0.1", self.server.port, client_context(*self.pki.issue("manager")))
        self.clients.append(self.client)

    def stop(self) -> None:
        assert self.server is not None
        self.desk.close()
        self.server.stop()
        self.desk.journal.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        for client in self.clients:
            client.close()


class _wire:
    """SimHost behind HostServer, reached by HostClient."""

    def __init__(self, request: pytest.FixtureRequest, root: Path, pki: Pki) -> None:
        self.inner = _sim(request, root, pki)
        self.served = _served(lambda: self.inner.world.host("h1"), root, pki)

    def __enter__(self) -> Subject:
        self.served.start()
        world = self.inner.world
        return Subject(
            "wire", f"{self.served.root}/domain", lambda: self.served.client, self.served.restart,
            lambda name: world.do(f"vm {name} crash"), {"storage roots": "none"}, told=world.do,
        )

    def __exit__(self, *_: object) -> None:
        self.served.close()


class _test_driver:
    """The agent's service on libvirt's test driver, with real files and the real qemu-img."""

    LACKS = {
        "guest agent": "unsupported", "tickets": "unsupported", "live snapshots": "unsupported", "hanging guest": "none",
        "hot plug": "unsupported",
        "block resize": "unsupported",
    }

    def __init__(self, _: pytest.FixtureRequest, root: Path, pki: Pki) -> None:
        config = AgentConfig("h1", "test:///default", storage_roots=(str(root),))
        self.served = _served(lambda: AgentService(config, root), root, pki)

    def __enter__(self) -> Subject:
        self.served.start()
        return Subject(
            "test driver", f"{self.served.root}/domain", lambda: self.served.client, self.served.restart,
            _destroyer("test:///default"), self.LACKS,
        )

    def __exit__(self, *_: object) -> None:
        self.served.close()


class _qemu:
    """The agent's service on a private libvirtd, with real QEMU guests under emulation."""

    def __init__(self, request: pytest.FixtureRequest, root: Path, pki: Pki) -> None:
        self.daemon: PrivateLibvirtd = request.getfixturevalue("private_libvirtd")
        self.image = guest.build(root / "guest")
        config = AgentConfig("h1", self.daemon.uri, storage_roots=(str(root),))
        self.served = _served(lambda: AgentService(config, root), root, pki)

    def __enter__(self) -> Subject:
        self.served.start()
        uri = self.daemon.uri
        return Subject(
            "qemu", f"{self.served.root}/domain", lambda: self.served.client, self.served.restart,
            lambda name: run(["virsh", "-q", "-c", uri, "destroy", name]) and None, image=self.image,
        )

    def __exit__(self, *_: object) -> None:
        self.served.close()


def _destroyer(uri: str) -> Callable[[str], None]:
    """The test driver lives in this process, where virsh cannot reach it."""
    import libvirt

    return lambda name: libvirt.open(uri).lookupByName(name).destroy() and None
