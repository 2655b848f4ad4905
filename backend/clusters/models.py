"""DataCenter, Cluster and CpuKind rows."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, Json, ref


class DataCenter(HasId, Base):
    """Hosts that share storage and networks."""

    __tablename__ = "data_center"
    kind = "datacenter"
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(default="", server_default="")


class Cluster(HasId, Base):
    """Hosts alike enough that a VM may run on any of them."""

    __tablename__ = "cluster"
    kind = "cluster"
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(default="", server_default="")
    data_center_id: Mapped[UUID] = ref("data_center.id")
    memory_overcommit_percent: Mapped[int] = mapped_column(default=100, server_default="100")
    migration_bandwidth_mib: Mapped[int] = mapped_column(default=0, server_default="0")  # a second and migration; 0: no limit
    migrations_per_host: Mapped[int] = mapped_column(default=2, server_default="2")  # at once, in and out
    migration_downtime_ms: Mapped[int] = mapped_column(default=500, server_default="500")
    migration_converge: Mapped[str] = mapped_column(default="auto_converge", server_default="auto_converge")
    scheduling_policy: Mapped[str] = mapped_column(default="none", server_default="none")  # a name: built in, or a row's
    thresholds: Mapped[Json] = mapped_column(default=dict, server_default="{}")  # those that differ from what is usual
    networks: Mapped[list[str]] = mapped_column(default=list, server_default="{}")  # that a host must have to run its VMs
    cpu_model: Mapped[str] = mapped_column(default="", server_default="")  # as set; nothing: what all its hosts have
    cpu_id: Mapped[str | None] = ref("cpu_kind.id")  # what its VMs are given from their next start on
    cpu_of: Mapped[str] = mapped_column(default="", server_default="")  # the kinds that it was computed from
    alerts: Mapped[Json] = mapped_column(default=dict, server_default="{}")  # those thresholds that differ from what is usual
    upgrade_to: Mapped[str] = mapped_column(default="", server_default="")  # the version that its agents are being upgraded to
    upgrade_task: Mapped[int | None] = mapped_column(sa.BigInteger)  # that of the host whose turn it is
    upgrade_why: Mapped[str] = mapped_column(default="", server_default="")  # why the last rolling upgrade stopped
    fencing: Mapped[bool] = mapped_column(default=True, server_default=sa.true())
    fencing_grace_s: Mapped[int] = mapped_column(default=15, server_default="15")
    fencing_silent_percent: Mapped[int] = mapped_column(default=50, server_default="50")
    fencing_at_once: Mapped[int] = mapped_column(default=3, server_default="3")
    fencing_skip_if_lease_alive: Mapped[bool] = mapped_column(default=True, server_default=sa.true())
    fencing_kdump_wait_s: Mapped[int] = mapped_column(default=60, server_default="60")


class CpuKind(Base):
    """A kind of processor that hosts have or that VMs are given, written down once; `id` is its digest."""

    __tablename__ = "cpu_kind"
    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    cpu: Mapped[Json]  # hostapi's `HostCpu`; of one that no host has, without models
