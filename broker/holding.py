"""What holders do with their desktops: give back, extend, leave the queue, start, shut down, get a fresh one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.directory import rights
from backend.directory.rules import may
from backend.errors import Denied, Impossible, Invalid, NotFound, Refused
from backend.tasks.command import Actor
from backend.tasks.models import ResourceLock, Task
from backend.tasks.submit import submit
from backend.vms.commands.power import ShutdownVm, StartVm, StopVm
from backend.vms.commands.reboot import RebootVm
from backend.vms.commands.snapshots import GoBack, RemoveSnapshot, SnapshotVm
from backend.vms.models import Vm
from broker import decisions, tickets
from broker.desktops import OWN_ACTIONS, paused
from broker.rules import SHOWN, Asked, choose
from pools import booked, facts, leases, troubles
from pools.choice import becoming
from pools.decisions import note
from pools.models import Lease, Pool
from pools.room import room
from pools.rules import HOLDING, entitled

_FRESH = {"populate_existing": True}


def no_desktop(id: UUID) -> NotFound:
    """What a person is told of a desktop that is not theirs, whether it exists or not."""
    return NotFound("not_found", "You have no such desktop. Your portal lists those you may use.", kind="desktop", id=str(id))


def _mine(tx: Tx, user_id: UUID, lease_id: UUID) -> Lease:
    lease = tx.get(Lease, lease_id, with_for_update=True, populate_existing=True)
    if lease is None or lease.user_id != user_id:
        raise NotFound("not_found", "You have no such lease.", kind="lease", id=str(lease_id))
    return lease


def give_back(tx: Tx, *, user_id: UUID, lease_id: UUID, now: datetime) -> Lease:
    """The person gives the desktop back, or leaves the queue. Done twice, it is done."""
    lease = _mine(tx, user_id, lease_id)
    leases.give_back(tx, lease, "returned", "You gave it back.", now)
    tickets.revoke_for(tx, lease_id=lease.id, why="You gave the desktop back.", now=now)
    return lease


def leave_queue(tx: Tx, *, user_id: UUID, lease_id: UUID, now: datetime) -> Lease:
    """The person waits no longer; `Impossible` when they have a desktop by now."""
    lease = _mine(tx, user_id, lease_id)
    if lease.state not in ("queued", "ended"):
        raise Impossible("not_queued", "You do not wait any more: you have a desktop. Give it back instead.")
    leases.give_back(tx, lease, "returned", "You left the queue.", now)
    return lease


def extend(tx: Tx, *, user_id: UUID, lease_id: UUID, now: datetime) -> Lease:
    """One more extension, by the pool's policy; `Impossible` in words otherwise."""
    seen = tx.get(Lease, lease_id)
    if seen is not None and seen.user_id == user_id:
        booked.guard(tx, seen.pool_id)
    lease = _mine(tx, user_id, lease_id)
    pool = get(tx, Pool, lease.pool_id)
    good, until = entitled(rights.grants_of(tx, user_id), facts.pool_path(tx, pool), now)
    if not good:
        raise Denied("entitlement_ended", f"Your right to pool {pool.name} has ended.")
    leases.extend(tx, lease, until, now)
    return lease


def extension_refused(tx: Tx, *, user_id: UUID, lease_id: UUID, why: str, now: datetime) -> None:
    """Keep that, and why, the person's lease was not extended: after the refused transaction, in one of its own."""
    lease = tx.get(Lease, lease_id)
    if lease is not None and lease.user_id == user_id:
        note(tx, lease, "not_extended", why, now)


@dataclass(frozen=True)
class Done:
    """What an action began: the sentence for the person, and the task to follow, if there is one."""

    sentence: str
    task_id: int | None = None
    refusal: Refused | None = None  # to raise after commit: the decision must be kept


RIGHT_OF = {"go_back": "snapshot", "remove_snapshot": "snapshot"}  # verbs that go by another one's right


def act(
    tx: Tx, *, user_id: UUID, desktop_id: UUID, verb: str, now: datetime, name: str = "", snapshot_id: UUID | None = None
) -> Done:
    """Start, shut down, reboot, reset (a fresh desktop), swap (another one) or snapshot (with a `name`), go back to or remove
    a snapshot of a desktop that the person holds, as the pool's rights allow; start, shut down or stop a VM of their own."""
    lease, pool, vm = _held(tx, user_id, desktop_id, now)
    allowed = OWN_ACTIONS if pool is None else tuple(pool.rights)
    if RIGHT_OF.get(verb, verb) not in allowed:
        what = verb.replace("_", " ")
        raise Denied("action_not_allowed", f"You may not {what} this desktop; possible: {', '.join(allowed) or 'nothing'}.")
    if lease is not None and lease.state not in ("active", "expiring"):
        how = "is still starting" if lease.state == "starting" else "is about to be taken back"
        raise Impossible("wrong_state", f"Your desktop {how}; this is not possible now.", state=lease.state)
    if verb == "reset":
        assert lease is not None and pool is not None
        leases.renew(tx, lease)
        tickets.revoke_for(tx, lease_id=lease.id, why="You asked for a fresh desktop.", now=now)
        return Done("You get a fresh desktop; everything on the old one is thrown away.")
    if verb == "swap":
        assert lease is not None and pool is not None
        return _swap(tx, lease, pool, vm, now)
    if lease is not None and verb in ("start", "shutdown", "stop"):
        lease.off_wanted = verb != "start"
        touch(tx, "lease", lease.id, user_id=user_id, pool_id=lease.pool_id)
    command, sentence = _command(verb, vm, pool.shutdown_s if pool else 120, name, snapshot_id)
    task = holding(tx, vm)
    if task is not None and task.command == command.name:  # asked twice, it is done once
        return Done(f"Desktop {vm.name} {sentence} already.", task.id)
    task = _submit(tx, command, vm, user_id, now)
    return Done(f"Desktop {vm.name} {sentence}.", task.id)


def _command(verb: str, vm: Vm, shutdown_s: int, name: str, snapshot_id: UUID | None) -> tuple[Any, str]:
    """What is to be done, and how one says that it is."""
    match verb:
        case "start":
            return StartVm(vm.id), "is starting"
        case "shutdown":
            return ShutdownVm(vm.id, shutdown_s), "is shutting down"
        case "stop":
            return StopVm(vm.id), "is being switched off"
        case "reboot":
            return RebootVm(vm.id, shutdown_s), "is rebooting"
        case "snapshot":
            return SnapshotVm(vm.id, name), "is being kept as it is now"
    if snapshot_id is None:
        raise Invalid("missing_field", "Say which snapshot.", fields=["snapshot_id"])
    if verb == "go_back":
        return GoBack(vm.id, snapshot_id), "is being made as it was"
    return RemoveSnapshot(vm.id, snapshot_id), "loses a snapshot"


def _no_start(tx: Tx, pool: Pool) -> str:
    """Why no other desktop of the pool can be started now; empty when one can."""
    obstacle = room(tx, pool).obstacle
    return obstacle.sentence if obstacle is not None else troubles.holding(pool)


def _swap(tx: Tx, lease: Lease, pool: Pool, vm: Vm, now: datetime) -> Done:
    """Another desktop for the rest of the lease, if one is free and nobody waits for it; else they keep theirs."""
    if pool.type == "dedicated":
        raise Impossible("own_desktop", f"Desktop {vm.name} is yours to keep; there is no other one for you.")
    trouble, counts = _no_start(tx, pool), facts.counts(tx, pool.id)
    kept = 0 if lease.booking_id else booked.reserved(tx, pool, now)
    looked_at = facts.candidates(tx, pool.id, best=SHOWN)
    choice = choose(Asked(pool.name, looked_at, trouble=trouble, reserved=kept, paused=paused(pool)))
    member = leases.take_member(tx, pool.id, [c.member_id for c in choice.order], for_lease=lease)
    known: dict[str, Any] = {
        "user_id": lease.user_id, "pool_id": pool.id, "reasons": choice.reasons, "counts": counts, "now": now, "lease": lease,
    }  # fmt: skip
    if member is None:
        because = "others wait for a desktop" if facts.queued(tx, pool.id) else "no other desktop is free"
        sentence = f"You keep desktop {vm.name}: {because} now."
        decisions.keep(tx, outcome="refused", sentence=sentence, **known)
        return Done(sentence, refusal=Impossible("no_other_desktop", sentence, pool=pool.name))
    how, name = becoming(member.state), get(tx, Vm, member.vm_id).name
    sentence = f"You get desktop {name} in place of {vm.name}{'' if how == 'ready' else f'; it is {how}'}. Your time goes on."
    leases.swap(tx, lease, member, now)
    tickets.revoke_for(tx, lease_id=lease.id, why="You asked for another desktop.", now=now)
    decisions.keep(tx, outcome="swapped", sentence=sentence, member=member, **known)
    touch(tx, "pool", pool.id, pool_id=pool.id)
    return Done(sentence)


def _held(tx: Tx, user_id: UUID, desktop_id: UUID, now: datetime) -> tuple[Lease | None, Pool | None, Vm]:
    """The person's lease, pool and VM by the id in their list; a VM of their own has neither lease nor pool."""
    row = tx.execute(
        sa.select(Lease, Pool, Vm)
        .join(Pool, Pool.id == Lease.pool_id)
        .join(Vm, Vm.id == Lease.vm_id)
        .where(Lease.user_id == user_id, Lease.state.in_(HOLDING), sa.or_(Pool.id == desktop_id, Vm.id == desktop_id))
        .order_by(Lease.queue_place)
        .with_for_update(of=Lease)
        .execution_options(**_FRESH)
    ).first()
    if row is not None:
        return row[0], row[1], row[2]
    vm = tx.get(Vm, desktop_id, populate_existing=True)
    if vm is None or vm.pool_id is not None:
        raise no_desktop(desktop_id)
    if not may(rights.grants_of(tx, user_id), "desktop.use", rights.path_of(tx, "vm", vm.id), now):
        raise no_desktop(desktop_id)
    return None, None, vm


def submit_for(tx: Tx, command: Any, vm: Vm, user_id: UUID, now: datetime) -> Task | None:
    """Have it done unless a task is at the VM already: then None, and who waits for the VM looks again."""
    return None if holding(tx, vm) is not None else _submit(tx, command, vm, user_id, now)


def holding(tx: Tx, vm: Vm) -> Task | None:
    """The task that is at this VM."""
    at_it = sa.select(Task).join(ResourceLock, ResourceLock.task_id == Task.id).where(ResourceLock.resource == f"vm:{vm.id}")
    return tx.scalars(at_it).first()


def _submit(tx: Tx, command: Any, vm: Vm, user_id: UUID, now: datetime) -> Task:
    """The person's own right is checked before; the system carries it out in their name. `Busy` names the task at it."""
    task = submit(tx, command, Actor(None, facts.person(tx, user_id), "Their own desktop"), now)
    task.actor_id = user_id  # theirs to look at, and to cancel
    return task
