"""Expire leases, serve the queue, keep spares warm, heal whatever a crash left behind. Everything from rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx, get
from backend.directory.models import Permission
from backend.errors import Refused
from backend.events import move, record
from backend.loops import FromRows
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import cancel, submit
from backend.vms.commands.power import StartVm
from backend.vms.models import Vm
from pools import facts, leases, members
from pools.member_commands import AddMember, RemoveMember, ResetMember
from pools.models import LIVE, Lease, Pool, PoolMember
from pools.rules import (
    LeaseFacts,
    MemberStep,
    Step,
    free,
    hopeless,
    lease_step,
    member_name,
    member_step,
    wanted,
)

log = structlog.get_logger("pools")
_FRESH = {"populate_existing": True}
NO_RESET = ("wait_for_launch", "unknown", "image_locked")  # VM states in which nothing can be asked of it yet


@contextmanager
def alone(tx: Tx, **what: Any) -> Iterator[None]:
    """One thing of a round: a refusal undoes it alone, and the next round looks again."""
    try:
        with tx.begin_nested():
            yield
            tx.flush()
    except (Refused, sa.exc.IntegrityError) as no:
        log.info("left for the next round", why=str(no).splitlines()[0], **what)


class LeaseLoop(FromRows):
    """Takes every live lease one step further, and gives free desktops to the queue, in its order."""

    name, every_s = "leases", 1.0

    def __init__(self, clock: Clock, every_s: float = 1.0) -> None:
        self.clock, self.every_s = clock, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        entitled = facts.entitlements(tx, now)
        for lease in list(tx.scalars(sa.select(Lease).where(sa.text(LIVE)).order_by(Lease.queue_place))):
            with alone(tx, lease=str(lease.id)):
                self._advance(tx, lease, entitled.get(lease.id, (True, None)), now)
        waiting = sa.select(Lease.pool_id).where(Lease.state == "queued")
        for pool in tx.scalars(sa.select(Pool).where(Pool.id.in_(waiting)).execution_options(**_FRESH)).all():
            serve_queue(tx, pool, now)

    def _advance(self, tx: Tx, lease: Lease, entitled: tuple[bool, datetime | None], now: datetime) -> None:
        """Several steps when several are due: after an outage a lease goes from active to returning in one round."""
        for _ in range(4):
            pool = get(tx, Pool, lease.pool_id)
            if lease_step(lease_facts(tx, lease, entitled[0]), pool.warn_s, now) is None:
                return
            lease = get(tx, Lease, lease.id, lock=True)  # decided on a snapshot, verified under its lock
            step = lease_step(lease_facts(tx, lease, entitled[0]), pool.warn_s, now)
            if step is None:
                return
            _do(tx, lease, pool, step, entitled[1], now)
            if step in ("send_back", "start"):
                return


def lease_facts(tx: Tx, lease: Lease, entitled: bool) -> LeaseFacts:
    """The lease with its desktop, as the rules see it."""
    member, vm, task = _desktop(tx, lease)
    return LeaseFacts(
        state=lease.state,
        ends_at=lease.ends_at,
        grace_until=lease.grace_until,
        entitled=entitled,
        off_wanted=lease.off_wanted,
        member_state=member.state if member else None,
        vm_state=vm.state if vm else None,
        task=_status(task),
        code=members.error_of(task)[0],
    )


def _desktop(tx: Tx, lease: Lease) -> tuple[PoolMember | None, Vm | None, Task | None]:
    if lease.vm_id is None:
        return None, None, None
    row = tx.execute(
        sa.select(PoolMember, Vm, Task)
        .join(Vm, Vm.id == PoolMember.vm_id)
        .outerjoin(Task, Task.id == PoolMember.task_id)
        .where(PoolMember.vm_id == lease.vm_id)
        .execution_options(**_FRESH)
    ).first()
    return (row[0], row[1], row[2]) if row else (None, None, None)


def _status(task: Task | None) -> str:
    if task is None:
        return "none"
    return {"succeeded": "done", "failed": "failed", "cancelled": "failed"}.get(task.state, "live")


def _do(tx: Tx, lease: Lease, pool: Pool, step: Step, entitled_until: datetime | None, now: datetime) -> None:
    member, vm, task = _desktop(tx, lease)
    why = members.error_of(task)[1]
    match step:
        case "warn" | "expire" | "take":
            leases.act(tx, lease, step, pool, now)
        case "disentitle":
            leases.give_back(tx, lease, "entitlement_ended", f"Your right to pool {pool.name} has ended.", now)
        case "too_late":
            leases.fail(tx, lease, "Your lease ended before another desktop was free.", now, "expired")
        case "ready":
            leases.ready(tx, lease, pool, entitled_until, now)
            members.well(tx, pool)
        case "start":
            assert member is not None
            members.start(tx, member, now)
        case "later":
            assert member is not None
            leases.requeue(tx, lease, why, now, counts=False)
            move(tx, member, "unstarted", task_id=None)
            members.pause(tx, pool, why, now)
        case "broke" | "silent":
            if step == "silent":
                why = "Its host does not answer."
            elif vm is None:
                why = "It was removed."
            leases.requeue(tx, lease, why, now)
            if task is not None and members.is_live(task):
                cancel(tx, task, now)
            if member is not None:
                members.set_aside(tx, member, why)
        case "died":
            leases.requeue(tx, lease, "Your desktop went down by itself.", now, counts=False)
        case "send_back":
            assert member is not None
            reset(tx, member, now)
        case "over":
            leases.end(tx, lease, now)


def serve_queue(tx: Tx, pool: Pool, now: datetime) -> None:
    """Give the pool's free desktops to those who wait, first come first served; or say that none will come."""
    queue = list(
        tx.scalars(
            sa.select(Lease).where(Lease.pool_id == pool.id, Lease.state == "queued").order_by(Lease.queue_place)
            .execution_options(**_FRESH)
        )
    )  # fmt: skip
    if hopeless(facts.counts(tx, pool.id), pool.size):
        for lease in queue:
            with alone(tx, lease=str(lease.id)):
                leases.fail(tx, lease, "No desktop of the pool works: all of them have been set aside.", now)
        return
    wanted_ids = [c.member_id for c in free(facts.candidates(tx, pool.id), members.trouble_now(pool, now))]
    for lease in queue:
        with alone(tx, lease=str(lease.id)):
            member = leases.take_member(tx, pool.id, wanted_ids, from_queue=True)
            if member is None:
                return
            leases.assign(tx, lease, member, now)
            touch(tx, "pool", pool.id, pool_id=pool.id)


def reset(tx: Tx, member: PoolMember, now: datetime) -> bool:
    """Have the member switched off and made as new; False while something else is at its VM. A start is cancelled."""
    vm = get(tx, Vm, member.vm_id)
    task = members.task_of(tx, member)
    if task is not None and task.command == StartVm.name and members.is_live(task):
        cancel(tx, task, now)
        return False
    if members.locked(tx, member) or vm.state in NO_RESET:
        return False
    member.task_id = submit(tx, ResetMember(member.id), SYSTEM, now).id
    return True


class SpareLoop(FromRows):
    """Takes every member one step further; makes, starts, switches off and removes members as the policy wants."""

    name, every_s = "spares", 1.0

    def __init__(self, clock: Clock, every_s: float = 1.0) -> None:
        self.clock, self.every_s = clock, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        live = sa.exists().where(Lease.vm_id == PoolMember.vm_id, sa.text(f"lease.{LIVE}"))
        rows = tx.execute(
            sa.select(PoolMember, Vm, Task, live)
            .join(Vm, Vm.id == PoolMember.vm_id)
            .outerjoin(Task, Task.id == PoolMember.task_id)
            .order_by(PoolMember.id)
        ).all()
        for member, vm, task, held in rows:
            step = member_step(member.state, vm.state, _status(task), members.error_of(task)[0], held)
            if step is not None:
                with alone(tx, member=str(member.id)):
                    self._settle(tx, member, vm, step, members.error_of(task)[1], now)
        for pool in tx.scalars(sa.select(Pool).order_by(Pool.name).execution_options(**_FRESH)).all():
            self._fill(tx, pool, now)

    def _settle(self, tx: Tx, member: PoolMember, vm: Vm, step: MemberStep, why: str, now: datetime) -> None:
        pool = get(tx, Pool, member.pool_id)
        match step:
            case "created":
                move(tx, member, "created", task_id=None, why="")
            case "warmed":
                move(tx, member, "warmed", task_id=None)
                members.well(tx, pool)
            case "adopt":  # somebody started it past the pool: then it is a spare
                move(tx, member, "warm", task_id=None)
            case "fell":
                move(tx, member, "fell", task_id=None)
                members.pause(tx, pool, why, now)
            case "broke":
                members.set_aside(tx, member, why)
            case "reset":
                reset(tx, member, now)
            case "remove":
                if not members.locked(tx, member):
                    member.task_id = submit(tx, RemoveMember(member.id), SYSTEM, now).id

    def _fill(self, tx: Tx, pool: Pool, now: datetime) -> None:
        up, making = pool.state == "up", _making(tx, pool.id)
        counts = facts.counts(tx, pool.id)
        if not up and not counts and not making:
            with alone(tx, pool=str(pool.id)):
                _forget(tx, pool)
            return
        if pool.retry_at is not None and now < pool.retry_at:
            return
        counts["creating"] = max(counts.get("creating", 0), making)
        plan = wanted(counts, facts.queued(tx, pool.id) if up else 0, pool.size if up else 0, pool.spares if up else 0)
        for _ in range(plan.create):
            number, pool.next_member = pool.next_member, pool.next_member + 1
            with alone(tx, pool=pool.name):
                submit(tx, AddMember(pool.id, member_name(pool.name, number)), SYSTEM, now)
        for member in self._some(tx, pool.id, ("ready",), plan.warm):
            with alone(tx, member=str(member.id)):
                if members.start(tx, member, now):
                    move(tx, member, "warm")
        for member in self._some(tx, pool.id, ("spare",), plan.cool):
            with alone(tx, member=str(member.id)):
                reset(tx, member, now)
        for member in self._some(tx, pool.id, ("broken", "ready"), plan.remove):
            with alone(tx, member=str(member.id)):
                if not members.locked(tx, member):
                    member.task_id = submit(tx, RemoveMember(member.id), SYSTEM, now).id

    def _some(self, tx: Tx, pool_id: UUID, states: tuple[str, ...], count: int) -> list[PoolMember]:
        """So many members in these states, the first state's first, the newest first."""
        if count <= 0:
            return []
        order = sa.case({state: n for n, state in enumerate(states)}, value=PoolMember.state)
        rows = sa.select(PoolMember).join(Vm, Vm.id == PoolMember.vm_id).where(PoolMember.pool_id == pool_id)
        rows = rows.where(PoolMember.state.in_(states)).order_by(order, sa.func.length(Vm.name).desc(), Vm.name.desc())
        return list(tx.scalars(rows.limit(count).execution_options(**_FRESH)))


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
    tx.execute(sa.delete(Permission).where(Permission.object_type == "pool", Permission.object_id == pool.id))
    tx.execute(sa.delete(Pool).where(Pool.id == pool.id))
    touch(tx, "pool", pool.id, pool_id=pool.id)
