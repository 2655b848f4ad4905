"""A runner on a simulated host, its clock told, for the task tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa

import assembly
from backend.db import Sessions
from backend.hosts.loop import Monitor
from backend.hosts.models import Host
from backend.loops import tick
from backend.storage.models import DomainReach, StorageDomain
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.models import ResourceLock, Step, Task, Worker
from backend.tasks.runner import DEAD_AFTER_S, Runner
from backend.tasks.submit import submit
from backend.vms.commands.define import CreateVm
from backend.vms.models import Vm
from hostapi.types import VolumeSpec
from sim.make import a_domain, a_host, a_template
from sim.world import World
from tests.conftest import ToldClock


@dataclass
class Bench:
    """One host, one storage domain, one template; `runner()` is a fresh manager process."""

    sessions: Sessions
    clock: ToldClock
    world: World = field(init=False)
    template_id: UUID = field(init=False)
    domain_id: UUID = field(init=False)
    host_id: UUID = field(init=False)

    def __post_init__(self) -> None:
        self.world = World(self.clock)
        simulated = self.world.add_host("alpha")
        with self.sessions.begin() as tx:
            host = a_host(tx, "alpha", cpus=16, memory_mib=65_536)
            domain = a_domain(tx, host, path="/srv/disks")
            template = a_template(tx, domain=domain)
            disk = tx.execute(sa.text("SELECT id, path, capacity_mib FROM disk")).one()
            self.template_id, self.domain_id, self.host_id = template.id, domain.id, host.id
        simulated.domains.add("/srv/disks")
        self.world.folder("/srv/disks").volumes[disk.id] = VolumeSpec(disk.id, "/srv/disks", disk.capacity_mib)
        with self.sessions.begin() as tx:
            tx.execute(sa.text("UPDATE disk SET path = '/srv/disks/volumes/' || id || '.qcow2'"))

    def a_second_host(self, name: str) -> UUID:
        """One more host; the storage domain is shared between all of them from then on."""
        simulated = self.world.add_host(name)
        simulated.domains.add("/srv/disks")
        with self.sessions.begin() as tx:
            host = a_host(tx, name, cpus=16, memory_mib=65_536)
            domain = tx.get_one(StorageDomain, self.domain_id)
            domain.host_id, domain.type = None, "posixfs"
            now = self.clock.now()
            tx.add_all(DomainReach(domain_id=domain.id, host_id=id, ok=True, told_at=now) for id in (self.host_id, host.id))
            return host.id

    def doors(self, host_id: UUID, address: str, port: int) -> Any:
        return self.world.door(address)

    def runner(self) -> Runner:
        runner = Runner(self.sessions, assembly.COMMANDS, self.clock, self.doors, lambda name: f"secret-of-{name}")
        runner.wait_s = 0.02
        runner.beat()
        return runner

    def submit(self, command: Any, actor: Actor = SYSTEM) -> int:
        with self.sessions.begin() as tx:
            return submit(tx, command, actor, self.clock.now()).id

    def settle(self, runner: Runner | None = None, rounds: int = 1000) -> None:
        """Let the runner work until no task is open; the clock moves a little each time nothing is due."""
        runner = runner or self.runner()
        for _ in range(rounds):
            if runner.step():
                self.clock.sleep(0.1)
            else:
                with self.sessions() as tx:
                    if not tx.scalar(sa.select(sa.func.count()).where(Task.state.in_(("queued", "running")))):
                        return
                self.clock.sleep(0.5)
                runner.beat()
        raise AssertionError("tasks are still open: " + self.story())

    def monitor(self) -> None:
        tick(self.sessions, Monitor(self.doors, self.clock))

    def bury(self) -> None:
        """Every worker so far is dead, and known to be."""
        self.clock.sleep(DEAD_AFTER_S + 1)

    def a_vm(self, name: str) -> UUID:
        self.submit(CreateVm(name, self.template_id))
        self.settle()
        return self.vm(name).id

    def vm(self, name: str) -> Vm:
        with self.sessions() as tx:
            return tx.scalars(sa.select(Vm).where(Vm.name == name)).one()

    def task(self, id: int) -> Task:
        with self.sessions() as tx:
            return tx.get_one(Task, id)

    def steps(self, id: int) -> list[Step]:
        with self.sessions() as tx:
            return list(tx.scalars(sa.select(Step).where(Step.task_id == id).order_by(Step.ordinal)))

    def locks(self) -> list[str]:
        with self.sessions() as tx:
            return list(tx.scalars(sa.select(ResourceLock.resource)))

    def story(self) -> str:
        with self.sessions() as tx:
            return str([(t.id, t.command, t.state, t.message, t.error) for t in tx.scalars(sa.select(Task).order_by(Task.id))])


class Killed(BaseException):
    """The process is gone: no `except Exception` sees it."""


def killed_at(line: int, inside: tuple[str, ...], work: Callable[[], Any]) -> bool:
    """Do the work, but die before the n-th line executed in these files; False when it has fewer lines."""
    seen = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.endswith(inside):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise Killed
        return trace

    sys.settrace(trace)
    try:
        work()
        return False
    except Killed:
        return True
    finally:
        sys.settrace(None)


__all__ = ["Bench", "Host", "Killed", "Worker", "killed_at"]
