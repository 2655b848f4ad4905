"""Make, reset, repair and remove a pool's desktops: the steps of the VM commands, and the member's own moves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.directory.models import User
from backend.errors import Impossible
from backend.events import move, record
from backend.tasks.command import GO_ON, Actor, Call, Job, Plain
from backend.vms.commands.define import CreateVm, RemoveVm, ResetVm
from backend.vms.commands.power import ShutdownVm, StopVm
from backend.vms.machine import VM
from backend.vms.models import Vm
from hostapi.types import Failure
from pools import facts, leases, members, troubles
from pools.choice import FREE
from pools.models import Assignment, Pool, PoolMember
from pools.rules import HOLDING, NOT_ITS_FAULT


@dataclass(frozen=True)
class AddMember(Plain):
    """Make one more desktop of a pool: a VM whose disk is an overlay of the template's."""

    pool_id: UUID
    vm_name: str
    template_id: UUID | None = None  # none: the version that the pool wants
    name, permission, steps = "pool.add_member", "pool.edit", ("define", "volume")

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "pool", self.pool_id

    def title(self, tx: Tx) -> str:
        return f"Make desktop {self.vm_name} of pool {get(tx, Pool, self.pool_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return self._create(tx).locks(tx)

    def check(self, tx: Tx) -> None:
        self._create(tx).require_possible(tx)

    def define(self, tx: Tx, job: Job) -> None:
        pool = get(tx, Pool, self.pool_id, lock=True)
        if pool.state == "removing":
            raise Impossible("pool_removing", f"Pool {pool.name} is being removed.")
        self._create(tx).define(tx, job)
        vm = tx.scalars(sa.select(Vm).where(Vm.name == self.vm_name)).one()
        member = PoolMember(pool_id=pool.id, vm_id=vm.id, state=PoolMember.machine.initial, task_id=job.task_id)
        tx.add(member)
        tx.flush()
        touch(tx, "member", member.id, pool_id=pool.id)

    def define_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        self._paused(tx, job, failure)

    def volume(self, tx: Tx, job: Job) -> Call | None:
        return self._create(tx).volume(tx, job)

    def volume_done(self, tx: Tx, job: Job, path: str) -> None:
        self._create(tx).volume_done(tx, job, path)

    def volume_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        self._create(tx).volume_failed(tx, job, failure)
        self._paused(tx, job, failure)

    def volume_undo(self, tx: Tx, job: Job) -> Call | None:
        return self._create(tx).volume_undo(tx, job)

    def define_undo(self, tx: Tx, job: Job) -> None:
        vm_id = tx.scalar(sa.select(Vm.id).where(Vm.name == self.vm_name))
        tx.execute(sa.delete(PoolMember).where(PoolMember.vm_id == vm_id))
        self._create(tx).define_undo(tx, job)
        touch(tx, "pool", self.pool_id, pool_id=self.pool_id)

    def ended(self, tx: Tx, job: Job, state: str) -> None:
        member = tx.scalars(sa.select(PoolMember).join(Vm, Vm.id == PoolMember.vm_id).where(Vm.name == self.vm_name)).first()
        if state == "succeeded" and member is not None and member.state == "creating":
            move(tx, member, "created", task_id=None, why="")
            troubles.made(tx, get(tx, Pool, self.pool_id))

    def _create(self, tx: Tx) -> CreateVm:
        pool = get(tx, Pool, self.pool_id)
        return CreateVm(self.vm_name, self.template_id or pool.template_id, pool.domain_id, pool.id)

    def _paused(self, tx: Tx, job: Job, failure: Failure) -> None:
        if failure.code not in ("cancelled", "name_taken"):
            troubles.make_failed(tx, get(tx, Pool, self.pool_id), failure.code, failure.message, job.now)


class _OnMember(Plain):
    """What the commands on one member share."""

    member_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "member", self.member_id

    def title(self, tx: Tx) -> str:
        return f"{self.verb} desktop {self._vm(tx).name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"vm:{self._member(tx).vm_id}"]

    def _member(self, tx: Tx) -> PoolMember:
        return get(tx, PoolMember, self.member_id)

    def _vm(self, tx: Tx) -> Vm:
        return get(tx, Vm, self._member(tx).vm_id)

    def _stop(self, tx: Tx, job: Job) -> Call | None:
        """Cut the power, unless the VM is proved off."""
        vm = self._vm(tx)
        if vm.state == "down":
            return None
        if not VM.may(vm.state, "stop"):
            raise Impossible("vm_unknown", f"Desktop {vm.name} is {vm.state.replace('_', ' ')}: nobody can switch it off now.")
        return StopVm(vm.id).stop(tx, job)

    def _broke(self, tx: Tx, job: Job, failure: Failure) -> None:
        member = self._member(tx)
        if failure.code not in NOT_ITS_FAULT and PoolMember.machine.may(member.state, "broke"):
            members.set_aside(tx, member, failure.message)


@dataclass(frozen=True)
class ResetMember(_OnMember):
    """Make a desktop as new: shut down, power off if it will not, throw away what was written, free again."""

    member_id: UUID
    name, permission = "member.reset", "pool.edit"
    steps: ClassVar[tuple[str, ...]] = ("shutdown", "stop", "reset")
    verb = "Reset"

    def check(self, tx: Tx) -> None:
        require(tx, self._member(tx), ("ready", "spare", "saving", "suspended", "leased", "resetting"), "reset")

    def shutdown(self, tx: Tx, job: Job) -> Call | None:
        """Take the member out of use, and let its guest end in order."""
        member, vm = get(tx, PoolMember, self.member_id, lock=True), self._vm(tx)
        self.check(tx)
        begin = {"leased": "reset", "ready": "reset", "broken": "repair", "spare": "fell", "saving": "fell", "suspended": "fell"}
        if (event := begin.get(member.state)) is not None:
            pool = get(tx, Pool, member.pool_id)
            move(tx, member, event, words={"vm": vm.name, "pool": pool.name}, task_id=job.task_id, why="")
        return self._shutdown(tx).shutdown(tx, job) if vm.state == "up" else None

    def shutdown_done(self, tx: Tx, job: Job, result: Any) -> None:
        self._shutdown(tx).shutdown_done(tx, job, result)

    def shutdown_failed(self, tx: Tx, job: Job, failure: Failure) -> str | None:
        self._shutdown(tx).shutdown_failed(tx, job, failure)
        return GO_ON if self._member(tx).state == "resetting" else None

    def stop(self, tx: Tx, job: Job) -> Call | None:
        return self._stop(tx, job)

    def stop_done(self, tx: Tx, job: Job, result: Any) -> None:
        StopVm(self._vm(tx).id).stop_done(tx, job, result)

    def stop_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        StopVm(self._vm(tx).id).stop_failed(tx, job, failure)
        self._broke(tx, job, failure)

    def reset(self, tx: Tx, job: Job) -> Call | None:
        """The VM is proved off: its lease is over, and so is everything that was written under it."""
        vm = self._vm(tx)
        leases.over(tx, vm.id, job.now)
        member = self._member(tx)
        if not get(tx, Pool, member.pool_id).stateless and not member.fresh_wanted:
            return None
        return ResetVm(vm.id).reset(tx, job)

    def reset_done(self, tx: Tx, job: Job, path: str) -> None:
        ResetVm(self._vm(tx).id).reset_done(tx, job, path)
        self._member(tx).fresh_wanted = False

    def reset_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        ResetVm(self._vm(tx).id).reset_failed(tx, job, failure)
        self._broke(tx, job, failure)

    def ended(self, tx: Tx, job: Job, state: str) -> None:
        member = self._member(tx)
        if state == "succeeded" and member.state == "resetting":
            move(tx, member, "was_reset", task_id=None, why="")

    def _shutdown(self, tx: Tx) -> ShutdownVm:
        member = self._member(tx)
        return ShutdownVm(member.vm_id, get(tx, Pool, member.pool_id).shutdown_s)


@dataclass(frozen=True)
class RepairMember(ResetMember):
    """Take a desktop that was set aside back into use: powered off, made as new, free again."""

    member_id: UUID
    name, permission, verb = "member.repair", "pool.edit", "Repair"

    def check(self, tx: Tx) -> None:
        require(tx, self._member(tx), ("broken", "resetting"), "repaired")

    def shutdown(self, tx: Tx, job: Job) -> Call | None:
        """What was set aside is not asked politely: `stop` comes next."""
        member, vm = get(tx, PoolMember, self.member_id, lock=True), self._vm(tx)
        self.check(tx)
        if member.state == "broken":
            pool = get(tx, Pool, member.pool_id)
            move(tx, member, "repair", words={"vm": vm.name, "pool": pool.name}, task_id=job.task_id, why="")
        return None


@dataclass(frozen=True)
class RemoveMember(_OnMember):
    """Remove a desktop that is free or set aside, with its disk. The pool makes a new one when it needs one."""

    member_id: UUID
    name, permission, steps, no_return = "member.remove", "pool.edit", ("stop", "delete", "forget"), "delete"
    verb = "Remove"

    def check(self, tx: Tx) -> None:
        member = self._member(tx)
        require(tx, member, ("ready", "suspended", "broken", "removing"), "removed")
        if (owner := _owner(tx, member)) and get(tx, Pool, member.pool_id).state != "removing":
            raise Impossible("assigned", f"Desktop {self._vm(tx).name} belongs to {facts.person(tx, owner)}; take it from them "
                             "first.")

    def stop(self, tx: Tx, job: Job) -> Call | None:
        member = get(tx, PoolMember, self.member_id, lock=True)
        self.check(tx)
        if member.state != "removing":
            pool = get(tx, Pool, member.pool_id)
            move(tx, member, "remove", words={"vm": self._vm(tx).name, "pool": pool.name}, task_id=job.task_id)
        return self._stop(tx, job)

    def stop_done(self, tx: Tx, job: Job, result: Any) -> None:
        StopVm(self._vm(tx).id).stop_done(tx, job, result)

    def stop_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        StopVm(self._vm(tx).id).stop_failed(tx, job, failure)
        self._broke(tx, job, failure)

    def delete(self, tx: Tx, job: Job) -> Call | None:
        leases.over(tx, self._member(tx).vm_id, job.now)
        return RemoveVm(self._member(tx).vm_id).delete(tx, job)

    def delete_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        RemoveVm(self._member(tx).vm_id).delete_failed(tx, job, failure)
        self._broke(tx, job, failure)

    def forget(self, tx: Tx, job: Job) -> None:
        member = self._member(tx)
        vm_id, pool_id = member.vm_id, member.pool_id
        tx.delete(member)
        tx.flush()
        touch(tx, "member", self.member_id, pool_id=pool_id)
        RemoveVm(vm_id).forget(tx, job)


@dataclass(frozen=True)
class AssignMember(_OnMember):
    """Give a desktop of a dedicated pool to a person to keep, before they first ask for one."""

    member_id: UUID
    user_id: UUID
    name, permission, verb = "member.assign", "pool.edit", "Assign"

    def check(self, tx: Tx) -> None:
        member = self._member(tx)
        require(tx, member, FREE, "given to somebody to keep")
        pool = get(tx, Pool, member.pool_id)
        if pool.type != "dedicated":
            raise Impossible("not_dedicated", f"Desktops of pool {pool.name} go back when a lease ends; only a dedicated pool's "
                             "belong to somebody.")
        if owner := _owner(tx, member):
            raise Impossible("assigned", f"Desktop {self._vm(tx).name} belongs to {facts.person(tx, owner)} already.")
        get(tx, User, self.user_id)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        member = get(tx, PoolMember, self.member_id, lock=True)
        members.belong(tx, member, self.user_id, now)
        record(tx, "assignment.made", member, actor=actor.name, user_id=self.user_id, user=facts.person(tx, self.user_id),
               vm=self._vm(tx).name, pool=get(tx, Pool, member.pool_id).name)


@dataclass(frozen=True)
class UnassignMember(ResetMember):
    """Take a desktop of a dedicated pool from the person it belongs to. What they kept on it is thrown away."""

    member_id: UUID
    name, permission, verb = "member.unassign", "pool.edit", "Take away"

    def check(self, tx: Tx) -> None:
        member = self._member(tx)
        require(tx, member, ("ready", "spare", "suspended", "resetting", "broken"), "taken away")
        if _owner(tx, member) is None and not member.fresh_wanted:
            raise Impossible("not_assigned", f"Desktop {self._vm(tx).name} belongs to nobody.")

    def shutdown(self, tx: Tx, job: Job) -> Call | None:
        member = get(tx, PoolMember, self.member_id, lock=True)
        if owner := _owner(tx, member):
            self.check(tx)
            record(tx, "assignment.taken", member, actor=job.actor.name, user_id=owner, user=facts.person(tx, owner),
                   vm=self._vm(tx).name, pool=get(tx, Pool, member.pool_id).name)
            tx.execute(sa.delete(Assignment).where(Assignment.vm_id == member.vm_id))
            member.fresh_wanted = True
        return super().shutdown(tx, job)


def _owner(tx: Tx, member: PoolMember) -> UUID | None:
    """Whose desktop it is."""
    return tx.scalar(sa.select(Assignment.user_id).where(Assignment.vm_id == member.vm_id))


def require(tx: Tx, member: PoolMember, states: tuple[str, ...], what: str) -> None:
    """Refuse unless the member is in one of these states and nobody holds it."""
    vm = get(tx, Vm, member.vm_id)
    if member.state not in states:
        raise Impossible("wrong_state", f"Desktop {vm.name} is {member.state}; it cannot be {what} now.", state=member.state)
    if leases.holder(tx, member.vm_id, HOLDING) is not None:
        raise Impossible("leased", f"Somebody holds desktop {vm.name}; take the lease back first.")
