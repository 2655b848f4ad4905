"""Task, Step, Worker, ResourceLock rows and the TASK and STEP tables."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, Json, ref
from backend.states import StateTable

TASK = StateTable(
    "task",
    "queued",
    {
        ("queued", "claim"): "running",
        ("queued", "cancelled"): "cancelled",
        ("running", "succeed"): "succeeded",
        ("running", "fail"): "failed",
        ("running", "cancelled"): "cancelled",
    },
)

STEP = StateTable(
    "step",
    "asked",
    {
        ("asked", "done"): "done",
        ("asked", "fail"): "failed",
        ("done", "undo"): "undone",
    },
)


class Task(Base):
    """A command being carried out: what is wanted, how far it is, and how it ended."""

    __tablename__ = "task"
    __table_args__ = (
        sa.Index("ix_task_due", "not_before", postgresql_where=sa.text("state IN ('queued', 'running')")),
        sa.Index(None, "object_kind", "object_id"),
        sa.Index(None, "command", "ended_at"),
    )
    kind = "task"
    machine = TASK
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    command: Mapped[str]  # wire name: vm.start
    args: Mapped[Json] = mapped_column(default=dict)
    title: Mapped[str]  # "Start VM w7"
    object_kind: Mapped[str | None]
    object_id: Mapped[UUID | None]
    actor_id: Mapped[UUID | None] = ref("user_account.id", ondelete="SET NULL")
    actor_name: Mapped[str]
    reason: Mapped[str] = mapped_column(default="", server_default="")
    state: Mapped[str] = mapped_column(default=TASK.initial)
    at_step: Mapped[int] = mapped_column(default=0, server_default="0")
    undoing: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    progress: Mapped[int] = mapped_column(default=0, server_default="0")  # per cent
    message: Mapped[str] = mapped_column(default="", server_default="")
    result: Mapped[Json | None]
    error: Mapped[Json | None]  # {"code", "message", "facts"}
    worker_id: Mapped[UUID | None] = ref("worker.id", ondelete="SET NULL", index=True)
    claim: Mapped[UUID | None]  # the fencing token: only the claim that is written here may record
    not_before: Mapped[datetime]
    after_id: Mapped[int | None] = ref("task.id", ondelete="SET NULL", index=True)  # not begun while that one is live
    cancel_wanted: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Step(Base):
    """One question to one host, known by its uid to the host's journal too. Undo steps have `undoes`."""

    __tablename__ = "step"
    __table_args__ = (sa.UniqueConstraint("task_id", "ordinal"),)
    kind = "step"
    machine = STEP
    uid: Mapped[UUID] = mapped_column(primary_key=True)
    task_id: Mapped[int] = ref("task.id", ondelete="CASCADE")
    ordinal: Mapped[int]
    name: Mapped[str]
    undoes: Mapped[UUID | None] = ref("step.uid", ondelete="CASCADE")
    host_id: Mapped[UUID | None] = ref("host.id")  # none: the step was for the database alone
    verb: Mapped[str | None]
    args: Mapped[Json] = mapped_column(default=dict)
    state: Mapped[str] = mapped_column(default=STEP.initial)
    result: Mapped[Json | None]  # {"value": …}
    error: Mapped[Json | None]
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    progress: Mapped[int] = mapped_column(default=0, server_default="0")
    message: Mapped[str] = mapped_column(default="", server_default="")
    asked_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Worker(HasId, Base):
    """A runner process; its tasks are taken over when its beat is old."""

    __tablename__ = "worker"
    name: Mapped[str]
    beat_at: Mapped[datetime]


class ResourceLock(Base):
    """A thing that a live task holds; the thing's name is the primary key, so there is one at most."""

    __tablename__ = "resource_lock"
    resource: Mapped[str] = mapped_column(primary_key=True)  # vm:<id>
    task_id: Mapped[int] = ref("task.id", ondelete="CASCADE", index=True)


class Idempotency(Base):
    """An Idempotency-Key once used: the same key and body gives the same answer, no second effect."""

    __tablename__ = "idempotency"
    user_id: Mapped[UUID] = ref("user_account.id", ondelete="CASCADE", primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(sa.LargeBinary)  # SHA-256 of method, path and body
    status: Mapped[int]
    answer: Mapped[Json]
    created_at: Mapped[datetime]
