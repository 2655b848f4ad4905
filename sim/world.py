"""The simulated data center: hosts, their power and network, storage, and faults told as sentences."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from backend.clock import Clock
from hostapi.client import HostUnreachable
from hostapi.desk import Desk
from hostapi.journal import Journal
from hostapi.types import ContentReport, Cpu, Definition, HostCpu, HostReport, Outcome, PowerKind, Screen, VmSpec, VolumeSpec
from hostapi.verbs import HostAgent, HostRefused
from sim.cpus import host_cpu
from sim.host import PICTURE, SimHost
from sim.power import SimBmc

T = TypeVar("T")


@dataclass
class SimStorage:
    """A storage domain's folder: what is in it, and what is wrong with it."""

    path: str
    total_mib: int = 1_000_000
    free_mib: int = 900_000
    slow_s: float = 0.0
    full: bool = False
    broken: bool = False
    cut: set[str] = field(default_factory=set)  # names of hosts that do not reach it
    mark: UUID | None = None  # the shared domain that it is
    volumes: dict[UUID, VolumeSpec] = field(default_factory=dict)
    resets: dict[UUID, int] = field(default_factory=dict)  # how often each volume was thrown away
    lost: set[str] = field(default_factory=set)  # file names that are gone
    saved: dict[str, VmSpec] = field(default_factory=dict)  # memory of suspended VMs, by its file's path
    snapshots: dict[UUID, list[UUID]] = field(default_factory=dict)  # of each volume, the oldest first
    definitions: dict[tuple[str, UUID], Definition] = field(default_factory=dict)  # of VMs, templates and itself
    reverts: list[tuple[UUID, UUID]] = field(default_factory=list)  # (volume, snapshot) that was gone back to
    parts: dict[UUID, bytes] = field(default_factory=dict)  # what is being uploaded
    files: dict[UUID, bytes] = field(default_factory=dict)  # what was uploaded, as it came


@dataclass
class SimGuest:
    """How a VM of this name behaves inside; told by sentences, kept over its runs."""

    boot_fails: bool = False
    start_fails: bool = False
    holds_on: bool = False  # lets go of nothing that is to be unplugged
    hangs: bool = False  # ignores every request to shut down or to reboot
    save_fails: bool = False
    restore_fails: bool = False
    agent_silent: bool = False
    migrate_fails: bool = False
    busy: bool = False  # its memory changes faster than it can be sent
    takes: list[tuple[datetime, float]] = field(default_factory=list)  # since when it keeps so many processors busy
    users: tuple[str, ...] = ()
    shown: list[str] = field(default_factory=list)  # messages on its screen
    locked: bool = False

    def cpus(self) -> float:
        """How many processors it keeps busy now."""
        return self.takes[-1][1] if self.takes else 0.1

    def cpu_s(self, since: datetime, now: datetime) -> float:
        """Processor seconds of a run that began then."""
        steps = [(since, 0.1), *((max(at, since), cpus) for at, cpus in self.takes)]
        ends = [*(at for at, _ in steps[1:]), now]
        return sum(cpus * (end - at).total_seconds() for (at, cpus), end in zip(steps, ends, strict=True))


class SimMachine:
    """One simulated machine: what stays when its agent restarts, and what is lost with its power."""

    def __init__(self, world: World, host: SimHost) -> None:
        self.host, self.journal = host, Journal(None)
        self.powered, self.connected, self.agent_on = True, True, True
        self.broken = False  # does not come up again
        self.agent_stays_off = False
        self.desk = Desk(host, self.journal)

    def restart_agent(self) -> None:
        """The agent dies in the middle of whatever it does, and comes back with its journal."""
        self.stop_agent()
        self.start_agent()

    def stop_agent(self) -> None:
        self.agent_on = False
        self.desk.close()
        self.host.wake()

    def start_agent(self) -> None:
        self.desk, self.agent_on = Desk(self.host, self.journal), True

    def power_off(self) -> None:
        """Everything that runs is gone at once; the journal's file is not."""
        self.powered = False
        self.stop_agent()
        self.host.lose_power()

    def power_on(self) -> None:
        self.host.boot_id = str(uuid4())
        self.powered = True
        self.start_agent()


class SimDoor:
    """The way to a simulated host; silent when the machine is off, its network is cut or its agent is down."""

    def __init__(self, machine: SimMachine) -> None:
        self._machine = machine

    def ask(self, uid: UUID, verb: str, args: Mapping[str, Any], *, wait_s: float) -> Outcome:
        """As `HostClient.ask`; an answer is lost when the network is cut meanwhile."""
        outcome = self.desk().ask(uid, verb, args, wait_s=wait_s)
        self.desk()
        return outcome

    def watch(self, uids: Iterable[UUID], *, wait_s: float) -> dict[UUID, int]:
        """As `HostClient.watch`."""
        still = self.desk().watch(uids, wait_s=wait_s)
        self.desk()
        return still

    def settled(self) -> bool:
        """Whether every step that is being done there has looked at the present time, and waits for a later one."""
        return self._machine.host.resting() >= self._machine.desk.at_work

    def cancel(self, uid: UUID) -> None:
        """As `HostClient.cancel`."""
        self.desk().cancel(uid)

    def report(self) -> HostReport:
        """As `HostClient.report`."""
        return self.desk().report()

    def listen(self, seen: int, wait_s: int) -> int:
        """As `HostClient.listen`."""
        return self.desk().listen(seen, wait_s)

    def screens(self, vm_ids: Iterable[UUID]) -> tuple[Screen, ...]:
        """As `HostClient.screens`."""
        return self.desk().screens(vm_ids)

    def part_size(self, domain_path: str, volume_id: UUID) -> int:
        """As `HostClient.part_size`."""
        return self._told(lambda agent: agent.part_size(domain_path, volume_id))

    def write_part(self, domain_path: str, volume_id: UUID, offset: int, data: bytes) -> int:
        """As `HostClient.write_part`."""
        return self._told(lambda agent: agent.write_part(domain_path, volume_id, offset, data))

    def content(self, domain_path: str, volume_id: UUID) -> ContentReport:
        """As `HostClient.content`."""
        return self._told(lambda agent: agent.content(domain_path, volume_id))

    def read_content(self, domain_path: str, volume_id: UUID, mark: str, offset: int, count: int) -> bytes:
        """As `HostClient.read_content`."""
        return self._told(lambda agent: agent.read_content(domain_path, volume_id, mark, offset, count))

    def _told(self, ask: Callable[[HostAgent], T]) -> T:
        """A refusal to a question comes over the wire as `HostUnreachable` with its code."""
        try:
            return ask(self.desk().agent)
        except HostRefused as no:
            raise HostUnreachable(no.failure.message, no.failure.code) from no

    def power_kinds(self) -> tuple[str, ...]:
        """As `HostClient.power_kinds`."""
        return self.desk().agent.power_kinds()

    def power_kind(self, name: str) -> PowerKind:
        """As `HostClient.power_kind`."""
        return self.desk().agent.power_kind(name)

    def host_cpu(self) -> HostCpu:
        """As `HostClient.host_cpu`."""
        return _heard(self.desk().agent.host_cpu)

    def common_cpu(self, cpus: Iterable[Cpu]) -> Cpu:
        """As `HostClient.common_cpu`."""
        agent = self.desk().agent
        return _heard(lambda: agent.common_cpu(tuple(cpus)))

    def desk(self) -> Desk:
        """The machine's present desk; `HostUnreachable` while nobody answers there."""
        machine = self._machine
        if not (machine.powered and machine.connected and machine.agent_on):
            raise HostUnreachable(f"The host {machine.host.name} does not answer.")
        return machine.desk


def _heard(question: Callable[[], T]) -> T:
    """The answer, or the refusal as it comes over the wire."""
    try:
        return question()
    except HostRefused as no:
        raise HostUnreachable(no.failure.message, no.failure.code) from no


class World:
    """A data center that is not there. Times in seconds are of the clock it was given, which may be told."""

    def __init__(
        self, clock: Clock, *, launch_s: float = 0.0, boot_s: float = 0.0, shutdown_s: float = 0.0, save_s: float = 0.0,
        migrate_s: float = 0.0, lively: bool = False,
    ) -> None:  # fmt: skip
        self.clock, self.lively = clock, lively
        self.picture: Callable[[str], tuple[int, int, bytes]] = lambda name: PICTURE  # of the VM of this name, and its size
        self.launch_s, self.boot_s, self.shutdown_s, self.save_s = launch_s, boot_s, shutdown_s, save_s
        self.migrate_s, self.upgrade_s = migrate_s, 5.0
        self.polls = True  # steps look at the clock by themselves; else only when somebody wakes them
        self.lock = threading.RLock()
        self.machines: dict[str, SimMachine] = {}
        self.storage: dict[str, SimStorage] = {}
        self.guests: dict[str, SimGuest] = {}
        self.bmcs: dict[str, SimBmc] = {}  # by address
        self.hooks: dict[str, str] = {}  # on every host: works, fails or hangs, by name
        self.bad_images: set[str] = set()  # paths of images whose overlays do not boot
        self.history: list[str] = []  # every sentence that was told, in order

    def add_host(self, name: str, *, cpus: int = 16, memory_mib: int = 65_536) -> SimHost:
        """A machine with power, network and an agent that has nothing to do yet."""
        with self.lock:
            host = SimHost(self, name, cpus=cpus, memory_mib=memory_mib)
            self.machines[name] = SimMachine(self, host)
            return host

    def host(self, name: str) -> SimHost:
        """The host of this name."""
        return self.machines[name].host

    def desk(self, name: str) -> Desk:
        """The present desk of this host's agent, for serving it over the wire."""
        return self.machines[name].desk

    def door(self, name: str) -> SimDoor:
        """The manager's way to this host; stays good over restarts."""
        return SimDoor(self.machines[name])

    def bmc(self, address: str) -> SimBmc:
        """The power agent at this address."""
        with self.lock:
            return self.bmcs.setdefault(address, SimBmc())

    def supplies_of(self, name: str) -> list[SimBmc]:
        """The power agents of the machine of this name."""
        return [bmc for address, bmc in self.bmcs.items() if address.partition("-")[2] == name]

    def restart_agent(self, name: str) -> bool:
        """Restart a host's agent from outside, as the manager does over SSH; whether the host could be reached."""
        machine = self.machines[name]
        if not (machine.powered and machine.connected):
            return False
        if not machine.agent_stays_off:
            machine.restart_agent()
        return True

    def guest(self, name: str) -> SimGuest:
        """How the VM of this name behaves; it need not exist yet."""
        with self.lock:
            return self.guests.setdefault(name, SimGuest())

    def folder(self, path: str) -> SimStorage:
        """The storage at this path; it is there as soon as somebody names it."""
        with self.lock:
            return self.storage.setdefault(path.rstrip("/"), SimStorage(path.rstrip("/")))

    def folder_of(self, file: str) -> SimStorage | None:
        """The known storage domain that this file's path lies below."""
        with self.lock:
            return next((one for path, one in self.storage.items() if file.startswith(path + "/")), None)

    def users_of(self, path: str) -> list[str]:
        """The names of the running VMs, on any host, that have this file open for writing."""
        with self.lock:
            return [
                run.spec.name
                for machine in self.machines.values()
                for run in machine.host.runs.values()
                if any(disk.path == path and not disk.readonly for disk in run.spec.disks)
            ]

    def do(self, sentence: str) -> None:
        """Let something happen, told as a sentence:

        `power host1 off|on`, `network host1 off|on`, `agent host1 restart|off|on`,
        `vm w7 crash|shutdown|boot_fails|boots|start_fails|starts|hangs|obeys`, `vm w7 users alice bob`, `vm w7 cpus 1.5`,
        `vm w7 holds_on|lets_go`: of what is to be unplugged,
        `vm w7 panics|reboots|io_error|no_space`: its guest crashes or reboots by itself, or its storage fails it,
        `vm w7 save_fails|saves|restore_fails|restores|agent_silent|agent_answers|migrate_fails|migrates|busy|idle`,
        `vm w7 memory_lost`: what was saved of it is gone,
        `storage /srv/a slow 30`, `storage /srv/a full|broken|ok`, `storage /srv/a lost name.qcow2`,
        `storage /srv/a cut|joined host1`,
        `cpu host1 Haswell`, `cpu host1 Haswell without avx2 fma`: from its next report on,
        `upgrade host1 works|fails|vanishes`: of its agent, when it is asked for,
        `swap host1 900`: used MiB, `traffic host1 80`: MiB a second,
        `memory host1 1024`, `power host1 broken`: it has no power and cannot be switched on, `agent host1 broken`: dead for good,
        `bmc host1 silent|stuck|deaf|ok` (or its address `bmc2-host1`): its power agent,
        `hook greet works|fails|hangs`: a program that custom actions may run, on every host,
        `image /srv/a/base.qcow2 boot_fails|boots`: what lies over it does not boot.
        """
        words = sentence.split()
        kinds: dict[str, Callable[[str, str, list[str]], None]] = {
            "power": self._power,
            "network": self._network,
            "agent": self._agent,
            "vm": self._vm,
            "storage": self._storage,
            "memory": self._memory,
            "cpu": self._cpu,
            "swap": self._swap,
            "upgrade": self._upgrade,
            "traffic": self._traffic,
            "image": self._image,
            "hook": self._hook,
            "bmc": self._bmc,
        }
        if len(words) < 3 or words[0] not in kinds:
            raise ValueError(f"Nobody understands {sentence!r}.")
        try:
            kinds[words[0]](words[1], words[2], words[3:])
        except KeyError as unknown:
            raise ValueError(f"Nobody understands {sentence!r}: {unknown} is not known.") from unknown
        self.history.append(sentence)
        for machine in list(self.machines.values()):
            machine.host.wake()

    def _power(self, host: str, what: str, _: list[str]) -> None:
        machine = self.machines[host]
        machine.broken = what == "broken"
        {"off": machine.power_off, "broken": machine.power_off, "on": machine.power_on}[what]()

    def _network(self, host: str, what: str, _: list[str]) -> None:
        self.machines[host].connected = {"off": False, "on": True}[what]

    def _memory(self, host: str, mib: str, _: list[str]) -> None:
        self.machines[host].host.memory_mib = int(mib)

    def _cpu(self, host: str, model: str, more: list[str]) -> None:
        self.machines[host].host.cpu = host_cpu(model, tuple(more[1:]))

    def _upgrade(self, host: str, what: str, _: list[str]) -> None:
        self.machines[host].host.upgrade = {"works": what, "fails": what, "vanishes": what}[what]

    def _swap(self, host: str, mib: str, _: list[str]) -> None:
        self.machines[host].host.swap_used_mib = int(mib)

    def _traffic(self, host: str, mib_s: str, _: list[str]) -> None:
        self.machines[host].host.network_mib_s = float(mib_s)

    def _agent(self, host: str, what: str, _: list[str]) -> None:
        machine = self.machines[host]
        machine.agent_stays_off = what == "broken"
        {"restart": machine.restart_agent, "off": machine.stop_agent, "broken": machine.stop_agent,
         "on": machine.start_agent}[what]()  # fmt: skip

    def _bmc(self, name: str, what: str, _: list[str]) -> None:
        bmc = self.bmc(f"bmc-{name}" if name in self.machines else name)
        bmc.silent, bmc.stuck, bmc.deaf_for_on = {
            "silent": (True, False, False), "stuck": (False, True, False), "deaf": (False, False, True), "ok": (False,) * 3,
        }[what]  # fmt: skip

    def _vm(self, name: str, what: str, more: list[str]) -> None:
        guest = self.guest(name)
        if what in ("crash", "shutdown", "panics", "reboots", "io_error", "no_space"):
            with self.lock:
                hosts = [machine.host for machine in self.machines.values()]
            for host in hosts:
                host.disturb(name, what)
        elif what == "memory_lost":
            with self.lock:
                for folder in self.storage.values():
                    folder.saved = {path: spec for path, spec in folder.saved.items() if spec.name != name}
        elif what == "cpus":
            guest.takes.append((self.clock.now(), float(more[0])))
        elif what == "users":
            guest.users = tuple(more)
        else:
            attribute, value = {
                "boot_fails": ("boot_fails", True),
                "boots": ("boot_fails", False),
                "start_fails": ("start_fails", True),
                "starts": ("start_fails", False),
                "hangs": ("hangs", True),
                "obeys": ("hangs", False),
                "holds_on": ("holds_on", True),
                "lets_go": ("holds_on", False),
                "save_fails": ("save_fails", True),
                "saves": ("save_fails", False),
                "migrate_fails": ("migrate_fails", True),
                "migrates": ("migrate_fails", False),
                "busy": ("busy", True),
                "idle": ("busy", False),
                "restore_fails": ("restore_fails", True),
                "restores": ("restore_fails", False),
                "agent_silent": ("agent_silent", True),
                "agent_answers": ("agent_silent", False),
            }[what]
            setattr(guest, attribute, value)

    def _hook(self, name: str, what: str, _: list[str]) -> None:
        self.hooks[name] = {"works": what, "fails": what, "hangs": what}[what]

    def _image(self, path: str, what: str, _: list[str]) -> None:
        {"boot_fails": self.bad_images.add, "boots": self.bad_images.discard}[what](path)

    def _storage(self, path: str, what: str, more: list[str]) -> None:
        folder = self.folder(path)
        if what == "slow":
            folder.slow_s = float(more[0].removesuffix("s"))
        elif what == "lost":
            folder.lost.add(more[0])
        elif what in ("cut", "joined"):
            {"cut": folder.cut.add, "joined": folder.cut.discard}[what](self.machines[more[0]].host.name)
        else:
            folder.full, folder.broken = {
                "full": (True, False),
                "broken": (False, True),
                "ok": (False, False),
            }[what]
            if what == "ok":
                folder.slow_s = 0.0
