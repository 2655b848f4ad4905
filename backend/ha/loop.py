"""HA: look at hosts that do not answer and at VMs that went down with theirs, decide, and submit what is to be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend import facts
from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx, get
from backend.errors import Refused
from backend.events import move, record
from backend.ha import rules
from backend.ha.fence import RebootHost, TestPower
from backend.ha.models import Outage, Restart
from backend.ha.proof import prove_off
from backend.ha.rules import SECOND, SILENT
from backend.ha.view import view_of
from backend.hosts.models import Host
from backend.scheduling.facts import NoHost
from backend.scheduling.place import place
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.commands.power import StartVm
from backend.vms.machine import VM
from backend.vms.models import Vm

ROOM_AGAIN = timedelta(seconds=3)  # how soon it is looked again whether there is room for a VM
log = structlog.get_logger("ha")
SecondProof = Callable[[UUID], SECOND]


class Silent(NamedTuple):
    """A host that does not answer, and how its agent is restarted from outside, where that is known."""

    host_id: UUID
    address: str
    ssh_port: int
    ssh_fingerprint: str


SoftFence = Callable[[Sequence[Silent]], dict[UUID, bool]]
"""Asked in every round, with the hosts whose agents are to be restarted from outside. It answers within seconds, whether that
was possible for those of which it is known by then, and forgets those that are asked for no more."""


def no_second_proof(host_id: UUID) -> SECOND:
    """There is no storage lease to look at."""
    return "unknown"


def no_soft_fence(silent: Sequence[Silent]) -> dict[UUID, bool]:
    """Nobody can restart an agent from here."""
    return {one.host_id: False for one in silent}


@dataclass
class _Asked:
    """What was found out about silent hosts, outside any transaction."""

    second: dict[UUID, SECOND] = field(default_factory=dict)
    softened: dict[UUID, bool] = field(default_factory=dict)


class HighAvailability:
    """Proof first, then restart: see `rules.decide`."""

    name = "ha"

    def __init__(
        self, clock: Clock, quiet_s: float = 60.0, second: SecondProof = no_second_proof, soft: SoftFence = no_soft_fence,
        every_s: float = 1.0,
    ) -> None:
        self.clock, self.quiet_s, self.second, self.soft, self.every_s = clock, quiet_s, second, soft, every_s
        self.started_at = clock.now()

    def read(self, tx: Tx) -> list[tuple[Silent, bool]]:
        """Hosts that are silent, and whether their agents are to be restarted."""
        wanted = sa.and_(Outage.soften_at.is_not(None), Outage.softened_at.is_(None))
        columns = (Host.id, Host.address, Host.ssh_port, Host.ssh_fingerprint, sa.func.coalesce(wanted, False))
        rows = sa.select(*columns).outerjoin(Outage, Outage.host_id == Host.id).where(Host.state.in_(SILENT))
        return [(Silent(id, address, port, key), soften) for id, address, port, key, soften in tx.execute(rows)]

    def gather(self, wanted: list[tuple[Silent, bool]]) -> _Asked:
        second = {silent.host_id: self.second(silent.host_id) for silent, _ in wanted}
        return _Asked(second, self.soft([silent for silent, soften in wanted if soften]))

    def apply(self, tx: Tx, found: _Asked) -> None:
        now = self.clock.now()
        for host_id, done in found.softened.items():
            self._softened(tx, host_id, done, now)
        self._look_at_restarts(tx, now)
        for decision in rules.decide(view_of(tx, found.second, self.started_at, self.quiet_s), now):
            try:
                with tx.begin_nested():
                    self._carry_out(tx, decision, now)
            except Refused as no:
                log.info("not now", what=type(decision).__name__, why=no.message)

    # -- what a decision means ---------------------------------------------------------------------
    def _carry_out(self, tx: Tx, decision: rules.Decision, now: datetime) -> None:
        match decision:
            case rules.Wait(host_id, why):
                self._tell(tx, host_id, why, "host.fence_waits", now)
            case rules.GiveUp(host_id, why):
                self._tell(tx, host_id, why, "host.fence_given_up", now)
                self._outage(tx, host_id, now).gave_up = True
            case rules.Lost(host_id):
                self._lost(tx, host_id)
            case rules.SoftFence(host_id):
                self._outage(tx, host_id, now).soften_at = now
            case rules.AskPower(host_id):
                self._outage(tx, host_id, now).power_asked_at = now
                submit(tx, TestPower(host_id), SYSTEM, now)
            case rules.Fence(host_id):
                host = get(tx, Host, host_id)
                submit(tx, RebootHost(host_id, force=True), SYSTEM, now)
                record(tx, "host.fencing", host)
                self._outage(tx, host_id, now).why = ""
            case rules.Proved(host_id, how):
                prove_off(tx, get(tx, Host, host_id, lock=True), how, now)
            case rules.Over(host_id):
                tx.execute(sa.delete(Outage).where(Outage.host_id == host_id))
                touch(tx, "host", host_id)
            case rules.Restart(vm_id):
                self._restart(tx, vm_id, now)
            case rules.Settled(vm_id, why):
                if why:
                    record(tx, "vm.restart_given_up", get(tx, Vm, vm_id), why=why)
                tx.execute(sa.delete(Restart).where(Restart.vm_id == vm_id))

    def _outage(self, tx: Tx, host_id: UUID, now: datetime) -> Outage:
        outage = tx.get(Outage, host_id)
        if outage is None:
            host = get(tx, Host, host_id)
            outage = Outage(host_id=host_id, since=host.reported_at or now, tries=0, why="", power_said="", gave_up=False)
            tx.add(outage)
            tx.flush()
        return outage

    def _tell(self, tx: Tx, host_id: UUID, why: str, code: str, now: datetime) -> None:
        """Say once why nothing is done."""
        outage = self._outage(tx, host_id, now)
        if why and outage.why != why:
            outage.why = why
            record(tx, code, get(tx, Host, host_id), why=why)
            touch(tx, "host", host_id)

    def _lost(self, tx: Tx, host_id: UUID) -> None:
        host = get(tx, Host, host_id, lock=True)
        move(tx, host, "lost")
        for vm in tx.scalars(sa.select(Vm).where(Vm.host_id == host_id).order_by(sa.func.length(Vm.name), Vm.name)):
            if VM.may(vm.state, "host_silent"):
                move(tx, vm, "host_silent")

    def _softened(self, tx: Tx, host_id: UUID, done: bool, now: datetime) -> None:
        outage = tx.get(Outage, host_id)
        if outage is not None and outage.softened_at is None:
            outage.softened_at = now if done else now - timedelta(seconds=rules.SOFT_S)  # nothing to wait for
            if done:
                record(tx, "host.softened", get(tx, Host, host_id))

    def _restart(self, tx: Tx, vm_id: UUID, now: datetime) -> None:
        vm, row = get(tx, Vm, vm_id), tx.get_one(Restart, vm_id)
        try:
            place(facts.of_vm(tx, vm), facts.of_hosts(tx, vm.cluster_id), facts.policy(tx, vm.cluster_id))
        except NoHost as no:  # a question, not a task: it is asked until there is room
            row.not_before = now + ROOM_AGAIN
            self._waits(tx, row, no.message)
            return
        row.task_id = submit(tx, StartVm(vm_id), SYSTEM, now).id
        if row.tries == 0:
            record(tx, "vm.restart", vm)
        row.tries += 1
        row.not_before = now + rules.pause_after(row.tries)

    def _look_at_restarts(self, tx: Tx, now: datetime) -> None:
        """Why a start failed, told once; it is tried again after a pause."""
        ended = sa.select(Restart, Task.error).join(Task, Task.id == Restart.task_id)
        for row, error in tx.execute(ended.where(Task.state.in_(("failed", "cancelled")))).all():
            why = (error or {}).get("message", "")
            row.task_id, row.failed = None, row.failed + ((error or {}).get("code") != "no_host")
            row.not_before = now + rules.pause_after(row.tries)
            self._waits(tx, row, why)

    def _waits(self, tx: Tx, row: Restart, why: str) -> None:
        """Say once why the VM does not run yet."""
        if row.why != why:
            vm = get(tx, Vm, row.vm_id)
            row.why = vm.why = why
            record(tx, "vm.restart_waits", vm, why=why)
            touch(tx, "vm", vm.id, pool_id=vm.pool_id)

