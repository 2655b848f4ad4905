"""Expire leases, serve the queue, keep spares warm, heal whatever a crash left behind. Everything from rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx, get
from backend.directory.rights import forget_permissions
from backend.errors import Refused
from backend.events import move, record
from backend.loops import FromRows
from backend.tasks.command import SYSTEM
from backend.tasks.models import ResourceLock, Task
from backend.tasks.submit import cancel, submit
from backend.vms.commands.power import StartVm
from backend.vms.models import Vm
from pools import booked, burden, capacity, facts, leases, members, versions
from pools.member_commands import AddMember, RemoveMember, ResetMember
from pools.models import LIVE, Assignment, Lease, Pool, PoolMember
from pools.remake import RemakeMember
from pools.rules import (
    Candidate,
    LeaseFacts,
    MemberStep,
    Step,
    free,
    hopeless,
    lease_step,
    member_name,
    member_step,
    own_broken,
    surplus,
    wanted,
)
from pools.spares import MOST, learned, planned, wanted_spares

log = structlog.get_logger("pools")
_FRESH = {"populate_existing": True}
PAST_FOR = timedelta(seconds=60)  # so long it is believed what past weeks said
LEAST_LEAD = timedelta(seconds=60)  # spares for an hour are made ready before it begins
AHEAD = timedelta(minutes=15)  # spares are kept for who comes within this time
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


def my_turn(tx: Tx, pool_id: UUID) -> bool:
    """Whether this round may work on the pool: one loop of one manager at a time, so that none waits for another."""
    key = sa.func.hashtextextended(f"pool-round:{pool_id}", 0)
    return bool(tx.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key))))


Served = Callable[[Tx, Lease, PoolMember, Sequence[Candidate], datetime], None]


class LeaseLoop(FromRows):
    """Takes every live lease one step further, and gives free desktops to the queue, in its order."""

    name, every_s = "leases", 1.0

    def __init__(self, clock: Clock, served: Served | None = None, every_s: float = 1.0) -> None:
        """`served` is told of everybody whose turn in the queue has come (the broker keeps why)."""
        self.clock, self.served, self.every_s = clock, served, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        entitled = facts.entitlements(tx, now)
        mine = sa.exists().where(Lease.pool_id == Pool.id, sa.text(f"lease.{LIVE}"))
        for pool in tx.scalars(sa.select(Pool).where(mine).order_by(Pool.name)).all():
            if not my_turn(tx, pool.id):
                continue
            booked.guard(tx, pool.id)
            for lease_id, lease in leases_of(tx, entitled, Lease.pool_id == pool.id):
                if lease_step(lease, pool.warn_s, now) is not None:
                    with alone(tx, lease=str(lease_id)):
                        self._advance(tx, lease_id, pool, entitled, now)
            serve_queue(tx, pool, now, self.served)

    def _advance(self, tx: Tx, lease_id: UUID, pool: Pool, entitled: Entitlements, now: datetime) -> None:
        """Several steps when several are due: after an outage a lease goes from active to returning in one round."""
        for _ in range(4):
            lease = get(tx, Lease, lease_id, lock=True)  # it was due on a snapshot; decided under its lock
            seen = leases_of(tx, entitled, Lease.id == lease_id)
            step = lease_step(seen[0][1], pool.warn_s, now) if seen else None
            if step is None:
                return
            _do(tx, lease, pool, step, entitled.get(lease_id, (True, None))[1], now)
            if step in ("send_back", "start"):
                return


Entitlements = Mapping[UUID, tuple[bool, datetime | None]]


def leases_of(tx: Tx, entitled: Entitlements, which: Any) -> list[tuple[UUID, LeaseFacts]]:
    """Live leases with their desktops, as the rules see them, in the order in which people asked."""
    tx.flush()
    busy = sa.exists().where(ResourceLock.resource == sa.func.concat("vm:", sa.cast(Lease.vm_id, sa.Text)))
    rows = tx.execute(
        sa.select(
            Lease.id, Lease.state, Lease.ends_at, Lease.grace_until, Lease.off_wanted, PoolMember.state, Vm.state,
            Task.state, Task.error, busy, sa.and_(Lease.waited, Pool.call_s > 0), Lease.called_until,
        )
        .join(Pool, Pool.id == Lease.pool_id)
        .outerjoin(PoolMember, PoolMember.vm_id == Lease.vm_id)
        .outerjoin(Vm, Vm.id == PoolMember.vm_id)
        .outerjoin(Task, Task.id == PoolMember.task_id)
        .where(which, sa.text(f"lease.{LIVE}"))
        .order_by(Lease.queue_place)
    )  # fmt: skip
    return [
        (
            id,
            LeaseFacts(
                state=state,
                ends_at=ends_at,
                grace_until=grace_until,
                entitled=entitled.get(id, (True, None))[0],
                entitled_until=entitled.get(id, (True, None))[1],
                off_wanted=off_wanted,
                member_state=member_state,
                vm_state=vm_state,
                task="live" if locked else status(task_state),
                code=(error or {}).get("code", "lost"),
                to_call=to_call,
                called_until=called_until,
            ),
        )
        for id, state, ends_at, grace_until, off_wanted, member_state, vm_state, task_state, error, locked, to_call, called_until
        in rows
    ]


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


def status(task_state: str | None) -> str:
    """How a task stands, as the rules see it: none, live, done or failed."""
    if task_state is None:
        return "none"
    return {"succeeded": "done", "failed": "failed", "cancelled": "failed"}.get(task_state, "live")


def _do(tx: Tx, lease: Lease, pool: Pool, step: Step, entitled_until: datetime | None, now: datetime) -> None:
    member, vm, task = _desktop(tx, lease)
    why = members.error_of(task)[1]
    match step:
        case "warn" | "expire" | "take":
            leases.act(tx, lease, step, pool, now)
            if vm is not None and step != "take":
                members.tell_guest(tx, vm, _told(lease, step), now)
        case "disentitle":
            leases.give_back(tx, lease, "entitlement_ended", f"Your right to pool {pool.name} has ended.", now)
        case "shorten":
            assert entitled_until is not None
            leases.shorten(tx, lease, entitled_until, now)
        case "call":
            leases.call(tx, lease, pool, now)
            members.well(tx, pool)
        case "no_answer":
            leases.give_back(tx, lease, "no_answer", "You did not open your desktop in time; the next person gets it.", now)
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
            leases.postpone(tx, lease, why)
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
            gone = f"Desktop {vm.name} went down by itself." if vm is not None else "It was removed."
            leases.requeue(tx, lease, gone, now, counts=False)
        case "send_back":
            assert member is not None
            reset(tx, member, now)
        case "over":
            leases.end(tx, lease, now)


def _told(lease: Lease, step: Step) -> str:
    """What the people inside are shown."""
    if step == "warn":
        return f"Your lease of this desktop ends at {lease.ends_at:%H:%M} UTC. Save your work, or extend it in the portal."
    return f"Your lease has ended. Save your work now: the desktop is shut down at {lease.grace_until:%H:%M:%S} UTC."


def serve_queue(tx: Tx, pool: Pool, now: datetime, served: Served | None = None) -> None:
    """Give the pool's free desktops to those who wait, first come first served; or say that none will come."""
    queue = list(
        tx.scalars(
            sa.select(Lease).where(Lease.pool_id == pool.id, Lease.state == "queued")
            .order_by(Lease.priority.desc(), Lease.queue_place)
            .execution_options(**_FRESH)
        )
    )  # fmt: skip
    counts = facts.counts(tx, pool.id)
    if queue and hopeless(counts, pool.size):
        for lease in queue:
            with alone(tx, lease=str(lease.id)):
                leases.fail(tx, lease, "No desktop of the pool works: all of them have been set aside.", now)
        return
    if not queue or pool.state != "up":
        return
    candidates, trouble = facts.candidates(tx, pool.id), members.trouble_now(pool, now)
    dedicated = pool.type == "dedicated"
    anybodys = [] if dedicated else [c.member_id for c in free(candidates, trouble)]
    anybodys = anybodys[: max(0, len(anybodys) - surplus(counts, pool.size))]
    bookings, none_left = booked.any_open(tx, pool.id), False
    for lease in queue:
        kept = 0
        if bookings and lease.booking_id is None:
            kept = booked.reserved(tx, pool, now)  # the best ones wait for who has booked
            none_left = none_left or capacity.must_wait(booked.limit(tx, pool, now), now, pool.lease_s)
            if len(anybodys) <= kept or (none_left and lease.starts_at is None):
                continue
        with alone(tx, lease=str(lease.id)):
            if dedicated and (why := own_broken(candidates, lease.user_id)):
                leases.fail(tx, lease, why, now)
                continue
            theirs = [c.member_id for c in free(candidates, trouble, lease.user_id)] if dedicated else anybodys[kept:]
            member = leases.take_member(tx, pool.id, theirs, from_queue=True)
            if member is None and dedicated:
                continue  # others may have a desktop of their own that is free
            if member is None:
                return
            lease.waited = True
            if served is not None:
                served(tx, lease, member, candidates, now)
            leases.assign(tx, lease, member, now, words=facts.words(tx, lease, member.vm_id))
            anybodys = [id for id in anybodys if id != member.id]
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
    version = versions.due(tx, member)
    command = ResetMember(member.id) if version is None else RemakeMember(member.id, *version)
    member.task_id = submit(tx, command, SYSTEM, now).id
    return True


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
                    self._settle(tx, member, pool, step, why, now)

    def _settle(self, tx: Tx, member: PoolMember, pool: Pool, step: MemberStep, why: str, now: datetime) -> None:
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
        staying, making = pool.state != "removing", _making(tx, pool.id)
        counts = facts.counts(tx, pool.id)
        if not staying and not counts and not making:
            with alone(tx, pool=str(pool.id)):
                _forget(tx, pool)
            return
        if pool.retry_at is not None and now < pool.retry_at:
            return
        counts["creating"] = max(counts.get("creating", 0), making)
        queued = facts.queued(tx, pool.id) if pool.state == "up" else 0
        spares, slack = self._spares(tx, pool, now) if pool.state == "up" else (0, 0)
        need = partial(wanted, counts, queued, pool.size if staying else 0, spares, slack=slack)
        plan = need(makes=MOST, starts=MOST)
        if plan.create or plan.warm:
            plan = need(makes=burden.makes(tx, pool, now), starts=burden.starts(tx, pool, now))
        if pool.trouble:  # one is enough to find out whether it is over
            plan = replace(plan, create=min(plan.create, 1), warm=min(plan.warm, 1))
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
        for member in self._some(tx, pool.id, ("broken", "ready"), plan.remove, also_kept=not staying):
            with alone(tx, member=str(member.id)):
                if not members.locked(tx, member):
                    member.task_id = submit(tx, RemoveMember(member.id), SYSTEM, now).id

    def _spares(self, tx: Tx, pool: Pool, now: datetime) -> tuple[int, int]:
        """How many spares are wanted now, and how much surplus is left alone because past weeks are no exact science."""
        lead = max(LEAST_LEAD, timedelta(seconds=2 * facts.boot_s(tx, pool.id)))
        policy = planned(pool.spares, burden.plans(tx, pool.id), lead, now)
        past = 0
        if pool.spares_learn:
            known = self._past.get(pool.id)
            if known is None or not known[0] <= now < known[0] + PAST_FOR:
                known = self._past[pool.id] = (now, learned(burden.asked_before(tx, pool.id, now, max(lead, AHEAD))))
            past = known[1]
        return wanted_spares(policy, past, booked.reserved(tx, pool, now), pool.size), past // 4

    def _some(
        self, tx: Tx, pool_id: UUID, states: tuple[str, ...], count: int, *, also_kept: bool = False
    ) -> list[PoolMember]:
        """So many members in these states, the first state's first, the newest first; of those that belong to somebody none,
        unless they are asked for too."""
        if count <= 0:
            return []
        order = sa.case({state: n for n, state in enumerate(states)}, value=PoolMember.state)
        rows = sa.select(PoolMember).join(Vm, Vm.id == PoolMember.vm_id).where(PoolMember.pool_id == pool_id)
        if not also_kept:
            rows = rows.where(~sa.exists().where(Assignment.vm_id == PoolMember.vm_id))
        rows = rows.where(PoolMember.state.in_(states)).order_by(order, sa.func.length(Vm.name).desc(), Vm.name.desc())
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
