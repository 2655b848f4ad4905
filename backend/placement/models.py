"""HostLoad, AffinityGroup, AffinityLabel, Pin, SchedulingPolicy and VmPlacement rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base, HasId, Json, ref


class HostLoad(Base):
    """What a host's VMs have been promised, and since when it has been too busy or too idle.

    A row of its own beside the host's, so that starts wait for each other and not for the monitor. The database keeps the
    sums (triggers on `vm` and `host`, see the migration): whoever moves a VM, by whatever path, they are right at its commit.
    """

    __tablename__ = "host_load"
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE", primary_key=True)
    memory_mib: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    vcpus: Mapped[int] = mapped_column(default=0, server_default="0")
    vms: Mapped[int] = mapped_column(default=0, server_default="0")
    busy_since: Mapped[datetime | None]
    idle_since: Mapped[datetime | None]
    empty_since: Mapped[datetime | None]  # up and without a VM; kept where empty hosts are switched off
    saving_since: Mapped[datetime | None]  # it is off, or about to be, because nobody needs it
    woken_at: Mapped[datetime | None]  # when it was last wanted on after that


class AffinityGroup(HasId, Base):
    """VMs that belong together or apart, and hosts that they belong on or not; a hard rule is never broken."""

    __tablename__ = "affinity_group"
    __table_args__ = (sa.UniqueConstraint("cluster_id", "name"),)
    kind = "affinitygroup"
    name: Mapped[str]
    description: Mapped[str] = mapped_column(default="", server_default="")
    cluster_id: Mapped[UUID] = ref("cluster.id", ondelete="CASCADE", index=True)
    priority: Mapped[int] = mapped_column(default=1, server_default="1")  # how much its soft rules weigh beside others'
    vms_rule: Mapped[str] = mapped_column(default="none", server_default="none")  # positive | negative | none
    vms_enforcing: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    hosts_rule: Mapped[str] = mapped_column(default="none", server_default="none")
    hosts_enforcing: Mapped[bool] = mapped_column(default=False, server_default=sa.false())


class AffinityGroupVm(Base):
    """A VM of an affinity group."""

    __tablename__ = "affinity_group_vm"
    group_id: Mapped[UUID] = ref("affinity_group.id", ondelete="CASCADE", primary_key=True)
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", primary_key=True, index=True)


class AffinityGroupHost(Base):
    """A host of an affinity group."""

    __tablename__ = "affinity_group_host"
    group_id: Mapped[UUID] = ref("affinity_group.id", ondelete="CASCADE", primary_key=True)
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE", primary_key=True, index=True)


class AffinityLabel(HasId, Base):
    """A word on hosts and VMs: a VM runs only where its host has all of the VM's labels."""

    __tablename__ = "affinity_label"
    kind = "affinitylabel"
    name: Mapped[str] = mapped_column(unique=True)


class AffinityLabelVm(Base):
    """A VM with a label."""

    __tablename__ = "affinity_label_vm"
    label_id: Mapped[UUID] = ref("affinity_label.id", ondelete="CASCADE", primary_key=True)
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", primary_key=True, index=True)


class AffinityLabelHost(Base):
    """A host with a label."""

    __tablename__ = "affinity_label_host"
    label_id: Mapped[UUID] = ref("affinity_label.id", ondelete="CASCADE", primary_key=True)
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE", primary_key=True, index=True)


class Pin(Base):
    """One of the hosts that alone may run a VM."""

    __tablename__ = "vm_pin"
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", primary_key=True)
    host_id: Mapped[UUID] = ref("host.id", ondelete="CASCADE", primary_key=True, index=True)


class SchedulingPolicy(HasId, Base):
    """A policy of one's own beside those that are built in: which filters, which scores with which weight."""

    __tablename__ = "scheduling_policy"
    kind = "schedulingpolicy"
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(default="", server_default="")
    balancing: Mapped[str] = mapped_column(default="none", server_default="none")
    filters: Mapped[list[str]]
    weights: Mapped[Json]


class VmPlacement(Base):
    """Where a VM was last placed, and why not elsewhere; a refusal is kept in its task's error."""

    __tablename__ = "vm_placement"
    vm_id: Mapped[UUID] = ref("vm.id", ondelete="CASCADE", primary_key=True)
    at: Mapped[datetime]
    host_id: Mapped[UUID | None] = ref("host.id", ondelete="SET NULL", index=True)
    policy: Mapped[str]
    decision: Mapped[Json]  # see `Placement.as_json`
