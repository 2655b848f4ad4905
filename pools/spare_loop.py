"""Keep spares warm, make and remove desktops, heal whatever a crash left behind. Everything from rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx, get
from backend.directory.rights import forget_permissions
from backend.events import move, record
from backend.loops import FromRows
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.models import Vm
from pools import booked, burden, facts, members, troubles
from pools.member_commands import AddMember, RemoveMember
from pools.member_rules import MemberStep, member_name, member_step, wanted
from pools.models import LIVE, Assignment, Lease, Pool, PoolMember
from pools.plan import possible
from pools.rounds import alone, my_turn, reset, status
from pools.spares import MOST, learned, planned, wanted_spares

_FRESH = {"populate_existing": True}
PAST_FOR = timedelta(seconds=60)  # so long it is believed what past weeks said
LEAST_LEAD = timedelta(seconds=60)  # spares for an hour are made ready before it begins
AHEAD = timedelta(minutes=15)  # spares are kept for who comes within this time


class SpareLoop(FromRows):
    """Takes every member one step further; makes, starts, switches off and removes members as the policy wants."""

    name, every_s = "spares", 1.0

    def __init__(self, clock: Clock, every_s: float = 1.0) -> None:
        self.clock, self.every_s = clock, every_s
        self._past: dict[UUID, tuple[datetime, int]] = {}  # what past weeks said, and when they were asked

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        for pool in tx.scalars(sa.select(Pool).order_by(Pool.name)).all():
            if my_turn(tx, pool.id):
                self._settle_all(tx, pool, now)
                self._fill(tx, pool, now)

    def _settle_all(self, tx: Tx, pool: Pool, now: datetime) -> None:
        live = sa.exists().where(Lease.vm_id == PoolMember.vm_id, sa.text(f"lease.{LIVE}"))
        rows = tx.execute(
            sa.select(PoolMember, Vm.state, Task, live)
            .join(Vm, Vm.id == PoolMember.vm_id)
            .outerjoin(Task, Task.id == PoolMember.task_id)
            .where(PoolMember.pool_id == pool.id)
            .order_by(sa.func.length(Vm.name), Vm.name)
        ).all()
        for member, vm_state, task, held in rows:
            code, why = members.error_of(task)
            step = member_step(member.state, vm_state, status(task.state if task else None), code, held)
            if step is not None and _hold(tx, member):
                with alone(tx, member=str(member.id)):
                    self._settle(tx, member, pool, step, (code, why), now)

    def _settle(
        self, tx: Tx, member: PoolMember, pool: Pool, step: MemberStep, error: tuple[str, str], now: datetime
    ) -> None:
        code, why = error
        match step:
            case "created":
                move(tx, member, "created", task_id=None, why="")
            case "warmed":
                move(tx, member, "warmed", task_id=None)
                troubles.started(tx, pool)
            case "adopt":  # somebody started it past the pool: then it is a spare
                move(tx, member, "warm", task_id=None)
            case "fell":
                move(tx, member, "fell", task_id=None)
                troubles.start_failed(tx, pool, code, why, get(tx, Vm, member.vm_id), now)
            case "saved":
                move(tx, member, "saved", task_id=None, why="")
            case "unsaved":
                move(tx, member, "unsaved", task_id=None, why=f"It waits running: {why}")
            case "slept":
                move(tx, member, "slept", task_id=None)
                troubles.start_failed(tx, pool, code, why, get(tx, Vm, member.vm_id), now)
            case "spoiled":  # it sleeps for ever, so it is made as new
                move(tx, member, "slept", task_id=None)
                reset(tx, member, now)
            case "broke":
                started = member.state == "warming" and get(tx, Vm, member.vm_id).template_id == pool.template_id
                members.set_aside(tx, member, why)
                if started:
                    troubles.not_booted(tx, pool, why, now)
            case "reset":
                reset(tx, member, now)
            case "remove":
                if not members.locked(tx, member):
                    member.task_id = submit(tx, RemoveMember(member.id), SYSTEM, now).id

    def _fill(self, tx: Tx, pool: Pool, now: datetime) -> None:
        staying, making = pool.state != "removing", _making(tx, pool.id)
        counts = facts.counts(tx, pool.id)
        if not staying and not counts and not making:
            with alone(tx, pool=str(pool.id)):
                _forget(tx, pool)
            return
        counts["creating"] = max(counts.get("creating", 0), making)
        queued = facts.queued(tx, pool.id) if pool.state == "up" else 0
        spares, running, slack = self._spares(tx, pool, now) if staying else (0, None, 0)
        need = partial(wanted, counts, queued, pool.size if staying else 0, spares, running=running, slack=slack)
        plan = full = need(makes=MOST, starts=MOST)
        if plan.create or plan.warm or plan.wake:
            plan = need(makes=burden.makes(tx, pool, now), starts=burden.starts(tx, pool, now))
        if pool.state == "paused":  # the spares that there are wait on; no others are made
            plan = full = replace(plan, create=0, warm=0, wake=0, save=0)
        if staying:
            plan = possible(tx, pool, plan, full, counts, now)
        for _ in range(plan.create):
            number, pool.next_member = pool.next_member, pool.next_member + 1
            with alone(tx, pool=pool.name):
                submit(tx, AddMember(pool.id, member_name(pool.name, number)), SYSTEM, now)
        for member in [*self._some(tx, pool.id, ("ready",), plan.warm), *self._some(tx, pool.id, ("suspended",), plan.wake)]:
            with alone(tx, member=str(member.id)):
                if members.start(tx, member, now):
                    move(tx, member, "warm")
        self._save(tx, pool, self._some(tx, pool.id, ("spare",), plan.save), now)
        waiting = ("spare", "suspended") if counts.get("spare", 0) > (running or 0) else ("suspended", "spare")
        for member in self._some(tx, pool.id, waiting, plan.cool, old_first=True):
            with alone(tx, member=str(member.id)):
                reset(tx, member, now)
        for member in self._some(tx, pool.id, ("broken", "ready", "suspended"), plan.remove, also_kept=not staying):
            with alone(tx, member=str(member.id)):
                if not members.locked(tx, member):
                    member.task_id = submit(tx, RemoveMember(member.id), SYSTEM, now).id

    def _save(self, tx: Tx, pool: Pool, spares: list[PoolMember], now: datetime) -> None:
        """Suspend these spares; while there is no room for that they wait running, which is told once."""
        if spares and (why := burden.no_room_to_save(tx, pool)):
            if any(member.why != why for member in spares):
                record(tx, "pool.spares_run", pool, why=why)
            for member in spares:
                member.why = why
        elif spares and not burden.save_refused(tx, pool, now):
            for member in spares:
                with alone(tx, member=str(member.id)):
                    if members.save(tx, member, now):
                        move(tx, member, "save", why="")

    def _spares(self, tx: Tx, pool: Pool, now: datetime) -> tuple[int, int | None, int]:
        """How many spares are wanted now, how many of them running (None: all), and how much surplus is left alone because
        past weeks are no exact science."""
        lead = max(LEAST_LEAD, timedelta(seconds=2 * facts.boot_s(tx, pool.id)))
        policy = planned(pool.spares, burden.plans(tx, pool.id), lead, now)
        past = 0
        if pool.spares_learn:
            known = self._past.get(pool.id)
            if known is None or not known[0] <= now < known[0] + PAST_FOR:
                known = self._past[pool.id] = (now, learned(burden.asked_before(tx, pool.id, now, max(lead, AHEAD))))
            past = known[1]
        booked_now = booked.reserved(tx, pool, now)
        running = booked_now if pool.spare_kind == "suspended" else None
        return wanted_spares(policy, past, booked_now, pool.size), running, past // 4

    def _some(
        self, tx: Tx, pool_id: UUID, states: tuple[str, ...], count: int, *, also_kept: bool = False, old_first: bool = False
    ) -> list[PoolMember]:
        """So many members in these states, the first state's first, of the pool's present version before others (or the
        other way round), the newest first; of those that belong to somebody none, unless they are asked for too."""
        if count <= 0:
            return []
        order = sa.case({state: n for n, state in enumerate(states)}, value=PoolMember.state)
        rows = sa.select(PoolMember).join(Vm, Vm.id == PoolMember.vm_id).where(PoolMember.pool_id == pool_id)
        present = sa.select(Pool.template_id).where(Pool.id == pool_id).scalar_subquery()
        old = Vm.template_id.is_distinct_from(present)
        if not also_kept:
            rows = rows.where(~sa.exists().where(Assignment.vm_id == PoolMember.vm_id))
        rows = rows.where(PoolMember.state.in_(states))
        rows = rows.order_by(order, old.desc() if old_first else old, sa.func.length(Vm.name).desc(), Vm.name.desc())
        rows = rows.limit(count).with_for_update(of=PoolMember, skip_locked=True)
        return list(tx.scalars(rows.execution_options(**_FRESH)))


def _hold(tx: Tx, member: PoolMember) -> bool:
    """Hold the member's row, unless somebody else does, or it has changed since it was read."""
    was = sa.select(PoolMember.id).where(PoolMember.id == member.id, PoolMember.state == member.state)
    return tx.scalar(was.with_for_update(skip_locked=True)) is not None


def _making(tx: Tx, pool_id: UUID) -> int:
    """How many desktops are being made for the pool, with or without a row yet."""
    count = sa.select(sa.func.count()).where(
        Task.command == AddMember.name, Task.object_id == pool_id, Task.state.in_(("queued", "running"))
    )
    return tx.scalar(count) or 0


def _forget(tx: Tx, pool: Pool) -> None:
    """The last desktop is gone, and nobody's lease is live: nothing of the pool stays but its events."""
    if tx.scalar(sa.select(Lease.id).where(Lease.pool_id == pool.id, sa.text(LIVE)).limit(1)) is not None:
        return
    record(tx, "pool.removed", pool)
    forget_permissions(tx, "pool", pool.id)
    tx.execute(sa.delete(Pool).where(Pool.id == pool.id))
    touch(tx, "pool", pool.id, pool_id=pool.id)
