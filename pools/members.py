"""What happens to one member: started, set aside; and what became of the task that moves it on."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Refused
from backend.events import move
from backend.tasks.command import SYSTEM
from backend.tasks.models import ResourceLock, Task
from backend.tasks.submit import submit
from backend.vms.commands.guest import MessageVm
from backend.vms.commands.power import StartVm
from backend.vms.commands.suspend import ResumeVm, SuspendVm
from backend.vms.models import Vm
from pools import versions
from pools.models import Assignment, Pool, PoolMember


def start(tx: Tx, member: PoolMember, now: datetime) -> bool:
    """Have the member's VM started or resumed; False when something else is at it just now, and one must look again."""
    vm = get(tx, Vm, member.vm_id)
    if vm.state not in ("down", "suspended") or locked(tx, member):
        return False
    command = ResumeVm(vm.id) if vm.state == "suspended" else StartVm(vm.id)
    member.task_id = submit(tx, command, SYSTEM, now).id
    return True


def save(tx: Tx, member: PoolMember, now: datetime) -> bool:
    """Have a spare suspended; False when something else is at it just now."""
    if get(tx, Vm, member.vm_id).state != "up" or locked(tx, member):
        return False
    member.task_id = submit(tx, SuspendVm(member.vm_id), SYSTEM, now).id
    return True


def belong(tx: Tx, member: PoolMember, user_id: UUID, now: datetime) -> None:
    """The member is this person's from now on; if it is already, nothing changes."""
    if tx.scalar(sa.select(Assignment.id).where(Assignment.vm_id == member.vm_id)) is None:
        tx.add(Assignment(pool_id=member.pool_id, user_id=user_id, vm_id=member.vm_id, since=now))
        tx.flush()
        touch(tx, "member", member.id, user_id=user_id, pool_id=member.pool_id)


def locked(tx: Tx, member: PoolMember) -> bool:
    """Whether a task holds the member's VM."""
    return tx.scalar(sa.select(ResourceLock.task_id).where(ResourceLock.resource == f"vm:{member.vm_id}")) is not None


def task_of(tx: Tx, member: PoolMember) -> Task | None:
    """The task that moves the member on, or was to."""
    return tx.get(Task, member.task_id, populate_existing=True) if member.task_id else None


def is_live(task: Task | None) -> bool:
    """Whether the task is still to end."""
    return task is not None and task.state in ("queued", "running")


def error_of(task: Task | None) -> tuple[str, str]:
    """Code and sentence of why the task came to nothing."""
    error: dict[str, Any] = (task.error if task else None) or {}
    return error.get("code", "lost"), error.get("message", "The task was lost.")


def set_aside(tx: Tx, member: PoolMember, why: str) -> None:
    """The member broke: nobody gets it until it is repaired."""
    vm, pool = get(tx, Vm, member.vm_id), get(tx, Pool, member.pool_id)
    versions.broke(tx, member, why)
    move(tx, member, "broke", words={"vm": vm.name, "pool": pool.name}, why=why)


def lost_sight(tx: Tx, member: PoolMember) -> None:
    """The member's host does not answer, and its person gets another one. That is not the desktop's fault: it is made as new
    as soon as it is known to be off."""
    move(tx, member, "reset", task_id=None, why="Its host does not answer.")


def tell_guest(tx: Tx, vm: Vm, text: str, now: datetime) -> None:
    """Have the people inside a VM shown this, if its guest agent answers; that it cannot be shown now harms nothing."""
    if vm.state != "up" or vm.guest is None:
        return
    with suppress(Refused), tx.begin_nested():
        submit(tx, MessageVm(vm.id, text), SYSTEM, now)
