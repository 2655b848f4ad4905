"""Create, resize, edit and remove a pool; take a lease back or lengthen it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import move, record
from backend.storage.models import Disk, StorageDomain
from backend.storage.reach import require_readable
from backend.tasks.command import Actor, Plain
from backend.vms.models import Template
from pools import booked, bookings, facts, leases, troubles
from pools.models import LIVE, Lease, Pool
from pools.policy import PROTOCOLS, USUAL_RIGHTS, Policy, require_policy


@dataclass(frozen=True)
class CreatePool(Plain):
    """Offer desktops made from a template. Lengths are in seconds; a lease of 0 s lasts until it is returned."""

    pool_name: str
    template_id: UUID
    size: int
    domain_id: UUID | None = None  # none: where the template's disk lies
    description: str = ""
    spares: int = 0
    spare_kind: str = "running"  # running: up; suspended: booted once, saved, and woken for its holder
    lease_s: int = 3600
    extend_s: int = 1800
    extensions: int = 2
    warn_s: int = 300
    grace_s: int = 60
    shutdown_s: int = 60
    per_user: int = 1
    call_s: int = 0
    extend_while_waiting: bool = False
    book_desktops: int = 0
    book_ahead_s: int = 1_209_600
    book_longest_s: int = 28_800
    book_open: int = 3
    book_hold_s: int = 900
    spares_learn: bool = False
    idle_s: int = 0
    idle_action: str = "nothing"
    disconnect_s: int = 0
    disconnect_action: str = "nothing"
    type: str = "floating"
    stateless: bool = True
    rights: tuple[str, ...] = USUAL_RIGHTS
    protocols: tuple[str, ...] = PROTOCOLS
    name, permission = "pool.create", "pool.create"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", get(tx, Template, self.template_id).cluster_id

    def title(self, tx: Tx) -> str:
        return f"Create pool {self.pool_name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"pool-name:{self.pool_name}"]

    def check(self, tx: Tx) -> None:
        _require_name(tx, self.pool_name, None)
        require_policy(self._policy())
        if self.type not in TYPES:
            raise Invalid("bad_type", f"“{self.type}” is not a kind of pool; choose from {', '.join(TYPES)}.", fields=["type"])
        template = get(tx, Template, self.template_id)
        if template.state != "ok":
            raise Impossible("template_not_ok", f"Template {template.name} is {template.state}; choose one that is ok.")
        domain, cluster = self._domain(tx), get(tx, Cluster, template.cluster_id)
        if domain.data_center_id != cluster.data_center_id:
            raise Invalid(
                "wrong_domain", f"Storage domain {domain.name} is of another data center than the template.", fields=["domain_id"]
            )
        if (base := tx.scalar(sa.select(Disk.domain_id).where(Disk.template_id == template.id))) is not None:
            require_readable(tx, domain.id, base)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        template = get(tx, Template, self.template_id)
        policy = {name: getattr(self, name) for name in POLICY if name not in ("lease_s", "rights", "protocols")}
        pool = Pool(
            name=self.pool_name.strip(),
            description=self.description,
            cluster_id=template.cluster_id,
            template_id=template.id,
            domain_id=self._domain(tx).id,
            state=Pool.machine.initial,
            type=self.type,
            stateless=self.stateless,
            lease_s=self.lease_s or None,
            rights=list(self.rights),
            protocols=list(self.protocols),
            **policy,
        )
        tx.add(pool)
        tx.flush()
        record(tx, "pool.created", pool, actor=actor.name)
        touch(tx, "pool", pool.id, pool_id=pool.id)
        return {"id": str(pool.id)}

    def _policy(self) -> Policy:
        given = {name: getattr(self, name) for name in POLICY}
        return Policy(**{**given, "lease_s": self.lease_s or None})

    def _domain(self, tx: Tx) -> StorageDomain:
        base = sa.select(Disk.domain_id).where(Disk.template_id == self.template_id)
        domain_id = self.domain_id or tx.scalar(base)
        if domain_id is None:
            raise Invalid("no_domain", "The template has no disk, so say which storage domain to use.", fields=["domain_id"])
        return get(tx, StorageDomain, domain_id)


TYPES = ("floating", "dedicated")
POLICY = tuple(field.name for field in fields(Policy))


class OnPool(Plain):
    """What the commands on one pool share."""

    pool_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "pool", self.pool_id

    def title(self, tx: Tx) -> str:
        return f"{self.verb} pool {get(tx, Pool, self.pool_id).name}"


@dataclass(frozen=True)
class EditPool(OnPool):
    """Change a pool's policy and size; what is left out stays. Leases that run keep the end they were given.

    A smaller size removes free desktops at once, and leased ones when they come back."""

    pool_id: UUID
    pool_name: str | None = None
    description: str | None = None
    size: int | None = None
    spares: int | None = None
    spare_kind: str | None = None
    lease_s: int | None = None  # 0: until returned
    extend_s: int | None = None
    extensions: int | None = None
    warn_s: int | None = None
    grace_s: int | None = None
    shutdown_s: int | None = None
    per_user: int | None = None
    call_s: int | None = None
    extend_while_waiting: bool | None = None
    book_desktops: int | None = None
    book_ahead_s: int | None = None
    book_longest_s: int | None = None
    book_open: int | None = None
    book_hold_s: int | None = None
    spares_learn: bool | None = None
    idle_s: int | None = None
    idle_action: str | None = None
    disconnect_s: int | None = None
    disconnect_action: str | None = None
    stateless: bool | None = None
    rights: tuple[str, ...] | None = None
    protocols: tuple[str, ...] | None = None
    name, permission, verb = "pool.edit", "pool.edit", "Edit"

    def check(self, tx: Tx) -> None:
        pool = get(tx, Pool, self.pool_id)
        if pool.state == "removing":
            raise Impossible("pool_removing", f"Pool {pool.name} is being removed.")
        if self.pool_name is not None:
            _require_name(tx, self.pool_name, pool.id)
        require_policy(Policy(**{**vars(facts.policy_of(pool)), **self._given()}))

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        pool = get(tx, Pool, self.pool_id, lock=True)
        given = self._given()
        if self.pool_name is not None:
            given["name"] = self.pool_name.strip()
        if self.description is not None:
            given["description"] = self.description
        if self.stateless is not None:
            given["stateless"] = self.stateless
        changed = []
        for field, value in given.items():
            value = list(value) if isinstance(value, tuple) else value
            if (was := getattr(pool, field)) != value:
                changed.append(f"{_words(field)} {_value(was)} → {_value(value)}")
                setattr(pool, field, value)
        troubles.look_again(pool, now)
        if changed:
            record(tx, "pool.edited", pool, actor=actor.name, what=", ".join(changed))
        touch(tx, "pool", pool.id, pool_id=pool.id)

    def _given(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in POLICY if getattr(self, name) is not None}
        if self.lease_s == 0:
            given["lease_s"] = None
        return given


@dataclass(frozen=True)
class RemovePool(OnPool):
    """Remove a pool with its desktops. While people hold desktops or wait for one it is refused, unless `force`:
    then their leases end and their consoles are closed. The desktops go one by one; the pool goes with the last."""

    pool_id: UUID
    force: bool = False
    name, permission, verb = "pool.remove", "pool.remove", "Remove"

    def check(self, tx: Tx) -> None:
        pool = get(tx, Pool, self.pool_id)
        Pool.machine.next(pool.state, "remove", pool.name)
        live = tx.scalar(sa.select(sa.func.count()).where(Lease.pool_id == pool.id, Lease.state.not_in(("returning", "ended"))))
        ahead = len(booked.opened(tx, pool.id))
        if ahead and not live and not self.force:
            raise Impossible(
                "bookings_open",
                f"Pool {pool.name} has {'1 booking' if ahead == 1 else f'{ahead} bookings'}. Remove it by force: they are "
                "cancelled.",
                bookings=ahead,
            )
        if live and not self.force:
            people = "1 lease of pool {} is" if live == 1 else f"{live} leases of pool {{}} are"
            raise Impossible(
                "leases_live",
                f"{people.format(pool.name)} still live. Wait until they end, or remove it by force: people lose their desktops.",
                leases=live,
            )

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        pool = get(tx, Pool, self.pool_id, lock=True)
        move(tx, pool, "remove", words={"actor": actor.name})
        live = sa.select(Lease).where(Lease.pool_id == pool.id, sa.text(LIVE)).order_by(Lease.queue_place)
        for lease in tx.scalars(live.with_for_update()):
            leases.give_back(tx, lease, "reclaimed", f"Pool {pool.name} is being removed.", now)
        for booking, _ in booked.opened(tx, pool.id):
            bookings.cancel(tx, booking, "The pool is being removed.", actor.name, now)


@dataclass(frozen=True)
class PausePool(OnPool):
    """Give out no more desktops of a pool; leases that run go on, and who asks waits. The message tells people why."""

    pool_id: UUID
    message: str = ""
    name, permission, verb = "pool.pause", "pool.edit", "Pause"

    def check(self, tx: Tx) -> None:
        pool = get(tx, Pool, self.pool_id)
        Pool.machine.next(pool.state, "pause", pool.name)
        require_short(self.message)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        pool, why = get(tx, Pool, self.pool_id, lock=True), self.message.strip()
        move(tx, pool, "pause", words={"actor": actor.name, "why": f": {why}" if why else "."}, pause_why=why)


@dataclass(frozen=True)
class ResumePool(OnPool):
    """Give out desktops of a paused pool again; who waits is served in order."""

    pool_id: UUID
    name, permission, verb = "pool.resume", "pool.edit", "Resume"

    def check(self, tx: Tx) -> None:
        pool = get(tx, Pool, self.pool_id)
        Pool.machine.next(pool.state, "resume", pool.name)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        move(tx, get(tx, Pool, self.pool_id, lock=True), "resume", words={"actor": actor.name}, pause_why="")


class _OnLease(Plain):
    """What the commands on one lease share."""

    lease_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "lease", self.lease_id

    def title(self, tx: Tx) -> str:
        words = facts.words(tx, get(tx, Lease, self.lease_id))
        return f"{self.verb} the lease of {words['user']} in pool {words['pool']}"


@dataclass(frozen=True)
class ReclaimLease(_OnLease):
    """Take a desktop back from its holder, or a person out of the queue; the message tells them why."""

    lease_id: UUID
    message: str = ""
    name, permission, verb = "lease.reclaim", "lease.reclaim", "End"

    def check(self, tx: Tx) -> None:
        lease = get(tx, Lease, self.lease_id)
        if lease.state in ("returning", "ended"):
            raise Impossible("lease_over", "This lease is over already.", state=lease.state)
        require_short(self.message)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        why = self.message.strip() or "Your administrator has taken the desktop back."
        lease = get(tx, Lease, self.lease_id, lock=True)
        record(tx, "lease.reclaimed", lease, actor=actor.name, **facts.words(tx, lease))
        leases.give_back(tx, lease, "reclaimed", why, now)


@dataclass(frozen=True)
class ExtendLease(_OnLease):
    """Move the end of a running lease on by so many seconds, whatever the pool's policy says."""

    lease_id: UUID
    seconds: int
    name, permission, verb = "lease.extend", "lease.reclaim", "Extend"

    def check(self, tx: Tx) -> None:
        lease = get(tx, Lease, self.lease_id)
        Lease.machine.next(lease.state, "prolong", "of this person")
        if not 60 <= self.seconds <= 366 * 86_400:
            raise Invalid("bad_length", "A lease can be extended by one minute to 366 days.", fields=["seconds"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        booked.guard(tx, get(tx, Lease, self.lease_id).pool_id)
        end = leases.prolong(tx, get(tx, Lease, self.lease_id, lock=True), self.seconds, actor.name, now)
        return {"ends_at": end.isoformat()}


def require_short(message: str) -> None:
    if len(message) > 500:
        raise Invalid("too_long", "The message may have up to 500 characters.", fields=["message"])


def _require_name(tx: Tx, name: str, but: UUID | None) -> None:
    if not 1 <= len(name.strip()) <= 60 or not name.isprintable():
        raise Invalid("bad_name", "A pool's name has between 1 and 60 characters.", fields=["pool_name"])
    other = tx.scalar(sa.select(Pool.id).where(Pool.name == name.strip()))
    if other is not None and other != but:
        raise Invalid("name_taken", f"There is already a pool named {name.strip()}; choose another name.", fields=["pool_name"])


def _words(field: str) -> str:
    return field.removesuffix("_s").replace("_", " ")


def _value(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else "none" if value is None else str(value)
