"""Pure: how hosts, storage, clusters and data centers are shown."""

from __future__ import annotations

from portal.thing import CLUSTER, MEMORY, NAME, STATE, WHY, Button, Column, Part, Thing, within
from portal.things_power import HOST_BUTTONS

HOSTS = Thing(
    "hosts",
    "host",
    "Hosts",
    "icon:server",
    "The machines that run the desktops.",
    (
        NAME,
        STATE,
        CLUSTER,
        Column("cpu_usage", "Processors", "usage"),
        Column("memory_free_mib", "Memory", "memory"),
        Column("vms", "VMs", "number"),
        Column("reported_at", "Last report", "ago"),
    ),
    (
        CLUSTER,
        Column("address", "Address"),
        Column("port", "Agent's port", "number"),
        Column("console_port", "Console port", "number"),
        Column("hypervisor", "Hypervisor"),
        Column("virt_type", "Virtualization"),
        Column("agent_version", "Agent"),
        Column("cpus", "Processors", "number"),
        Column("load", "Load", "number"),
        MEMORY,
        Column("memory_free_mib", "Memory free", "mib"),
        Column("enrolled", "Has its certificate", "yesno"),
        Column("outage", "Why nothing is done", when="outage"),
        Column("reported_at", "Last report", "ago"),
    ),
    (
        Button(
            "host.maintenance",
            "Maintenance",
            "icon:wrench",
            within("up"),
            ask="It takes no more VMs, and is in maintenance once its last VM is gone.",
        ),
        Button("host.activate", "Activate", "icon:play", within("maintenance", "preparing_for_maintenance"), main=True),
        *HOST_BUTTONS,
        Button(
            "host.remove",
            "Remove",
            "icon:trash-2",
            within("maintenance", "installing"),
            danger=True,
            ask="Leasehold forgets the host; its agent is told nothing.",
        ),
    ),
    (
        Part("Virtual machines", "vms", "host_id = {id}", ("name", "state", "pool", "user", "memory_mib")),
        Part("Power agents", "poweragents", "host_id = {id}", ("address", "type", "username", "order"), link=False),
        Part("Storage domains", "storagedomains", "host_id = {id}", ("name", "state", "path", "free_mib"), link=False),
        Part("Shared storage", "reaches", "host_id = {id}", ("domain", "ok", "path", "free_mib", "why"), link=False),
        Part("Events", "events", "object_id = {id}", link=False),
    ),
    (("host.create", "Add host"),),
    live=("vm",),
    hints=("state = up", "state != up", "cpu_usage > 80"),
)

STORAGEDOMAINS = Thing(
    "storagedomains",
    "storagedomain",
    "Storage domains",
    "icon:hard-drive",
    "Where disks lie.",
    (
        NAME,
        STATE,
        Column("type", "Kind", "domain_type"),
        Column("host", "Host", "link", "hosts"),
        Column("path", "Path", "mono"),
        Column("free_mib", "Used", "storage"),
        WHY,
    ),
    (
        Column("datacenter", "Data center", "link", "datacenters"),
        Column("type", "Kind", "domain_type"),
        Column("host", "Host", "link", "hosts", when="host"),
        Column("path", "Path", "mono"),
        Column("total_mib", "Size", "mib"),
        Column("free_mib", "Free", "mib"),
        WHY,
    ),
    (Button("storagedomain.activate", "Activate", "icon:play", within("inactive"), main=True),),
    (
        Part("Hosts that share it", "reaches", "domain_id = {id}", ("host", "ok", "free_mib", "why"), link=False),
        Part("Disks", "disks", "domain_id = {id}", ("name", "state", "capacity_mib", "vm", "template"), link=False),
    ),
    (("storagedomain.create", "Add storage domain"),),
    live=("host",),
)

REACHES = Thing(
    "reaches",
    "reach",
    "Reach of shared storage",
    "icon:hard-drive",
    "Which hosts reach which shared storage domain.",
    (
        Column("host", "Host", "link", "hosts"),
        Column("domain", "Storage domain", "link", "storagedomains"),
        Column("path", "Path", "mono"),
        Column("ok", "Reaches it", "yesno"),
        Column("free_mib", "Used", "storage"),
        WHY,
    ),
    name="host",
    detail=False,
    menu=False,
)

DISKS = Thing(
    "disks",
    "disk",
    "Disks",
    "icon:disc-3",
    "Disks of VMs and templates.",
    (
        Column("name", "Name"),
        STATE,
        Column("capacity_mib", "Size", "mib"),
        Column("domain", "Storage domain", "link", "storagedomains"),
        Column("vm", "VM", "link", "vms"),
        Column("template", "Template", "link", "templates"),
    ),
    detail=False,
    menu=False,
)

CLUSTERS = Thing(
    "clusters",
    "cluster",
    "Clusters",
    "icon:boxes",
    "Hosts alike enough that a VM may run on any of them.",
    (
        NAME,
        Column("datacenter", "Data center", "link", "datacenters"),
        Column("description", "Description"),
        Column("scheduling_policy", "Policy", "policy"),
        Column("memory_overcommit_percent", "Memory overcommit", "percent"),
    ),
    (
        Column("description", "Description"),
        Column("datacenter", "Data center", "link", "datacenters"),
        Column("memory_overcommit_percent", "Memory overcommit", "percent"),
        Column("networks", "Networks", "list", when="networks"),
        Column("scheduling_policy", "Policy", "policy"),
        Column("high_cpu_percent", "Too busy above", "percent", when="balancing"),
        Column("high_memory_percent", "Too full above", "percent", when="balancing"),
        Column("over_s", "For so long", "length", when="balancing"),
        Column("at_once", "Moves at once", "number", when="balancing"),
        Column("rest_s", "Rest after a move", "length", when="balancing"),
        Column("high_vm_count", "Most VMs a host", "number", when="balancing=vm_evenly_distributed"),
        Column("vm_migration_threshold", "Difference in VMs", "number", when="balancing=vm_evenly_distributed"),
        Column("low_cpu_percent", "Too idle below", "percent", when="balancing=power_saving"),
        Column("low_memory_percent", "Too empty below", "percent", when="balancing=power_saving"),
        Column("hosts_in_reserve", "Hosts in reserve", "number", when="balancing=power_saving"),
        Column("shut_down_hosts", "Switches empty hosts off", "yesno", when="balancing=power_saving"),
        Column("fencing", "Hosts that do not answer are fenced", "yesno"),
        Column("fencing_grace_s", "… after so long", "length"),
        Column("fencing_at_once", "… so many at once", "number"),
        Column("fencing_silent_percent", "… unless more than this are silent", "percent"),
        Column("fencing_kdump_wait_s", "… a crashed kernel may write down why", "length"),
    ),
    (
        Button("cluster.set_policy", "Scheduling policy", "icon:gauge", form=True, main=True),
        Button("cluster.edit_fencing", "Edit fencing", "icon:shield", form=True),
    ),
    parts=(
        Part("Hosts", "hosts", "cluster_id = {id}", ("name", "state", "cpu_usage", "memory_free_mib", "vms")),
        Part("Pools", "pools", "cluster_id = {id}", ("name", "state", "members", "leased")),
        Part("Affinity groups", "affinitygroups", "cluster_id = {id}", ("name", "vms_rule", "hosts_rule"), link=False),
    ),
    creates=(("cluster.create", "Create cluster"),),
)

DATACENTERS = Thing(
    "datacenters",
    "datacenter",
    "Data centers",
    "icon:building-2",
    "Hosts that share storage and networks.",
    (NAME, Column("description", "Description")),
    (Column("description", "Description"),),
    parts=(
        Part("Clusters", "clusters", "datacenter_id = {id}"),
        Part("Storage domains", "storagedomains", "datacenter_id = {id}"),
    ),
    creates=(("datacenter.create", "Create data center"),),
)
