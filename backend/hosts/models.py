"""Host, HostSample and Evacuation rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, Json, ref
from backend.hosts.machine import HOST


class Host(HasId, Base):
    """A machine that runs VMs, and what its agent last said of it."""

    __tablename__ = "host"
    kind = "host"
    machine = HOST
    name: Mapped[str] = mapped_column(unique=True)
    cluster_id: Mapped[UUID] = ref("cluster.id", index=True)
    state: Mapped[str] = mapped_column(default=HOST.initial)
    why: Mapped[str] = mapped_column(default="", server_default="")  # a sentence while it cannot do what it is for
    for_maintenance: Mapped[bool] = mapped_column(default=False, server_default=sa.false())  # wanted so, whatever happens to it
    fingerprint: Mapped[str] = mapped_column(default="", server_default="")  # of the key of one that asked to be taken in
    address: Mapped[str] = mapped_column(default="", server_default="")  # how the manager reaches the agent
    port: Mapped[int] = mapped_column(default=0, server_default="0")  # asks, over mutual TLS
    console_port: Mapped[int] = mapped_column(default=0, server_default="0")  # consoles, over mutual TLS
    ssh_port: Mapped[int] = mapped_column(default=0, server_default="0")  # by which its agent is restarted from outside …
    ssh_fingerprint: Mapped[str] = mapped_column(default="", server_default="")  # … of one that was installed over SSH
    enroll_hash: Mapped[bytes | None] = mapped_column(sa.LargeBinary)  # SHA-256 of the one-time token
    enroll_until: Mapped[datetime | None]
    enroll_csr: Mapped[str | None]  # waits for the hosts' CA
    certificate: Mapped[str | None]  # PEM, as signed
    virt_type: Mapped[str] = mapped_column(default="qemu", server_default="qemu")
    hypervisor: Mapped[str] = mapped_column(default="", server_default="")
    agent_version: Mapped[str] = mapped_column(default="", server_default="")
    proved_off_at: Mapped[datetime | None]  # what it was asked before this is over, and what ran on it does not
    boot_id: Mapped[str] = mapped_column(default="", server_default="")
    cpus: Mapped[int] = mapped_column(default=0, server_default="0")
    memory_mib: Mapped[int] = mapped_column(default=0, server_default="0")
    memory_free_mib: Mapped[int] = mapped_column(default=0, server_default="0")
    cpu_seen: Mapped[str] = mapped_column(default="", server_default="")  # the digest in its last report
    cpu_id: Mapped[str | None] = ref("cpu_kind.id", index=True)
    cpu_lacks: Mapped[str] = mapped_column(default="", server_default="")  # what it lacks of its cluster's CPU, as a sentence
    networks: Mapped[list[str]] = mapped_column(default=list, server_default="{}")  # that it has
    load1: Mapped[float] = mapped_column(default=0.0, server_default="0")
    silences: Mapped[int] = mapped_column(default=0, server_default="0")  # reports missed in a row
    reported_at: Mapped[datetime | None]
    cpu_percent: Mapped[float | None]
    swap_mib: Mapped[int] = mapped_column(default=0, server_default="0")
    swap_free_mib: Mapped[int] = mapped_column(default=0, server_default="0")
    network_mib_s: Mapped[float | None]
    alerts: Mapped[list[str]] = mapped_column(default=list, server_default="{}")  # what was too much and is not over yet
    failed_vms: Mapped[list[str]] = mapped_column(default=list, server_default="{}")  # whose starts failed here, in a row
    error_until: Mapped[datetime | None]  # then it is tried again
    facts: Mapped[Json] = mapped_column(default=dict, server_default="{}")


class HostSample(HasId, Base):
    """How busy a host was in a minute; forgotten after some hours."""

    __tablename__ = "host_sample"
    __table_args__ = (sa.Index("host_sample_of_host", "host_id", "at"),)
    kind = "hostsample"
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE")
    at: Mapped[datetime] = mapped_column(index=True)
    cpu_percent: Mapped[float]
    memory_percent: Mapped[float]
    swap_percent: Mapped[float]
    network_mib_s: Mapped[float]
    storage_percent: Mapped[float]  # of the fullest of its own storage domains


class HostInstall(Base):
    """The installation of a host over SSH: how to get in, how far it is. Forgotten, with its secrets, when its task ends."""

    __tablename__ = "host_install"
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE", primary_key=True)
    task_id: Mapped[int | None] = mapped_column(sa.BigInteger, index=True)
    address: Mapped[str]
    ssh_port: Mapped[int]
    username: Mapped[str]
    password_sealed: Mapped[str]
    private_key_sealed: Mapped[str]
    storage_roots: Mapped[list[str]]
    fingerprint: Mapped[str]  # of the key that the host must prove; empty until somebody has said which
    presented: Mapped[str] = mapped_column(default="", server_default="")  # what it showed when that was not known
    done: Mapped[int] = mapped_column(default=0, server_default="0")  # stages
    message: Mapped[str] = mapped_column(default="", server_default="")
    failure_code: Mapped[str] = mapped_column(default="", server_default="")
    failure: Mapped[str] = mapped_column(default="", server_default="")
    taken_back: Mapped[str] = mapped_column(default="", server_default="")  # what became of it when it was to be as before
    heard_at: Mapped[datetime]


class AgentPackage(Base):
    """The package that agents are upgraded with, as the manager has it: one row."""

    __tablename__ = "agent_package"
    one: Mapped[bool] = mapped_column(primary_key=True, default=True)
    version: Mapped[str]
    sha256: Mapped[str]


class Evacuation(HasId, Base):
    """A VM that is to leave a host which goes into maintenance, the task that does it, and why it cannot."""

    __tablename__ = "evacuation"
    kind = "evacuation"
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE", index=True)
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", unique=True)
    task_id: Mapped[int | None] = mapped_column(sa.BigInteger)  # the latest; tasks are forgotten one day
    why: Mapped[str] = mapped_column(default="", server_default="")
    began_at: Mapped[datetime]
    tried_at: Mapped[datetime | None]
