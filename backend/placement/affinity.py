"""What binds a VM to hosts and to other VMs, from rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import aliased

from backend.db import Tx
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
from backend.scheduling.facts import GroupFacts
from backend.storage.models import Disk
from backend.vms.machine import NOT_RUNNING
from backend.vms.models import Vm


@dataclass(frozen=True)
class Bound:
    """The labels, the only hosts, the affinity groups and the storage domains of a VM."""

    labels: frozenset[str]
    pinned: frozenset[UUID]
    groups: tuple[GroupFacts, ...]
    domains: frozenset[UUID]


def _ids(wanted: sa.Select[Any]) -> Any:
    return sa.func.array(wanted.scalar_subquery(), type_=pg.ARRAY(wanted.selected_columns[0].type))


def _bonds() -> sa.Select[Any]:
    """Labels, pins, groups, those of the groups that are hard, and the storage domains of disks and of what is under them."""
    vm, base = sa.bindparam("vm_id", type_=pg.UUID(as_uuid=True)), aliased(Disk)
    return sa.select(
        _ids(sa.select(AffinityLabel.name).join(AffinityLabelVm, AffinityLabelVm.label_id == AffinityLabel.id)
             .where(AffinityLabelVm.vm_id == vm)).label("labels"),
        _ids(sa.select(Pin.host_id).where(Pin.vm_id == vm)).label("pins"),
        _ids(sa.select(AffinityGroupVm.group_id).where(AffinityGroupVm.vm_id == vm)).label("groups"),
        _ids(sa.select(Disk.domain_id).where(Disk.vm_id == vm)).label("domains"),
        _ids(sa.select(base.domain_id).join(Disk, Disk.backing_id == base.id).where(Disk.vm_id == vm)).label("under"),
    )  # fmt: skip


_BONDS = _bonds()


def of_vm(tx: Tx, vm_id: UUID, *, hold: bool = False) -> Bound:
    """What binds this VM now; with `hold`, its hard groups are held until the transaction ends."""
    bonds = tx.execute(_BONDS, {"vm_id": vm_id}).one()
    if hold and bonds.groups:
        _hold(tx, vm_id)
    groups = _groups(tx, bonds.groups, vm_id) if bonds.groups else ()
    return Bound(frozenset(bonds.labels), frozenset(bonds.pins), groups, frozenset((*bonds.domains, *bonds.under)))


def of_hosts(tx: Tx) -> dict[UUID, frozenset[str]]:
    """The labels of every host that has any."""
    found: dict[UUID, set[str]] = {}
    labels = sa.select(AffinityLabelHost.host_id, AffinityLabel.name).join(
        AffinityLabel, AffinityLabel.id == AffinityLabelHost.label_id
    )
    for host_id, name in tx.execute(labels):
        found.setdefault(host_id, set()).add(name)
    return {host_id: frozenset(names) for host_id, names in found.items()}


def _hold(tx: Tx, vm_id: UUID) -> None:
    """Hold the VM's hard groups until the transaction ends: two VMs that belong together and start at once must not go to
    different hosts. In order, so that nobody waits in a circle."""
    mine = sa.select(AffinityGroupVm.group_id).where(AffinityGroupVm.vm_id == vm_id)
    hard = sa.and_(AffinityGroup.vms_enforcing, AffinityGroup.vms_rule != "none", AffinityGroup.id.in_(mine))
    tx.execute(sa.select(AffinityGroup.id).where(hard).order_by(AffinityGroup.id).with_for_update())


def _groups(tx: Tx, ids: Sequence[UUID], vm_id: UUID) -> tuple[GroupFacts, ...]:
    hosts: dict[UUID, set[UUID]] = {}
    for group_id, host_id in tx.execute(
        sa.select(AffinityGroupHost.group_id, AffinityGroupHost.host_id).where(AffinityGroupHost.group_id.in_(ids))
    ):
        hosts.setdefault(group_id, set()).add(host_id)
    rows = tx.execute(
        sa.select(AffinityGroup.id, AffinityGroup.name, AffinityGroup.vms_rule, AffinityGroup.vms_enforcing,
                  AffinityGroup.hosts_rule, AffinityGroup.hosts_enforcing, AffinityGroup.priority)
        .where(AffinityGroup.id.in_(ids)).order_by(AffinityGroup.name, AffinityGroup.id)
    ).all()  # fmt: skip
    rules = {row.id: row.vms_rule for row in rows}
    peers = _peers(tx, ids, vm_id, rules)
    return tuple(
        GroupFacts(row.name, row.vms_rule, row.vms_enforcing, row.hosts_rule, row.hosts_enforcing,
                   frozenset(hosts.get(row.id, ())), peers.get(row.id, {}), float(row.priority))
        for row in rows
    )  # fmt: skip


def _peers(tx: Tx, ids: Sequence[UUID], vm_id: UUID, rules: dict[UUID, str]) -> dict[UUID, dict[UUID, list[str]]]:
    """Of each group: where its other VMs are, or will be. One that moves is still kept apart from where it was; one whose host
    is being emptied draws nobody there."""
    found: dict[UUID, dict[UUID, list[str]]] = {}
    others: Any = (
        sa.select(AffinityGroupVm.group_id, Vm.name, Vm.host_id, Vm.destination_id, Host.state)
        .join(Vm, Vm.id == AffinityGroupVm.vm_id).join(Host, Host.id == Vm.host_id)
        .where(AffinityGroupVm.group_id.in_(ids), Vm.id != vm_id, Vm.state.not_in(NOT_RUNNING)).order_by(Vm.name)
    )  # fmt: skip
    for group_id, name, host_id, destination_id, host_state in tx.execute(others):
        places = {host_id, destination_id} if rules[group_id] == "negative" else {destination_id or host_id}
        if rules[group_id] == "positive" and destination_id is None and host_state == "preparing_for_maintenance":
            continue
        for place in places - {None}:
            found.setdefault(group_id, {}).setdefault(place, []).append(name)
    return found
