"""Pure: how affinity groups and labels and scheduling policies are shown."""

from __future__ import annotations

from portal.thing import CLUSTER, NAME, Button, Column, Thing

AFFINITYGROUPS = Thing(
    "affinitygroups",
    "affinitygroup",
    "Affinity groups",
    "icon:magnet",
    "VMs that belong together or apart, on some hosts or off them.",
    (
        NAME,
        CLUSTER,
        Column("vms_rule", "VMs", "vms_rule"),
        Column("hosts_rule", "Hosts", "hosts_rule"),
        Column("priority", "Priority", "number"),
    ),
    (
        CLUSTER,
        Column("vms_rule", "VMs", "vms_rule"),
        Column("vms", "Its VMs", "list"),
        Column("hosts_rule", "Hosts", "hosts_rule"),
        Column("hosts", "Its hosts", "list"),
        Column("priority", "Priority", "number"),
    ),
    (
        Button("affinitygroup.edit", "Edit", "icon:pencil", form=True, main=True),
        Button("affinitygroup.remove", "Remove", "icon:trash-2", danger=True, ask="Its VMs and hosts stay as they are."),
    ),
    creates=(("affinitygroup.create", "Create affinity group"),),
    live=("vm", "host"),
)

AFFINITYLABELS = Thing(
    "affinitylabels",
    "affinitylabel",
    "Affinity labels",
    "icon:tag",
    "A VM starts only where its host has all of the VM's labels.",
    (NAME, Column("hosts", "Hosts", "list"), Column("vms", "VMs", "list")),
    (Column("hosts", "Hosts", "list"), Column("vms", "VMs", "list")),
    (
        Button("affinitylabel.edit", "Edit", "icon:pencil", form=True, main=True),
        Button("affinitylabel.remove", "Remove", "icon:trash-2", danger=True, ask="It is taken from all hosts and VMs."),
    ),
    creates=(("affinitylabel.create", "Create affinity label"),),
)

SCHEDULINGPOLICIES = Thing(
    "schedulingpolicies",
    "schedulingpolicy",
    "Scheduling policies",
    "icon:gauge",
    "Policies of your own, beside the four that are built in.",
    (NAME, Column("description", "Description"), Column("balancing", "Balances as", "policy")),
    (
        Column("balancing", "Balances as", "policy"),
        Column("weights", "Scores", "weights"),
        Column("filters", "Filters", "list"),
    ),
    (
        Button("schedulingpolicy.remove", "Remove", "icon:trash-2", danger=True, ask="No cluster may use it any more."),
    ),
    creates=(("schedulingpolicy.create", "Create scheduling policy"),),
)
