"""A whole installation in one process, for tests and scenarios: real managers and PostgreSQL, a simulated data center.

place = Installation(sessions, clock)
place.add_host("alpha")
pool_id = place.add_pool(size=4, spares=1)
place.run_until(lambda tx: …, "a spare is up")
place.sim.do("vm desktops-1 boot_fails")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

import assembly
from backend.clock import Clock
from backend.clusters.loop import ClusterCpus
from backend.db import Sessions, Tx
from backend.ha.loop import HighAvailability, Silent
from backend.hosts.evacuation import Evacuate
from backend.hosts.history import HostHistory
from backend.hosts.loop import Monitor
from backend.hosts.models import Host
from backend.hosts.upgrading import RollUpgrades
from backend.loops import Loop, tick
from backend.secrets import Keyring
from backend.storage.loop import Reach
from backend.storage.models import StorageDomain
from backend.tasks.models import Task
from backend.tasks.runner import Runner
from broker import consoles, decisions
from hostapi.types import Outcome
from pools import leaving
from pools.booking_loop import BookingLoop
from pools.loop import LeaseLoop
from pools.models import Pool
from pools.quiet_loop import QuietLoop
from pools.rollouts import RolloutLoop
from pools.spare_loop import SpareLoop
from sim import make
from sim.clock import ToldClock
from sim.world import SimDoor, World

LIVE = ("queued", "running")
LOOK_S = 0.002  # real seconds between looks at a step that is being done
LONGEST_S = 10.0  # real seconds after which one is no longer waited for, however busy the machine is


class _Door:
    """A simulated host's door that answers as soon as nothing happens there any more until the clock has moved.

    So one told second is the same, however fast the machine is on which it is told."""

    def __init__(self, place: Installation, door: SimDoor, name: str) -> None:
        self._place, self._door, self._name = place, door, name
        self.report, self.screens, self.cancel, self.watch = door.report, door.screens, door.cancel, door.watch
        self.power_kinds, self.power_kind = door.power_kinds, door.power_kind
        self.host_cpu, self.common_cpu = door.host_cpu, door.common_cpu
        self.part_size, self.write_part = door.part_size, door.write_part
        self.content, self.read_content = door.content, door.read_content

    def ask(self, uid: UUID, verb: str, args: Any, *, wait_s: float) -> Outcome:
        self._place.sim.host(self._name).wake()
        for _ in range(round(LONGEST_S / LOOK_S)):
            outcome = self._door.ask(uid, verb, args, wait_s=LOOK_S)
            if outcome.state != "running" or self._door.settled():
                break
        self._place.waits += outcome.state == "running"
        return outcome


class Pace:
    """When each loop was last run, by a clock that may be told."""

    def __init__(self) -> None:
        self._next: dict[str, datetime] = {}

    def due(self, loops: Iterable[Loop], now: datetime) -> list[Loop]:
        """Those that are due; their next time is `every_s` later."""
        due = [loop for loop in loops if now >= self._next.get(loop.name, now)]
        self._next |= {loop.name: now + timedelta(seconds=loop.every_s) for loop in due}
        return due


class Installation:
    """`sim` is the data center, to which faults are told; `tick` is one second of the managers' life."""

    def __init__(
        self,
        sessions: Sessions,
        clock: Clock,
        *,
        boot_s: float = 3.0,
        shutdown_s: float = 1.0,
        more_loops: Sequence[Loop] = (),
        keyring: Keyring | None = None,
        quiet_s: float = 0.0,
    ) -> None:
        self.sessions, self.clock, self.quiet_s = sessions, clock, quiet_s
        self.keyring = keyring or Keyring(b"k" * 32)
        self.sim = World(clock, boot_s=boot_s, shutdown_s=shutdown_s)
        self.sim.polls = not isinstance(clock, ToldClock)  # then they look when their manager asks, however slow we are
        self.watches_load = False  # whether managers tell of hosts that are too busy: they often are, in stories of other things
        self.waits = 0  # how often a host said that a step must wait for a later time
        self.runner = self.new_runner()
        self.loops: list[Loop] = [*self.new_loops(), *more_loops]
        self._pace = Pace()

    def door(self, host_id: UUID, address: str, port: int) -> _Door:
        """How the manager reaches the host whose address is its name."""
        return _Door(self, self.sim.door(address), address)

    def soft(self, silent: Sequence[Silent]) -> dict[UUID, bool]:
        """Restart the agents of the hosts whose addresses are their names, from outside."""
        return {one.host_id: self.sim.restart_agent(one.address) for one in silent}

    def new_runner(self, name: str = "manager") -> Runner:
        """One more runner, as another manager process would have."""
        runner = Runner(self.sessions, assembly.COMMANDS, self.clock, self.door, self.keyring.reveal, name)
        runner.beat()
        return runner

    def new_loops(self) -> list[Loop]:
        """The loops that look after hosts and leases, as another manager process would have them."""
        return [
            Monitor(self.door, self.clock),
            HighAvailability(self.clock, self.quiet_s, soft=self.soft),
            ClusterCpus(self.door),
            *([HostHistory(self.clock)] if self.watches_load else []),
            Reach(self.door, self.clock),
            Evacuate(self.clock, leaving.free),
            RollUpgrades(self.clock),
            leaving.LeaveLoop(self.clock),
            LeaseLoop(self.clock, decisions.served),
            SpareLoop(self.clock),
            RolloutLoop(self.clock),
            BookingLoop(self.clock),
            QuietLoop(self.clock, consoles.watched),
        ]

    # -- what is there -----------------------------------------------------------------------------
    def add_host(self, name: str = "alpha", *, memory_mib: int = 65_536, cpus: int = 16) -> UUID:
        """A simulated host, enrolled and up, with an active storage domain of its own."""
        simulated = self.sim.add_host(name, memory_mib=memory_mib, cpus=cpus)
        with self.sessions.begin() as tx:
            host = make.a_host(
                tx, name, address=name, memory_mib=memory_mib, cpus=cpus, boot_id=simulated.boot_id,
                reported_at=self.clock.now(),
            )  # fmt: skip
            domain = make.a_domain(tx, host, name=f"{name}-disks", path=f"/srv/{name}")
            simulated.domains.add(domain.path)
            return host.id

    def add_shared_domain(self, name: str = "shared", path: str = "", *, but: Sequence[str] = ()) -> UUID:
        """A storage domain that every host so far reaches, but those of these names."""
        folder = self.sim.folder(path or f"/srv/{name}")
        with self.sessions.begin() as tx:
            hosts = [host for host in tx.scalars(sa.select(Host).order_by(Host.name)) if host.name not in but]
            domain = make.a_shared_domain(tx, name, hosts=hosts, path=folder.path)
            folder.mark = domain.id
            for host in hosts:
                self.sim.host(host.name).domains.add(folder.path)
        for host_name in but:
            self.sim.do(f"storage {folder.path} cut {host_name}")
        return domain.id

    def add_pool(
        self,
        name: str = "Desktops",
        *,
        size: int = 4,
        on: str | None = None,
        entitled: Sequence[Any] = (),
        boot_timeout_s: int = 20,
        memory_mib: int = 256,
        **policy: Any,
    ) -> UUID:
        """A pool `on` the host or in the storage domain of this name, or on the first host, without members yet; these users
        and groups are entitled."""
        with self.sessions.begin() as tx:
            domains = sa.select(StorageDomain).outerjoin(Host, Host.id == StorageDomain.host_id).order_by(Host.name)
            named = sa.true() if on is None else sa.or_(Host.name == on, StorageDomain.name == on)
            domain = tx.scalars(domains.where(named)).first()
            assert domain is not None, "add a host first"
            host = tx.get(Host, domain.host_id) if domain.host_id else tx.scalars(sa.select(Host).order_by(Host.name)).first()
            template = make.a_template(
                tx, f"{name} template", domain=domain, boot_timeout_s=boot_timeout_s, memory_mib=memory_mib
            )
            pool = make.a_pool(tx, name, host=host, domain=domain, template=template, size=size, **policy)
            for who in entitled:
                make.a_permission(tx, who, pool)
            return pool.id

    def a_user(self, name: str = "", *, on: Sequence[UUID] = (), **fields: Any) -> tuple[UUID, UUID]:
        """A person entitled to these pools, signed in: the ids of user and session."""
        with self.sessions.begin() as tx:
            user = make.a_user(tx, name, **fields)
            for pool_id in on:
                make.a_permission(tx, user, tx.get(Pool, pool_id))
            return user.id, make.a_session(tx, user, self.clock.now()).id

    # -- time --------------------------------------------------------------------------------------
    def tick(self, seconds: float = 1.0) -> None:
        """Every loop that is due once, every task that is due a few steps further, then that much time passes."""
        self.runner.beat()
        for loop in self._pace.due(self.loops, self.clock.now()):
            tick(self.sessions, loop)
        self.work([self.runner])
        self.clock.sleep(seconds)

    def work(self, runners: Sequence[Runner]) -> None:
        """Take the tasks that are due as far as they can go, until each of them waits for its host."""
        waiting, live = 0, self.live_tasks()
        while waiting < live:
            before = self.waits
            if not any([runner.step() for runner in runners]):  # a list: each of them takes a step
                return
            waiting = waiting + 1 if self.waits > before else 0
            self.clock.sleep(0.001)  # so that tasks take turns: the claim goes by time

    def run_until(self, true: Callable[[Tx], Any], what: str = "it", *, limit_s: float = 600, step_s: float = 1.0) -> Any:
        """Tick until this is true of the database; answers what it said. Fails after `limit_s` told seconds."""
        passed = 0.0
        while True:
            with self.sessions() as tx:
                if found := true(tx):
                    return found
            assert passed < limit_s, f"{what}: not after {limit_s} s. {self.story()}"
            self.tick(step_s)
            passed += step_s

    def run_for(self, seconds: float, step_s: float = 1.0) -> None:
        """Tick for so long."""
        for _ in range(round(seconds / step_s)):
            self.tick(step_s)

    def settle(self, limit_s: float = 600) -> None:
        """Tick until no task is live."""
        self.run_until(lambda tx: self.live_tasks() == 0, "all tasks are done", limit_s=limit_s)

    # -- looking -----------------------------------------------------------------------------------
    @contextmanager
    def tx(self) -> Iterator[Any]:
        """A transaction of the test's own, committed at the end."""
        with self.sessions.begin() as tx:
            yield tx

    def story(self, last: int = 15) -> str:
        """The latest events and the live tasks, for messages of failed tests."""
        with self.sessions() as tx:
            events = tx.scalars(sa.text(f"SELECT sentence FROM event ORDER BY id DESC LIMIT {last}")).all()
            tasks = tx.execute(sa.select(Task.title, Task.message).where(Task.state.in_(LIVE))).all()
        return "\n".join(["", *reversed(events), *(f"[{title}: {message}]" for title, message in tasks)])

    def live_tasks(self) -> int:
        """How many tasks are still to end."""
        with self.sessions() as tx:
            return tx.scalar(sa.select(sa.func.count()).where(Task.state.in_(LIVE))) or 0
