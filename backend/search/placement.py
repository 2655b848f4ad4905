"""The collections of placement: affinity groups and labels, scheduling policies of one's own."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.hosts.models import Host
from backend.placement.models import (
    AffinityGroup,
    AffinityGroupHost,
    AffinityGroupVm,
    AffinityLabel,
    AffinityLabelHost,
    AffinityLabelVm,
    SchedulingPolicy,
)
from backend.scheduling.policies import BALANCING
from backend.search.query import Field, Kind
from backend.search.tables import anywhere, below, name_of
from backend.vms.models import Vm

ID = "id"
RULES = ("none", "positive", "negative")


def _members(of: Any, thing: Any, on: Any, here: Any, what: Any) -> Any:
    rows = sa.select(sa.cast(what, sa.Text)).select_from(thing).join(of, on).where(here).order_by(thing.name)
    return sa.func.array(rows.correlate(AffinityGroup, AffinityLabel).scalar_subquery())


def _of_group(what: Any) -> Any:
    if what.class_ is Vm:
        return _members(AffinityGroupVm, Vm, AffinityGroupVm.vm_id == Vm.id, AffinityGroupVm.group_id == AffinityGroup.id, what)
    return _members(
        AffinityGroupHost, Host, AffinityGroupHost.host_id == Host.id, AffinityGroupHost.group_id == AffinityGroup.id, what
    )


def _of_label(what: Any) -> Any:
    if what.class_ is Vm:
        return _members(AffinityLabelVm, Vm, AffinityLabelVm.vm_id == Vm.id, AffinityLabelVm.label_id == AffinityLabel.id, what)
    return _members(
        AffinityLabelHost, Host, AffinityLabelHost.host_id == Host.id, AffinityLabelHost.label_id == AffinityLabel.id, what
    )


AFFINITYGROUPS = Kind("affinitygroups", "affinitygroup", AffinityGroup.id, {
    "id": Field(AffinityGroup.id, ID), "name": Field(AffinityGroup.name), "description": Field(AffinityGroup.description),
    "cluster": Field(name_of(Cluster, AffinityGroup.cluster_id)), "cluster_id": Field(AffinityGroup.cluster_id, ID),
    "vms_rule": Field(AffinityGroup.vms_rule, "choice", RULES, about="positive keeps its VMs together, negative apart"),
    "vms_enforcing": Field(AffinityGroup.vms_enforcing, "yesno", about="the rule is never broken"),
    "hosts_rule": Field(AffinityGroup.hosts_rule, "choice", RULES, about="positive keeps its VMs on its hosts, negative off"),
    "hosts_enforcing": Field(AffinityGroup.hosts_enforcing, "yesno", about="the rule is never broken"),
    "priority": Field(AffinityGroup.priority, "number", about="how much its wishes weigh beside those of others"),
    "vms": Field(_of_group(Vm.name), "texts"), "hosts": Field(_of_group(Host.name), "texts"),
    "vm_ids": Field(_of_group(Vm.id), "texts"), "host_ids": Field(_of_group(Host.id), "texts"),
}, below("affinitygroup", cluster=AffinityGroup.cluster_id))

AFFINITYLABELS = Kind("affinitylabels", "affinitylabel", AffinityLabel.id, {
    "id": Field(AffinityLabel.id, ID), "name": Field(AffinityLabel.name),
    "vms": Field(_of_label(Vm.name), "texts"), "hosts": Field(_of_label(Host.name), "texts"),
    "vm_ids": Field(_of_label(Vm.id), "texts"), "host_ids": Field(_of_label(Host.id), "texts"),
}, anywhere("affinitylabel"))

SCHEDULINGPOLICIES = Kind("schedulingpolicies", "schedulingpolicy", SchedulingPolicy.id, {
    "id": Field(SchedulingPolicy.id, ID), "name": Field(SchedulingPolicy.name),
    "description": Field(SchedulingPolicy.description), "balancing": Field(SchedulingPolicy.balancing, "choice", BALANCING),
    "filters": Field(SchedulingPolicy.filters, "texts"), "weights": Field(SchedulingPolicy.weights, "json"),
}, anywhere("schedulingpolicy"))

PLACEMENT = (AFFINITYGROUPS, AFFINITYLABELS, SCHEDULINGPOLICIES)
