"""Expire leases and serve the queue. Everything from rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx, get
from backend.events import move
from backend.loops import FromRows
from backend.tasks.models import ResourceLock, Task
from backend.tasks.submit import cancel
from backend.vms.models import Vm
from pools import booked, capacity, facts, leases, members, times, troubles
from pools.choice import OFF, Candidate, free, own_broken
from pools.member_rules import hopeless, startable, surplus
from pools.models import LIVE, Lease, Pool, PoolMember
from pools.room import room
from pools.rounds import alone, my_turn, reset, status
from pools.rules import LeaseFacts, Step, lease_step

_FRESH = {"populate_existing": True}

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


def _do(tx: Tx, lease: Lease, pool: Pool, step: Step, entitled_until: datetime | None, now: datetime) -> None:
    member, vm, task = _desktop(tx, lease)
    code, why = members.error_of(task)
    match step:
        case "warn" | "expire" | "take":
            leases.act(tx, lease, step, pool, now)
            if vm is not None and step != "take":
                members.tell_guest(tx, vm, _told(tx, lease, step, entitled_until, now), now)
        case "disentitle":
            ended = f"Your right to pool {pool.name} has ended."
            if vm is not None:
                members.tell_guest(tx, vm, f"{ended} This desktop is shutting down.", now)
            leases.give_back(tx, lease, "entitlement_ended", ended, now)
        case "shorten":
            assert entitled_until is not None
            leases.shorten(tx, lease, entitled_until, now)
        case "call":
            leases.call(tx, lease, pool, now)
        case "no_answer":
            leases.give_back(tx, lease, "no_answer", "You did not open your desktop in time; the next person gets it.", now)
        case "too_late":
            leases.fail(tx, lease, "Your lease ended before another desktop was free.", now, "expired")
        case "ready":
            leases.ready(tx, lease, pool, entitled_until, now)
        case "start":
            assert member is not None
            members.start(tx, member, now)
        case "later":
            assert member is not None and vm is not None
            move(tx, member, "unwoken" if vm.state == "suspended" else "unstarted", task_id=None)
            troubles.start_failed(tx, pool, code, why, vm, now)
            leases.postpone(tx, lease, pool.trouble or why)
        case "spoiled":  # the spare is made as new by the other loop; the person is next
            leases.requeue(tx, lease, why, now, counts=False)
        case "silent":
            leases.requeue(tx, lease, "Its host does not answer.", now, counts=False)
            if task is not None and members.is_live(task):
                cancel(tx, task, now)
            if member is not None:
                members.lost_sight(tx, member)
        case "broke":
            why = "It was removed." if vm is None else why
            leases.requeue(tx, lease, why, now)
            if task is not None and members.is_live(task):
                cancel(tx, task, now)
            if member is not None:
                members.set_aside(tx, member, why)
            if step == "broke" and vm is not None and vm.template_id == pool.template_id:
                troubles.not_booted(tx, pool, why, now)
        case "died":
            gone = f"Desktop {vm.name} went down by itself." if vm is not None else "It was removed."
            leases.requeue(tx, lease, gone, now, counts=False)
        case "off":  # it was to be started again and could not be: it is theirs, and off
            lease.off_wanted = True
        case "send_back":
            assert member is not None
            reset(tx, member, now)
        case "over":
            leases.end(tx, lease, now)


def _told(tx: Tx, lease: Lease, step: Step, entitled_until: datetime | None, now: datetime) -> str:
    """What the people inside are shown."""
    until = lease.ends_at if step == "warn" else lease.grace_until
    assert until is not None
    at = times.for_people(tx, lease.pool_id, until, now)
    if step != "warn":
        return f"Your lease has ended. Save your work now: the desktop is shut down at {at}."
    if entitled_until is not None and until >= entitled_until:
        return f"Your right to this desktop ends at {at}; it is shut down then. Save your work."
    return f"Your lease of this desktop ends at {at}. Save your work, or extend it in the portal."


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
    looks = pool.retry_at is None or troubles.trying(pool, now)
    candidates, trouble = facts.candidates(tx, pool.id), "" if looks else troubles.holding(pool)
    off = {c.member_id for c in candidates if c.state in OFF}
    starts = _starts(tx, pool, queue, counts, now) if off and not trouble else 0
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
            theirs = [id for id in theirs if starts or id not in off]
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
            if member.id in off:
                starts -= 1
                if troubles.trying(pool, now):
                    troubles.put_off(pool, now)
            touch(tx, "pool", pool.id, pool_id=pool.id)


def _starts(tx: Tx, pool: Pool, queue: Sequence[Lease], counts: Mapping[str, int], now: datetime) -> int:
    """How many desktops can be started for those who wait; what is in the way of the others is told. While it is not known
    whether a trouble is over one is enough to find out."""
    places = [lease.queue_place for lease in queue][: startable(counts, pool.size)]
    seen = room(tx, pool, places) if places else None
    if seen is None:
        return 0
    if seen.obstacle is not None:
        troubles.see(tx, pool, seen.obstacle, now)
    return min(seen.starts, 1) if troubles.trying(pool, now) else seen.starts
