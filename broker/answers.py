"""What connect says: ready, starting, queued or refused; and how a start, or the queue, stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.errors import Refused
from backend.hosts.models import Host
from backend.tasks.models import Task
from backend.vms.models import Vm
from broker.desktops import paused
from broker.models import Ticket
from pools import booked, facts
from pools.models import Lease, Pool
from pools.trouble_rules import GOES_ON, Obstacle


@dataclass(frozen=True)
class Answer:
    """What connect says: ready (with a ticket), starting, queued, or refused (with the `refusal` to raise after commit:
    the decision must be kept)."""

    state: str
    sentence: str
    lease: Lease | None = None
    vm_id: UUID | None = None
    vm_name: str = ""
    ticket: Ticket | None = None
    protocol: str = ""
    position: int | None = None  # 1: next
    estimate_s: int | None = None  # None: nobody knows
    progress: int = 0  # per cent
    message: str = ""  # what the running task says
    task_id: int | None = None
    refusal: Refused | None = field(default=None, compare=False)
    extensions_left: int = 0  # of the lease


def starting(tx: Tx, vm: Vm, lease: Lease | None, boot_s: float, now: datetime) -> Answer:
    """What the running task says, and how long such a start takes less what has passed."""
    task = tx.scalars(
        sa.select(Task)
        .where(Task.object_kind == "vm", Task.object_id == vm.id, Task.state.in_(("queued", "running")))
        .order_by(Task.id.desc())
        .limit(1)
    ).first()
    host = tx.get(Host, vm.host_id) if vm.host_id else None
    silent = vm.state in ("unknown", "not_responding") or (host is not None and host.state != "up" and vm.state != "down")
    if silent:
        sentence = f"Desktop {vm.name} cannot be reached now: its host does not answer. You are connected when it does."
    elif vm.state in ("suspended", "restoring_state"):
        where = " where it was left" if lease is None or lease.starts_at is not None else ""
        sentence = f"Desktop {vm.name} is waking up{where}."
    elif vm.state == "powering_down":
        sentence = f"Desktop {vm.name} is shutting down; connect again when it is off."
    else:
        sentence = f"Desktop {vm.name} is starting."
    if lease is not None and lease.why:
        sentence = f"{lease.why} {sentence}"
    elif task is None and vm.why:
        sentence = f"{sentence} The last time: {vm.why}"
    left = None if silent else max(1, round(boot_s - ((now - task.created_at).total_seconds() if task else 0)))
    return Answer(
        "starting",
        sentence,
        lease,
        vm.id,
        vm.name,
        estimate_s=left,
        progress=task.progress if task else 0,
        message=task.message if task else "",
        task_id=task.id if task else None,
    )


def no_room(vm: Vm, lease: Lease | None, obstacle: Obstacle) -> Answer:
    """Their own desktop is off, and nothing can start it now: it is not tried. The page asks again."""
    sentence = f"{obstacle.sentence} Desktop {vm.name} starts as soon as that is over; keep this page open."
    return Answer("starting", sentence, lease, vm.id, vm.name)


def waiting(tx: Tx, pool: Pool, lease: Lease, now: datetime) -> Answer:
    """The place in the queue, when the turn comes, and what the pool is doing about it."""
    place = facts.position(tx, lease)
    estimate = facts.wait_s(tx, pool, place, now) if not pool.trouble else None  # nobody knows how long that lasts
    counts = facts.counts(tx, pool.id)
    if sentence := paused(pool):
        why = sentence
    elif lease.booking_id is None and (blocked := booked.must_wait(tx, pool, lease.user_id, now))[0]:
        why, after = blocked
        if after is not None and estimate is not None:  # the estimate knows nothing of bookings
            estimate = max(estimate, round((after - now).total_seconds()))
    elif pool.trouble or lease.attempts or lease.starts_at:  # something went wrong, or they asked for a fresh one
        why = f"{pool.trouble} {GOES_ON}" if pool.trouble else lease.why
    elif counts.get("leased", 0) + counts.get("broken", 0) < pool.size:
        why = "A desktop is being prepared."
    else:
        why = "All desktops are in use."
    who = "You are next." if place == 1 else f"{place - 1} {'person is' if place == 2 else 'people are'} before you."
    return Answer("queued", f"{why} {who}", lease, position=place, estimate_s=estimate, message=who)
