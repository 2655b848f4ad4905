"""`submit(tx, command, actor)`: permission, check, locks, one Task row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.changes import touch
from backend.db import Tx
from backend.directory import rights
from backend.errors import Busy
from backend.events import move, record
from backend.tasks.command import Actor, Job
from backend.tasks.models import ResourceLock, Task

WAKE = "leasehold_tasks"  # the channel that runners listen on


def submit(tx: Tx, command: Any, actor: Actor, now: datetime) -> Task:
    """Write the wanted thing down as a task, or refuse in words; nothing is asked of a host here.

    A command without steps is carried out at once, in this transaction, and its task is already `succeeded`.
    """
    kind, id = command.target(tx)
    rights.require(tx, actor, command.permission, kind, id, now)
    command.check(tx)
    task = Task(
        command=command.name,
        args=_kept(command),
        title=command.title(tx),
        object_kind=kind,
        object_id=id,
        actor_id=actor.user_id,
        actor_name=actor.name,
        reason=actor.reason,
        not_before=now,
        created_at=now,
    )
    tx.add(task)
    tx.flush()
    _lock(tx, task, sorted(set(command.locks(tx))), getattr(command, "instead_of", ()), now)
    if command.steps:
        tx.execute(sa.text(f"NOTIFY {WAKE}"))
        touch(tx, "task", task.id, user_id=task.actor_id)
    else:
        move(tx, task, "claim", started_at=now)
        result = command.run(tx, actor, now)
        finish(tx, task, "succeed", now, result=None if result is None else msgspec.to_builtins(result), progress=100)
    return task


def finish(tx: Tx, task: Task, event: str, now: datetime, **changes: Any) -> None:
    """End a task and free what it holds."""
    move(tx, task, event, ended_at=now, worker_id=None, claim=None, **changes)
    tx.execute(sa.delete(ResourceLock).where(ResourceLock.task_id == task.id))
    if event == "fail" and (error := changes.get("error")):
        record(tx, "task.failed", task, task_id=task.id, task=task.id, title=task.title, why=error["message"])


def cancel(tx: Tx, task: Task, now: datetime) -> None:
    """Wish the task away: a queued one ends at once, a running one stops before its next step or within it."""
    if task.state == "queued":
        finish(tx, task, "cancelled", now, message="Cancelled before it began.")
    elif task.state == "running" and not task.cancel_wanted:
        task.cancel_wanted = True
        task.not_before = now
        tx.execute(sa.text(f"NOTIFY {WAKE}"))


def job_of(task: Task, results: dict[str, Any], now: datetime) -> Job:
    """What the steps of this task may know of it."""
    return Job(task.id, Actor(task.actor_id, task.actor_name, task.reason), results, now, task.cancel_wanted)


def _kept(command: Any) -> dict[str, Any]:
    """The fields that stand in the task's row. A command without steps is never read from there again, so its secrets do not."""
    args: dict[str, Any] = msgspec.to_builtins(command)
    return args if command.steps else {name: value for name, value in args.items() if not name.endswith("_sealed")}


def _lock(tx: Tx, task: Task, resources: list[str], instead_of: tuple[str, ...], now: datetime) -> None:
    """Take all of them in sorted order, so that two tasks never wait for each other; `Busy` names the holder."""
    for resource in resources:
        taken = _take(tx, task, resource)
        if not taken and instead_of:
            taken = _take_over(tx, task, resource, instead_of, now)
        if not taken:
            holder = tx.execute(
                sa.select(Task.id, Task.title)
                .join(ResourceLock, ResourceLock.task_id == Task.id)
                .where(ResourceLock.resource == resource)
            ).first()
            by = f"task {holder.id}, “{holder.title}”," if holder else "another task that has just ended"
            raise Busy(
                "busy",
                f"Not now: {by} is at it. Try again when it is done.",
                resource=resource,
                task=holder.id if holder else None,
            )


def _take(tx: Tx, task: Task, resource: str) -> bool:
    mine = pg.insert(ResourceLock).values(resource=resource, task_id=task.id).on_conflict_do_nothing()
    return tx.execute(mine.returning(ResourceLock.resource)).first() is not None


def _take_over(tx: Tx, task: Task, resource: str, instead_of: tuple[str, ...], now: datetime) -> bool:
    """Take it from a task that this one is wanted instead of: that one is cancelled, and this one begins when it has ended."""
    held = sa.select(Task).join(ResourceLock, ResourceLock.task_id == Task.id).where(ResourceLock.resource == resource)
    holder = tx.scalars(held.with_for_update(of=Task).execution_options(populate_existing=True)).first()
    if holder is None or holder.state not in ("queued", "running"):
        return _take(tx, task, resource)  # it has ended meanwhile
    if holder.command not in instead_of:
        return False
    cancel(tx, holder, now)
    if holder.state == "running":
        tx.execute(sa.update(ResourceLock).where(ResourceLock.resource == resource).values(task_id=task.id))
        task.after_id, task.message = holder.id, f"Waits until “{holder.title}” is cancelled."
        return True
    return _take(tx, task, resource)
