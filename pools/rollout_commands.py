"""Roll a version of a template out to a pool; halt, resume, roll back or cancel that."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Impossible
from backend.events import move, record
from backend.storage.models import Disk, StorageDomain
from backend.tasks.command import Actor, Plain
from backend.vms.models import Template
from pools import booked, rollouts, versions
from pools.commands import OnPool, require_short
from pools.member_rules import STATES
from pools.models import Pool, PoolMember, Rollout
from pools.rollout_rules import MODES, require_pace


@dataclass(frozen=True)
class RollOut(OnPool):
    """Make a pool's desktops of another version of their template; one must boot before the others follow.

    `at_once` people are warned, and their desktops taken after the grace; `on_return` each desktop moves when it comes back;
    in `batches` no more than so many are out of service at once. With `supersede` it takes the place of the rollout that is
    under way."""

    pool_id: UUID
    template_id: UUID
    mode: str = MODES[1]
    batch: int = 2
    max_failures: int = 1
    message: str = ""
    supersede: bool = False
    force: bool = False
    name, permission, verb = "pool.roll_out", "pool.edit", "Roll a new version out to"

    def check(self, tx: Tx) -> None:
        require_pace(self.mode, self.batch, self.max_failures)
        require_short(self.message)
        pool, template = get(tx, Pool, self.pool_id), get(tx, Template, self.template_id)
        version = versions.label(tx, template.id)
        if pool.state == "removing":
            raise Impossible("pool_removing", f"Pool {pool.name} is being removed.")
        under_way = versions.open_one(tx, pool.id)
        if under_way is not None and not self.supersede:
            raise Impossible(
                "rollout_open", f"{versions.label(tx, under_way.to_template_id)} is being rolled out to pool {pool.name} "
                f"({under_way.state.replace('_', ' ')}). Roll it back or cancel it first, or say with `supersede` that this one "
                "takes its place.", rollout_id=str(under_way.id),
            )  # fmt: skip
        if template.state != "ok":
            raise Impossible("template_not_ok", f"{version} is {template.state}; it can be rolled out when it is ok.")
        if template.cluster_id != pool.cluster_id:
            raise Impossible("wrong_cluster", f"{version} is of another cluster than pool {pool.name}.")
        self._require_reach(tx, pool, version)
        everywhere = pool.template_id == template.id and all(d.wanted for d in rollouts.desktops_of(tx, pool.id, template.id))
        if everywhere and under_way is None:
            raise Impossible("same_version", f"All desktops of pool {pool.name} are of {version} already.")
        if not pool.stateless and not self.force:
            raise Impossible("changes_lost", f"Desktops of pool {pool.name} keep what people change on them, and a new version "
                             "throws all of that away. Say so with `force` if that is wanted.")

    def _require_reach(self, tx: Tx, pool: Pool, version: str) -> None:
        base = tx.scalar(sa.select(Disk.domain_id).where(Disk.template_id == self.template_id))
        if base is None:
            raise Impossible("no_disk", f"{version} has no disk that desktops could be made over.")
        here, there = get(tx, StorageDomain, pool.domain_id), get(tx, StorageDomain, base)
        if there.host_id not in (None, here.host_id):
            raise Impossible("wrong_domain", f"{version} lies in storage domain {there.name}, which the host of {here.name}, "
                             f"where pool {pool.name} has its disks, cannot read. Import it there.")

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        pool = get(tx, Pool, self.pool_id, lock=True)
        self._take_place(tx, pool, actor, now)
        self._require_no_bookings(tx, pool, now)
        members = sa.select(sa.func.count()).where(PoolMember.pool_id == pool.id, PoolMember.state.in_(STATES))
        rollout = Rollout(
            pool_id=pool.id, from_template_id=pool.template_id, to_template_id=self.template_id,
            state=Rollout.machine.initial, mode=self.mode, batch=self.batch, max_failures=self.max_failures,
            halt_at=self.max_failures, message=self.message.strip(), who=actor.name, created_at=now, failures=0, done=0,
            proved=False, total=tx.scalar(members) or 0,
        )  # fmt: skip
        tx.add(rollout)
        tx.flush()
        rollouts.retry(tx, pool.id)
        how = {"at_once": "at once", "on_return": "as its desktops come back"}.get(self.mode, f"{self.batch} at a time")
        record(tx, "rollout.begun", rollout, actor=actor.name, how=how, **rollouts.words(tx, rollout))
        for kind, id in (("rollout", rollout.id), ("pool", pool.id)):
            touch(tx, kind, id, pool_id=pool.id)
        return {"rollout_id": str(rollout.id)}


    def _take_place(self, tx: Tx, pool: Pool, actor: Actor, now: datetime) -> None:
        """What is under way ends where it is; what has moved moves on to this version, and back to the one before both."""
        if (under_way := versions.open_one(tx, pool.id)) is not None:
            if not self.supersede:  # it was begun after the check
                self.check(tx)
            cancel(tx, under_way, pool, actor, f"{versions.label(tx, self.template_id)} took its place.", now)

    def _require_no_bookings(self, tx: Tx, pool: Pool, now: datetime) -> None:
        """At once takes booked desktops apart too: that must be said."""
        if self.mode == "at_once" and not self.force and (n := versions.promised(tx, pool, now)):
            which = f"{booked.many(n)} of pool {pool.name} {'is' if n == 1 else 'are'} booked for now or soon"
            raise Impossible("booked", f"{which}, and at once would take them too. Choose another way, which leaves them "
                             "alone, or say `force`.")


class _OnRollout(Plain):
    """What the commands on one rollout share."""

    rollout_id: UUID
    verb, event = "", ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "rollout", self.rollout_id

    def title(self, tx: Tx) -> str:
        rollout = get(tx, Rollout, self.rollout_id)
        return f"{self.verb} the rollout to pool {get(tx, Pool, rollout.pool_id).name}"

    def check(self, tx: Tx) -> None:
        rollout = get(tx, Rollout, self.rollout_id)
        Rollout.machine.next(rollout.state, self.event, f"to pool {get(tx, Pool, rollout.pool_id).name}")

    def _begin(self, tx: Tx) -> tuple[Rollout, Pool]:
        self.check(tx)
        rollout = get(tx, Rollout, self.rollout_id, lock=True)
        pool = get(tx, Pool, rollout.pool_id, lock=True)
        touch(tx, "pool", pool.id, pool_id=pool.id)
        return rollout, pool


@dataclass(frozen=True)
class HaltRollout(_OnRollout):
    """Let no further desktop move to the new version; what moves now goes on."""

    rollout_id: UUID
    name, permission, verb, event = "rollout.halt", "pool.edit", "Halt", "halt"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        rollout, _ = self._begin(tx)
        rollouts.halt(tx, rollout, f"{actor.name} halted it.", actor.name)


@dataclass(frozen=True)
class ResumeRollout(_OnRollout):
    """Go on with a halted rollout; it halts again after as many more desktops that fail."""

    rollout_id: UUID
    name, permission, verb, event = "rollout.resume", "pool.edit", "Resume", "resume"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        rollout, pool = self._begin(tx)
        if rollout.to_template_id is None:
            raise Impossible("version_gone", "The version that was rolled out is gone; cancel the rollout.")
        rollouts.retry(tx, pool.id)
        if rollout.proved:
            versions.use(tx, pool, rollout.to_template_id)
        allowed = rollout.failures + rollout.max_failures
        move(tx, rollout, "resume", words=rollouts.words(tx, rollout, actor=actor.name), why="", halt_at=allowed)


@dataclass(frozen=True)
class RollBack(_OnRollout):
    """Make the desktops that have moved of the old version again, in the same way."""

    rollout_id: UUID
    name, permission, verb, event = "rollout.roll_back", "pool.edit", "Roll back", "roll_back"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        rollout, pool = self._begin(tx)
        if rollout.from_template_id is None:
            raise Impossible("version_gone", "The version before this one is gone; cancel the rollout.")
        rollouts.retry(tx, pool.id)
        versions.use(tx, pool, rollout.from_template_id)
        words = rollouts.words(tx, rollout, actor=actor.name)
        move(tx, rollout, "roll_back", words=words, why=f"{actor.name} rolls it back.", proved=True)  # the old one has worked


@dataclass(frozen=True)
class CancelRollout(_OnRollout):
    """End a rollout where it is: desktops that have moved stay as they are, new ones are of the old version."""

    rollout_id: UUID
    name, permission, verb, event = "rollout.cancel", "pool.edit", "Cancel", "cancel"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        rollout, pool = self._begin(tx)
        cancel(tx, rollout, pool, actor, f"{actor.name} cancelled it.", now)


def cancel(tx: Tx, rollout: Rollout, pool: Pool, actor: Actor, why: str, now: datetime) -> None:
    """The rollout is over where it is; new desktops are of the version before it."""
    if rollout.from_template_id is not None:
        versions.use(tx, pool, rollout.from_template_id)
    move(tx, rollout, "cancel", words=rollouts.words(tx, rollout, actor=actor.name), why=why, ended_at=now)
