"""Vm, Template, VmSnapshot, GuestSession and VmScreen rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, Json, ref
from backend.vms.machine import SNAPSHOT, TEMPLATE, VM


class Template(HasId, Base):
    """What VMs are made from: a version of a name, its size, and how it boots."""

    __tablename__ = "template"
    __table_args__ = (sa.UniqueConstraint("name", "version"),)
    kind = "template"
    machine = TEMPLATE
    name: Mapped[str]
    version: Mapped[int] = mapped_column(default=1, server_default="1")
    description: Mapped[str] = mapped_column(default="", server_default="")
    cluster_id: Mapped[UUID] = ref("cluster.id")
    state: Mapped[str] = mapped_column(default=TEMPLATE.initial)
    memory_mib: Mapped[int]
    vcpus: Mapped[int] = mapped_column(default=1, server_default="1")
    boot: Mapped[Json | None]  # {"kernel", "initrd", "cmdline"}: direct kernel boot; {name} in cmdline is the VM's
    video: Mapped[str] = mapped_column(default="virtio", server_default="virtio")
    guest_agent: Mapped[bool] = mapped_column(default=True, server_default=sa.true())
    boot_timeout_s: Mapped[int] = mapped_column(default=180, server_default="180")


class Vm(HasId, Base):
    """A virtual machine. The manager alone remembers it: hosts run transient domains."""

    __tablename__ = "vm"
    kind = "vm"
    machine = VM
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(default="", server_default="")
    cluster_id: Mapped[UUID] = ref("cluster.id", index=True)
    template_id: Mapped[UUID | None] = ref("template.id", index=True)
    pool_id: Mapped[UUID | None] = ref("pool.id", index=True)
    host_id: Mapped[UUID | None] = ref("host.id", index=True)  # where it runs, or where it was last asked to start
    destination_id: Mapped[UUID | None] = ref("host.id", index=True)  # where it moves to; it is promised room there already
    state: Mapped[str] = mapped_column(default=VM.initial)
    why: Mapped[str] = mapped_column(default="", server_default="")  # a sentence when the last thing went wrong
    memory_mib: Mapped[int]
    vcpus: Mapped[int] = mapped_column(default=1, server_default="1")
    boot: Mapped[Json | None]
    video: Mapped[str] = mapped_column(default="virtio", server_default="virtio")
    guest_agent: Mapped[bool] = mapped_column(default=True, server_default=sa.true())
    boot_timeout_s: Mapped[int] = mapped_column(default=180, server_default="180")
    protocols: Mapped[list[str]] = mapped_column(default=lambda: ["vnc", "spice"])
    guest: Mapped[Json | None]  # hostapi GuestReport: hostname, os, ips, users; null while no agent answers
    saved_path: Mapped[str] = mapped_column(default="", server_default="")  # where its memory is, while it is suspended
    cpu_s: Mapped[float] = mapped_column(default=0.0, server_default="0")  # of processor, in this run, up to `cpu_at`
    cpu_at: Mapped[datetime | None]
    cpu_usage: Mapped[float | None]  # per cent of its processors, between the last two samples
    memory_given_mib: Mapped[int | None]  # what its host gives it now
    cpu_id: Mapped[str | None] = ref("cpu_kind.id", index=True)  # that it was given in its last run; null: its host's
    max_memory_mib: Mapped[int] = mapped_column(default=0, server_default="0")  # up to which it grows while it runs
    max_vcpus: Mapped[int] = mapped_column(default=0, server_default="0")
    next_run: Mapped[Json | None]  # what it is to be from its next start on
    pause: Mapped[str] = mapped_column(default="", server_default="")  # why it is paused, in a word, while it is
    paused_at: Mapped[datetime | None]
    unpaused_at: Mapped[datetime | None]  # when it was last tried to let it go on by itself
    resume_behaviour: Mapped[str] = mapped_column(default="auto_resume", server_default="auto_resume")
    boots: Mapped[int | None]  # its host's count of its reboots; null until it is known for this run
    run_once: Mapped[Json | None]  # what this run has otherwise than the rows say
    high_availability: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # runs again when its host dies
    priority: Mapped[int] = mapped_column(default=50, server_default="50")  # 1 … 100: who is started first
    started_at: Mapped[datetime | None]
    ended_by: Mapped[str] = mapped_column(default="", server_default="")  # guest | crashed | failed | host | lost (with its host)
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class Vnic(HasId, Base):
    """A network card of a VM. `plugged`: it is in the VM now, or will be with the next start."""

    __tablename__ = "vnic"
    __table_args__ = (sa.UniqueConstraint("vm_id", "name"),)
    kind = "vnic"
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", index=True)
    name: Mapped[str]
    mac: Mapped[str] = mapped_column(unique=True)
    bridge: Mapped[str]  # of its host
    model: Mapped[str] = mapped_column(default="virtio", server_default="virtio")
    linked: Mapped[bool] = mapped_column(default=True, server_default=sa.true())  # its cable is in
    plugged: Mapped[bool] = mapped_column(default=True, server_default=sa.true())


class VmSnapshot(HasId, Base):
    """A snapshot inside a VM's disk; `at_rest` when its file systems were: the VM was off, or they were frozen."""

    __tablename__ = "vm_snapshot"
    __table_args__ = (sa.UniqueConstraint("vm_id", "name"),)
    kind = "snapshot"
    machine = SNAPSHOT
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE")
    name: Mapped[str]
    state: Mapped[str] = mapped_column(default=SNAPSHOT.initial)
    at_rest: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    created_at: Mapped[datetime]


class GuestSession(HasId, Base):
    """Somebody logged in inside a guest, as its agent told; the name is the guest's, not a person's here."""

    __tablename__ = "guest_session"
    __table_args__ = (
        sa.Index("guest_session_open", "vm_id", "user_name", unique=True, postgresql_where=sa.text("ended_at IS NULL")),
    )
    kind = "guestsession"
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", index=True)
    user_name: Mapped[str]
    since: Mapped[datetime]
    seen_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class VmScreen(Base):
    """A small picture of a VM's screen, fetched while somebody looks at its card."""

    __tablename__ = "vm_screen"
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", primary_key=True)
    wanted_at: Mapped[datetime]
    taken_at: Mapped[datetime | None]
    webp: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
