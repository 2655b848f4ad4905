"""Pool, PoolMember, Assignment, Rollout, Lease and Booking rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, Json, ref
from pools.machine import BOOKING, LEASE, MEMBER, POOL, ROLLOUT

LIVE = "state <> 'ended'"
OPEN = "state IN ('running', 'halted', 'rolling_back')"  # rollouts that have not ended
NOT_OVER = "state IN ('booked', 'preparing', 'running')"  # bookings


class Pool(HasId, Base):
    """Desktops made from a template version, leased to people by this policy. Lengths are in seconds."""

    __tablename__ = "pool"
    kind = "pool"
    machine = POOL
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(default="", server_default="")
    cluster_id: Mapped[UUID] = ref("cluster.id")
    template_id: Mapped[UUID] = ref("template.id")
    domain_id: Mapped[UUID] = ref("storage_domain.id")  # where members' disks are made
    state: Mapped[str] = mapped_column(default=POOL.initial)
    type: Mapped[str] = mapped_column(default="floating", server_default="floating")  # floating | dedicated
    stateless: Mapped[bool] = mapped_column(default=True, server_default=sa.true())
    size: Mapped[int]
    spares: Mapped[int] = mapped_column(default=0, server_default="0")
    spare_kind: Mapped[str] = mapped_column(default="running", server_default="running")  # pools.policy.SPARE_KINDS
    lease_s: Mapped[int | None]  # none: until returned
    extend_s: Mapped[int] = mapped_column(default=0, server_default="0")
    extensions: Mapped[int] = mapped_column(default=0, server_default="0")  # how many times a holder may extend
    warn_s: Mapped[int] = mapped_column(default=300, server_default="300")  # warning this long before the end
    grace_s: Mapped[int] = mapped_column(default=60, server_default="60")
    shutdown_s: Mapped[int] = mapped_column(default=60, server_default="60")  # how long a guest may take to shut down
    per_user: Mapped[int] = mapped_column(default=1, server_default="1")
    call_s: Mapped[int] = mapped_column(default=0, server_default="0")  # time to answer for who is called; 0: nobody is
    extend_while_waiting: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    book_desktops: Mapped[int] = mapped_column(default=0, server_default="0")  # most that a person may book at once; 0: none
    book_ahead_s: Mapped[int] = mapped_column(default=1_209_600, server_default="1209600")  # how far ahead
    book_longest_s: Mapped[int] = mapped_column(default=28_800, server_default="28800")  # how long one booking may be
    book_open: Mapped[int] = mapped_column(default=3, server_default="3")  # bookings a person may have that are not over
    book_hold_s: Mapped[int] = mapped_column(default=900, server_default="900")  # unused desktops are freed then; 0: never
    spares_learn: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # more spares when past weeks say so
    idle_s: Mapped[int] = mapped_column(default=0, server_default="0")  # so long without input; 0: never
    idle_action: Mapped[str] = mapped_column(default="nothing", server_default="nothing")  # pools.quiet.ACTIONS
    disconnect_s: Mapped[int] = mapped_column(default=0, server_default="0")  # so long without a console
    disconnect_action: Mapped[str] = mapped_column(default="nothing", server_default="nothing")
    pause_why: Mapped[str] = mapped_column(default="", server_default="")  # for the people of a paused pool
    rights: Mapped[list[str]] = mapped_column(default=lambda: ["start", "shutdown", "reset"])
    protocols: Mapped[list[str]] = mapped_column(default=lambda: ["vnc", "spice"])  # offered, preferred first
    next_member: Mapped[int] = mapped_column(default=1, server_default="1")  # number in the next member's name
    trouble: Mapped[str] = mapped_column(default="", server_default="")  # a sentence while desktops cannot be made or started
    trouble_code: Mapped[str] = mapped_column(default="", server_default="")  # its cause in a word: see pools.trouble_rules
    trouble_since: Mapped[datetime | None]
    retry_at: Mapped[datetime | None]  # nothing is tried before; none: it is seen what is in the way, and when it is gone
    tries: Mapped[int] = mapped_column(default=0, server_default="0")  # in a row that came to nothing
    unbooted: Mapped[int] = mapped_column(default=0, server_default="0")  # desktops in a row that did not start or boot


class SparePlan(HasId, Base):
    """Another number of spares in the hours of a calendar."""

    __tablename__ = "spare_plan"
    __table_args__ = (sa.UniqueConstraint("pool_id", "calendar_id"),)
    kind = "spareplan"
    pool_id: Mapped[UUID] = ref("pool.id", ondelete="CASCADE")
    calendar_id: Mapped[UUID] = ref("calendar.id")
    spares: Mapped[int]


class PoolMember(HasId, Base):
    """A desktop of a pool: one VM, and where it is in its round from ready to leased and back."""

    __tablename__ = "pool_member"
    kind = "member"
    machine = MEMBER
    pool_id: Mapped[UUID] = ref("pool.id", index=True)
    vm_id: Mapped[UUID] = ref("vm.id", unique=True)
    state: Mapped[str] = mapped_column(default=MEMBER.initial)
    why: Mapped[str] = mapped_column(default="", server_default="")
    task_id: Mapped[int | None] = ref("task.id", ondelete="SET NULL")  # the task that moves it on
    fresh_wanted: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # to be made as new, though kept


class Assignment(HasId, Base):
    """A desktop of a dedicated pool that belongs to one person, whether they hold a lease on it now or not."""

    __tablename__ = "assignment"
    __table_args__ = (sa.Index(None, "pool_id", "user_id"),)
    kind = "assignment"
    pool_id: Mapped[UUID] = ref("pool.id", ondelete="CASCADE")
    user_id: Mapped[UUID] = ref("user_account.id", ondelete="CASCADE")
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", unique=True)
    since: Mapped[datetime]


class Rollout(HasId, Base):
    """A new version of a pool's template, on its way to the pool's desktops; one a pool at a time."""

    __tablename__ = "rollout"
    __table_args__ = (
        sa.Index("uq_rollout_open", "pool_id", unique=True, postgresql_where=sa.text(OPEN)),
    )
    kind = "rollout"
    machine = ROLLOUT
    pool_id: Mapped[UUID] = ref("pool.id", ondelete="CASCADE", index=True)
    from_template_id: Mapped[UUID | None] = ref("template.id", ondelete="SET NULL")
    to_template_id: Mapped[UUID | None] = ref("template.id", ondelete="SET NULL")
    state: Mapped[str] = mapped_column(default=ROLLOUT.initial)
    mode: Mapped[str]  # at_once | on_return | batches
    batch: Mapped[int]  # batches: so many desktops out of service at once
    max_failures: Mapped[int]
    halt_at: Mapped[int]  # it halts by itself with so many failures
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    proved: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # one desktop of the version has booted
    done: Mapped[int] = mapped_column(default=0, server_default="0")  # desktops of the wanted version
    total: Mapped[int] = mapped_column(default=0, server_default="0")
    message: Mapped[str] = mapped_column(default="", server_default="")  # for the people whose desktops are taken
    why: Mapped[str] = mapped_column(default="", server_default="")  # why it halted, what it waits for, how it ended
    who: Mapped[str]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Lease(HasId, Base):
    """One person's right to one desktop of a pool for a period; queued while there is no desktop.

    `period` is [given, released): PostgreSQL itself refuses two overlapping ones on a VM.
    """

    __tablename__ = "lease"
    __table_args__ = (
        pg.ExcludeConstraint(("vm_id", "="), ("period", "&&"), name="one_holder_at_a_time", using="gist"),
        sa.Index("uq_lease_live_vm", "vm_id", unique=True, postgresql_where=sa.text(LIVE)),
        sa.Index("ix_lease_live_user", "user_id", "pool_id", postgresql_where=sa.text(LIVE)),
        sa.Index("ix_lease_queue", "pool_id", "priority", "queue_place", postgresql_where=sa.text("state = 'queued'")),
        sa.Index(None, "pool_id", "asked_at"),
        sa.Index("ix_lease_live_ends", "ends_at", postgresql_where=sa.text(LIVE)),
    )
    kind = "lease"
    machine = LEASE
    pool_id: Mapped[UUID] = ref("pool.id", ondelete="CASCADE")
    user_id: Mapped[UUID] = ref("user_account.id", ondelete="CASCADE")
    vm_id: Mapped[UUID | None] = ref("vm.id", ondelete="SET NULL")
    state: Mapped[str] = mapped_column(default=LEASE.initial)
    why: Mapped[str] = mapped_column(default="", server_default="")  # why it waits or ended, for the person
    queue_place: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity())  # order of asking; never changes
    priority: Mapped[int] = mapped_column(default=0, server_default="0")  # of the entitlement; the higher goes first
    waited: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # the queue came to them: they are called
    called_until: Mapped[datetime | None]  # the desktop is theirs if they answer by then
    told_s: Mapped[int | None]  # the wait that they were told when they asked
    asked_at: Mapped[datetime]
    period: Mapped[Any | None] = mapped_column(pg.TSTZRANGE)
    starts_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]  # none: until returned
    extensions_used: Mapped[int] = mapped_column(default=0, server_default="0")
    grace_until: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    # returned | expired | reclaimed | failed | left_queue | entitlement_ended | no_answer | new_version | idle | disconnected
    end_reason: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")  # members that broke under it
    off_wanted: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # it is off or suspended on purpose
    idle_warned_at: Mapped[datetime | None]
    idle_done_at: Mapped[datetime | None]  # when the pool's policy last did something about it
    disconnect_done_at: Mapped[datetime | None]
    booking_id: Mapped[UUID | None] = ref("booking.id", ondelete="SET NULL")  # it is one of these desktops


class Booking(HasId, Base):
    """Desktops of a pool that are kept for a person, or for a group, from `starts_at` until `ends_at`."""

    __tablename__ = "booking"
    __table_args__ = (sa.Index("ix_booking_open", "pool_id", "starts_at", postgresql_where=sa.text(NOT_OVER)),)
    kind = "booking"
    machine = BOOKING
    pool_id: Mapped[UUID] = ref("pool.id", ondelete="CASCADE")
    user_id: Mapped[UUID] = ref("user_account.id", ondelete="CASCADE", index=True)  # who booked
    group_id: Mapped[UUID | None] = ref("user_group.id", ondelete="CASCADE", index=True)  # whom it is for, besides
    series_id: Mapped[UUID | None]  # of bookings that one rule made: the first one's id
    title: Mapped[str] = mapped_column(default="", server_default="")
    state: Mapped[str] = mapped_column(default=BOOKING.initial)
    why: Mapped[str] = mapped_column(default="", server_default="")  # what is wrong with it, or why it ended
    desktops: Mapped[int]
    kept: Mapped[int]  # of these, not freed for others yet
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    made_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    revision: Mapped[int] = mapped_column(default=0, server_default="0")  # how often it was changed, as calendars count it
    released: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # what nobody used was freed
    late: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # told that not all were ready in time

    @property
    def name(self) -> str:
        """What people call it."""
        return self.title or f"of {self.desktops} desktop{'s' if self.desktops != 1 else ''}"



class Decision(HasId, Base):
    """What was decided for a person and why; where desktops were looked at, each with its reason."""

    __tablename__ = "decision"
    kind = "decision"
    at: Mapped[datetime]
    user_id: Mapped[UUID] = ref("user_account.id", ondelete="CASCADE")
    pool_id: Mapped[UUID | None] = ref("pool.id", ondelete="CASCADE")
    lease_id: Mapped[UUID | None] = ref("lease.id", ondelete="CASCADE", index=True)
    outcome: Mapped[str]  # kept | given | starting | queued | refused | not_extended | shortened | recalled | swapped | ended
    vm_id: Mapped[UUID | None]
    sentence: Mapped[str]  # for the person
    candidates: Mapped[Json]  # {"members": [{"vm_id", "name", "state", "reason"}, …], "access": {"from", "sentence", …}}
