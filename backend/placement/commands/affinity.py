"""Affinity groups, affinity labels, and the hosts that a VM is pinned to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Invalid
from backend.events import record
from backend.hosts.models import Host
from backend.placement.models import (
    AffinityGroup,
    AffinityGroupHost,
    AffinityGroupVm,
    AffinityLabel,
    AffinityLabelHost,
    AffinityLabelVm,
    Pin,
)
from backend.tasks.command import Actor, Plain
from backend.vms.models import Vm
from backend.vms.rules import require_name

RULES = ("none", "positive", "negative")


def _require_rows(tx: Tx, cls: Any, ids: Iterable[UUID], field: str, cluster_id: UUID | None = None) -> None:
    """`NotFound` unless all are there, `Invalid` unless they are of this cluster."""
    for id in ids:
        row = get(tx, cls, id)
        if cluster_id is not None and row.cluster_id != cluster_id:
            cluster = get(tx, Cluster, cluster_id).name
            raise Invalid("other_cluster", f"{row.kind.upper() if row.kind == 'vm' else 'Host'} {row.name} is not of cluster "
                          f"{cluster}, as the affinity group is.", fields=[field])


def _set_members(tx: Tx, table: Any, key: Any, id: UUID, column: Any, ids: Iterable[UUID]) -> None:
    """Exactly these are members from now on."""
    tx.execute(sa.delete(table).where(key == id))
    if rows := [{key.key: id, column.key: one} for one in dict.fromkeys(ids)]:
        tx.execute(sa.insert(table), rows)


# -- affinity groups --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CreateAffinityGroup(Plain):
    """Keep VMs together or apart, on some hosts or off them; an enforcing rule is never broken, another one is a wish."""

    group_name: str
    cluster_id: UUID
    description: str = ""
    vms_rule: str = "none"
    vms_enforcing: bool = False
    hosts_rule: str = "none"
    hosts_enforcing: bool = False
    priority: int = 1
    vm_ids: tuple[UUID, ...] = ()
    host_ids: tuple[UUID, ...] = ()
    name, permission = "affinitygroup.create", "affinity.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "cluster", self.cluster_id

    def locks(self, tx: Tx) -> list[str]:
        return []

    def title(self, tx: Tx) -> str:
        return f"Create affinity group {self.group_name}"

    def check(self, tx: Tx) -> None:
        get(tx, Cluster, self.cluster_id)
        _require_group(tx, self, self.cluster_id, self.group_name, None)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        group = AffinityGroup(
            name=self.group_name, description=self.description, cluster_id=self.cluster_id, priority=self.priority,
            vms_rule=self.vms_rule, vms_enforcing=self.vms_enforcing, hosts_rule=self.hosts_rule,
            hosts_enforcing=self.hosts_enforcing,
        )  # fmt: skip
        tx.add(group)
        tx.flush()
        _fill_group(tx, group, self.vm_ids, self.host_ids)
        record(tx, "affinitygroup.created", group, actor=actor.name)
        touch(tx, "affinitygroup", group.id)
        return {"id": str(group.id)}


@dataclass(frozen=True)
class EditAffinityGroup(Plain):
    """Change an affinity group; what is not given stays. VMs that run are not moved by it at once."""

    affinitygroup_id: UUID
    group_name: str | None = None
    description: str | None = None
    vms_rule: str | None = None
    vms_enforcing: bool | None = None
    hosts_rule: str | None = None
    hosts_enforcing: bool | None = None
    priority: int | None = None
    vm_ids: tuple[UUID, ...] | None = None
    host_ids: tuple[UUID, ...] | None = None
    name, permission = "affinitygroup.edit", "affinity.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "affinitygroup", self.affinitygroup_id

    def title(self, tx: Tx) -> str:
        return f"Edit affinity group {get(tx, AffinityGroup, self.affinitygroup_id).name}"

    def check(self, tx: Tx) -> None:
        group = get(tx, AffinityGroup, self.affinitygroup_id)
        _require_group(tx, self, group.cluster_id, self.group_name, group)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        group = get(tx, AffinityGroup, self.affinitygroup_id, lock=True)
        for field in ("description", "vms_rule", "vms_enforcing", "hosts_rule", "hosts_enforcing", "priority"):
            if (value := getattr(self, field)) is not None:
                setattr(group, field, value)
        group.name = self.group_name or group.name
        _fill_group(tx, group, self.vm_ids, self.host_ids)
        record(tx, "affinitygroup.edited", group, actor=actor.name)
        touch(tx, "affinitygroup", group.id)


@dataclass(frozen=True)
class RemoveAffinityGroup(Plain):
    """Forget an affinity group; its VMs and hosts stay as they are."""

    affinitygroup_id: UUID
    name, permission = "affinitygroup.remove", "affinity.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "affinitygroup", self.affinitygroup_id

    def title(self, tx: Tx) -> str:
        return f"Remove affinity group {get(tx, AffinityGroup, self.affinitygroup_id).name}"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        group = get(tx, AffinityGroup, self.affinitygroup_id, lock=True)
        record(tx, "affinitygroup.removed", group, actor=actor.name)
        touch(tx, "affinitygroup", group.id)
        tx.delete(group)


def _require_group(
    tx: Tx, wanted: CreateAffinityGroup | EditAffinityGroup, cluster_id: UUID, name: str | None, group: AffinityGroup | None
) -> None:
    if name is not None:
        require_name(name, "affinity group")
        taken = sa.select(AffinityGroup.id).where(AffinityGroup.cluster_id == cluster_id, AffinityGroup.name == name)
        if (other := tx.scalar(taken)) is not None and (group is None or other != group.id):
            raise Invalid("name_taken", f"The cluster already has an affinity group {name}; choose another name.",
                          fields=["group_name"])
    for field in ("vms_rule", "hosts_rule"):
        rule = getattr(wanted, field)
        if rule is not None and rule not in RULES:
            raise Invalid("bad_rule", f"“{rule[:40]}” is no rule: choose none, positive or negative.", fields=[field])
    if wanted.priority is not None and not 1 <= wanted.priority <= 1000:
        raise Invalid("bad_priority", "A priority lies between 1 and 1,000.", fields=["priority"])
    _require_rows(tx, Vm, wanted.vm_ids or (), "vm_ids", cluster_id)
    _require_rows(tx, Host, wanted.host_ids or (), "host_ids", cluster_id)


def _fill_group(tx: Tx, group: AffinityGroup, vm_ids: Sequence[UUID] | None, host_ids: Sequence[UUID] | None) -> None:
    if vm_ids is not None:
        _set_members(tx, AffinityGroupVm, AffinityGroupVm.group_id, group.id, AffinityGroupVm.vm_id, vm_ids)
    if host_ids is not None:
        _set_members(tx, AffinityGroupHost, AffinityGroupHost.group_id, group.id, AffinityGroupHost.host_id, host_ids)


# -- labels -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CreateAffinityLabel(Plain):
    """Make a word for hosts and VMs: a VM starts only where its host has all of the VM's labels."""

    label_name: str
    vm_ids: tuple[UUID, ...] = ()
    host_ids: tuple[UUID, ...] = ()
    name, permission = "affinitylabel.create", "affinity.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "system", None

    def title(self, tx: Tx) -> str:
        return f"Create affinity label {self.label_name}"

    def check(self, tx: Tx) -> None:
        _require_label(tx, self.label_name, None, self.vm_ids, self.host_ids)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        label = AffinityLabel(name=self.label_name)
        tx.add(label)
        tx.flush()
        _fill_label(tx, label, self.vm_ids, self.host_ids)
        record(tx, "affinitylabel.created", label, actor=actor.name)
        touch(tx, "affinitylabel", label.id)
        return {"id": str(label.id)}


@dataclass(frozen=True)
class EditAffinityLabel(Plain):
    """Change a label's name, or which hosts and VMs have it; what is not given stays."""

    affinitylabel_id: UUID
    label_name: str | None = None
    vm_ids: tuple[UUID, ...] | None = None
    host_ids: tuple[UUID, ...] | None = None
    name, permission = "affinitylabel.edit", "affinity.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "affinitylabel", self.affinitylabel_id

    def title(self, tx: Tx) -> str:
        return f"Edit affinity label {get(tx, AffinityLabel, self.affinitylabel_id).name}"

    def check(self, tx: Tx) -> None:
        _require_label(tx, self.label_name, self.affinitylabel_id, self.vm_ids or (), self.host_ids or ())

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        label = get(tx, AffinityLabel, self.affinitylabel_id, lock=True)
        label.name = self.label_name or label.name
        _fill_label(tx, label, self.vm_ids, self.host_ids)
        record(tx, "affinitylabel.edited", label, actor=actor.name)
        touch(tx, "affinitylabel", label.id)


@dataclass(frozen=True)
class RemoveAffinityLabel(Plain):
    """Take a label from all hosts and VMs, and forget it."""

    affinitylabel_id: UUID
    name, permission = "affinitylabel.remove", "affinity.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "affinitylabel", self.affinitylabel_id

    def title(self, tx: Tx) -> str:
        return f"Remove affinity label {get(tx, AffinityLabel, self.affinitylabel_id).name}"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        label = get(tx, AffinityLabel, self.affinitylabel_id, lock=True)
        record(tx, "affinitylabel.removed", label, actor=actor.name)
        touch(tx, "affinitylabel", label.id)
        tx.delete(label)


def _require_label(tx: Tx, name: str | None, id: UUID | None, vm_ids: Sequence[UUID], host_ids: Sequence[UUID]) -> None:
    if name is not None:
        require_name(name, "label")
        if (other := tx.scalar(sa.select(AffinityLabel.id).where(AffinityLabel.name == name))) is not None and other != id:
            raise Invalid("name_taken", f"There is already a label {name}; choose another name.", fields=["label_name"])
    _require_rows(tx, Vm, vm_ids, "vm_ids")
    _require_rows(tx, Host, host_ids, "host_ids")


def _fill_label(tx: Tx, label: AffinityLabel, vm_ids: Sequence[UUID] | None, host_ids: Sequence[UUID] | None) -> None:
    if vm_ids is not None:
        _set_members(tx, AffinityLabelVm, AffinityLabelVm.label_id, label.id, AffinityLabelVm.vm_id, vm_ids)
    if host_ids is not None:
        _set_members(tx, AffinityLabelHost, AffinityLabelHost.label_id, label.id, AffinityLabelHost.host_id, host_ids)


# -- pinned VMs -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PinVm(Plain):
    """Let a VM run on these hosts alone; with none, on every host again. One that runs elsewhere is not moved by it."""

    vm_id: UUID
    host_ids: tuple[UUID, ...] = ()
    name, permission = "vm.pin", "affinity.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "vm", self.vm_id

    def locks(self, tx: Tx) -> list[str]:
        return []

    def title(self, tx: Tx) -> str:
        return f"Pin VM {get(tx, Vm, self.vm_id).name}"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        for id in self.host_ids:
            host = get(tx, Host, id)
            if host.cluster_id != vm.cluster_id:
                raise Invalid("other_cluster", f"Host {host.name} is of another cluster than VM {vm.name}.", fields=["host_ids"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        vm = get(tx, Vm, self.vm_id)
        _set_members(tx, Pin, Pin.vm_id, vm.id, Pin.host_id, self.host_ids)
        names = ", ".join(tx.scalars(sa.select(Host.name).where(Host.id.in_(self.host_ids)).order_by(Host.name)))
        record(tx, "vm.pinned" if names else "vm.unpinned", vm, actor=actor.name, hosts=names)
        touch(tx, "vm", vm.id, pool_id=vm.pool_id)
