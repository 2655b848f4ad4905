"""The collections of the backend's own rows: their fields, and who sees which rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa

from backend.actions.models import CustomAction
from backend.calendars.models import Calendar
from backend.clusters.models import Cluster, CpuKind, DataCenter
from backend.devices.machine import DEVICE
from backend.devices.models import Device
from backend.directory.models import Directory, Group, Membership, Permission, User, WebSession
from backend.directory.names import INTERNAL
from backend.directory.rights import see_permit, visible
from backend.directory.rules import OBJECT_TYPES, ROLES, places
from backend.directory.sessions import TOKEN
from backend.events import Event
from backend.ha.models import Outage, PowerAgent
from backend.hosts.alerting import Alerts
from backend.hosts.machine import HOST
from backend.hosts.models import Evacuation, Host
from backend.hosts.usage import memory_percent, storage_percent, swap_percent
from backend.placement.models import HostLoad, Pin, SchedulingPolicy
from backend.scheduling.policies import Thresholds
from backend.search.query import Field, Kind, Viewer
from backend.storage.machine import DISK, DOMAIN
from backend.storage.models import Disk, DomainReach, StorageDomain, Transfer
from backend.tasks.models import TASK, Task
from backend.vms.machine import NOT_RUNNING, SNAPSHOT, TEMPLATE, VM
from backend.vms.models import GuestSession, Template, Vm, VmSnapshot, Vnic

# rows of higher floors are known here by table name alone
POOL = sa.table("pool", sa.column("id"), sa.column("name"), sa.column("cluster_id"), sa.column("template_id"))
LEASE = sa.table("lease", sa.column("vm_id"), sa.column("user_id"), sa.column("state"))


def below(kind: str, **columns: Any) -> Callable[[Viewer], Any]:
    """Rows below an object on which the viewer holds the permit to see this kind."""
    return lambda viewer: visible(viewer.grants, see_permit(kind), viewer.now, columns=columns)


def or_own(kind: str, user_id: Any, **columns: Any) -> Callable[[Viewer], Any]:
    """The same, and the viewer's own rows."""
    seen = below(kind, **columns)
    return lambda viewer: sa.or_(seen(viewer), user_id == viewer.user_id)


def anywhere(kind: str) -> Callable[[Viewer], Any]:
    """All rows, for whoever holds the permit to see this kind on anything: such rows hang below no object."""
    return lambda viewer: sa.true() if places(viewer.grants, see_permit(kind), viewer.now) else sa.false()


def name_of(table: Any, id: Any) -> Any:
    """The name of the row that a column points at."""
    other = sa.orm.aliased(table) if isinstance(table, type) else table.alias()
    columns = other if isinstance(table, type) else other.c
    return sa.select(columns.name).where(columns.id == id).scalar_subquery()


def person_name(user_id: Any) -> Any:
    """A person as they are written everywhere: alice, alice@corp.example."""
    user, directory = sa.orm.aliased(User), sa.orm.aliased(Directory)
    full = sa.case((directory.name == INTERNAL, user.name), else_=user.name + "@" + directory.name)
    return (sa.select(full).select_from(user).join(directory, directory.id == user.directory_id)
            .where(user.id == user_id).scalar_subquery())


def of_object(kind: Any, id: Any) -> dict[str, Any]:
    """For rows about "any object" (tasks, events): where that object hangs, as columns for `visible`."""
    vm = sa.orm.aliased(Vm)
    pool = sa.select(vm.pool_id).where(vm.id == id).scalar_subquery()
    cluster = sa.select(vm.cluster_id).where(vm.id == id).scalar_subquery()
    here = {name: sa.case((kind == name, id)) for name in OBJECT_TYPES if name not in ("system", "pool", "cluster")}
    return here | {"pool": sa.case((kind == "pool", id), (kind == "vm", pool)),
                   "cluster": sa.case((kind == "cluster", id), (kind == "vm", cluster))}


ID = "id"
_STATE = "choice"

DATACENTERS = Kind("datacenters", "datacenter", DataCenter.id, {
    "id": Field(DataCenter.id, ID), "name": Field(DataCenter.name), "description": Field(DataCenter.description),
}, below("datacenter", datacenter=DataCenter.id))


# what the cluster's policy balances by: a built-in one by its name, one of its own by its row
_OWN_POLICY = sa.select(SchedulingPolicy.balancing).where(SchedulingPolicy.name == Cluster.scheduling_policy)
_BALANCING = sa.func.coalesce(_OWN_POLICY.correlate(Cluster).scalar_subquery(), Cluster.scheduling_policy)


def _threshold(name: str, usual: int | bool) -> Field:
    """A threshold of a cluster's scheduling policy: its own, or the usual one."""
    yesno = isinstance(usual, bool)
    own = sa.cast(Cluster.thresholds[name].astext, sa.Boolean if yesno else sa.Integer)
    return Field(sa.func.coalesce(own, usual), "yesno" if yesno else "number")


def _cpu_name(id: Any) -> Any:
    """The model of this kind of CPU."""
    return sa.func.coalesce(sa.select(CpuKind.model).where(CpuKind.id == id).scalar_subquery(), "")


def _cpu_vendor(id: Any) -> Any:
    vendor = CpuKind.cpu["cpu"]["vendor"].astext
    return sa.func.coalesce(sa.select(vendor).where(CpuKind.id == id).scalar_subquery(), "")


CLUSTERS = Kind("clusters", "cluster", Cluster.id, {
    "id": Field(Cluster.id, ID), "name": Field(Cluster.name), "description": Field(Cluster.description),
    "datacenter": Field(name_of(DataCenter, Cluster.data_center_id)), "datacenter_id": Field(Cluster.data_center_id, ID),
    "memory_overcommit_percent": Field(Cluster.memory_overcommit_percent, "number"),
    "migration_bandwidth_mib": Field(Cluster.migration_bandwidth_mib, "number", about="MiB a second; 0 is no limit"),
    "migrations_per_host": Field(Cluster.migrations_per_host, "number", about="at once, in and out"),
    "migration_downtime_ms": Field(Cluster.migration_downtime_ms, "number"),
    "migration_converge": Field(Cluster.migration_converge, "choice", ("none", "auto_converge", "post_copy", "suspend")),
    "cpu_model": Field(Cluster.cpu_model, about="as chosen; nothing: what all its hosts have"),
    "cpu": Field(_cpu_name(Cluster.cpu_id), about="that its VMs are given"),
    "networks": Field(Cluster.networks, "texts", about="that a host must have to run its VMs"),
    "scheduling_policy": Field(Cluster.scheduling_policy), "balancing": Field(_BALANCING, about="what its policy balances by"),
    **{name: _threshold(name, usual) for name, usual in asdict(Thresholds()).items()},
    "upgrade_to": Field(Cluster.upgrade_to, about="the version that its agents are being upgraded to"),
    "upgrade_why": Field(Cluster.upgrade_why, about="why the last upgrade stopped"),
    **{f.name: Field(sa.func.coalesce(sa.cast(Cluster.alerts[f.name].astext, sa.Integer), f.default), "number",
                     about="above it an event tells so; 0: never") for f in fields(Alerts)},
    "fencing": Field(Cluster.fencing, "yesno"), "fencing_grace_s": Field(Cluster.fencing_grace_s, "number"),
    "fencing_silent_percent": Field(Cluster.fencing_silent_percent, "number"),
    "fencing_at_once": Field(Cluster.fencing_at_once, "number"),
    "fencing_skip_if_lease_alive": Field(Cluster.fencing_skip_if_lease_alive, "yesno"),
    "fencing_kdump_wait_s": Field(Cluster.fencing_kdump_wait_s, "number"),
}, below("cluster", cluster=Cluster.id))

HOSTS = Kind("hosts", "host", Host.id, {
    "id": Field(Host.id, ID), "name": Field(Host.name), "state": Field(Host.state, _STATE, tuple(HOST.states)),
    "cluster": Field(name_of(Cluster, Host.cluster_id)), "cluster_id": Field(Host.cluster_id, ID),
    "address": Field(Host.address), "port": Field(Host.port, "number"), "console_port": Field(Host.console_port, "number"),
    "virt_type": Field(Host.virt_type), "hypervisor": Field(Host.hypervisor), "agent_version": Field(Host.agent_version),
    "cpus": Field(Host.cpus, "number"), "load": Field(Host.load1, "number"),
    "cpu_usage": Field(sa.func.coalesce(Host.cpu_percent, sa.cast(Host.load1 * 100 / sa.func.nullif(Host.cpus, 0), sa.Float)),
                       "number", about="per cent of its processors, lately"),
    "memory_usage": Field(sa.cast(memory_percent(), sa.Float), "number", about="per cent"),
    "swap_usage": Field(sa.cast(swap_percent(), sa.Float), "number", about="per cent; nothing when it has none"),
    "swap_mib": Field(Host.swap_mib, "number"),
    "network_mib_s": Field(Host.network_mib_s, "number", about="MiB a second, in and out"),
    "storage_usage": Field(sa.cast(storage_percent(), sa.Float), "number", about="per cent of the fullest of its own domains"),
    "alerts": Field(Host.alerts, "texts", about="limits that it has crossed"),
    "memory_mib": Field(Host.memory_mib, "number"), "memory_free_mib": Field(Host.memory_free_mib, "number"),
    "vms": Field(sa.select(sa.func.count()).select_from(Vm).where(
        Vm.host_id == Host.id, Vm.state.not_in(NOT_RUNNING),
    ).correlate(Host).scalar_subquery(), "number"),
    "power_agents": Field(sa.select(sa.func.count()).select_from(PowerAgent).where(PowerAgent.host_id == Host.id)
                          .correlate(Host).scalar_subquery(), "number"),
    "outage": Field(sa.select(Outage.why).where(Outage.host_id == Host.id).correlate(Host).scalar_subquery(),
                    about="why nothing is done about its silence"),
    "cpu": Field(_cpu_name(Host.cpu_id), about="its processor, as VMs can be given it"),
    "cpu_vendor": Field(_cpu_vendor(Host.cpu_id)), "cpu_lacks": Field(Host.cpu_lacks, about="what it lacks of its cluster's CPU"),
    "saves_power": Field(sa.select(HostLoad.saving_since.is_not(None)).where(HostLoad.host_id == Host.id)
                         .correlate(Host).scalar_subquery(), "yesno", about="it is off, or about to be, because nobody needs it"),
    "why": Field(Host.why), "fingerprint": Field(Host.fingerprint),
    "networks": Field(Host.networks, "texts", about="the bridges that it has"),
    "enrolled": Field(Host.certificate.is_not(None), "yesno"), "reported_at": Field(Host.reported_at, "time"),
}, below("host", host=Host.id, cluster=Host.cluster_id))

STORAGEDOMAINS = Kind("storagedomains", "storagedomain", StorageDomain.id, {
    "id": Field(StorageDomain.id, ID), "name": Field(StorageDomain.name), "type": Field(StorageDomain.type),
    "state": Field(StorageDomain.state, _STATE, tuple(DOMAIN.states)), "why": Field(StorageDomain.why),
    "datacenter": Field(name_of(DataCenter, StorageDomain.data_center_id)),
    "datacenter_id": Field(StorageDomain.data_center_id, ID),
    "host": Field(name_of(Host, StorageDomain.host_id)), "host_id": Field(StorageDomain.host_id, ID),
    "path": Field(StorageDomain.path), "total_mib": Field(StorageDomain.total_mib, "number"),
    "free_mib": Field(StorageDomain.free_mib, "number"),
}, below("storagedomain", storagedomain=StorageDomain.id, datacenter=StorageDomain.data_center_id))

def _of_evacuated(column: Any) -> Any:
    return sa.select(column).where(Vm.id == Evacuation.vm_id).correlate(Evacuation).scalar_subquery()


def _of_evacuating_task(column: Any) -> Any:
    return sa.select(column).where(Task.id == Evacuation.task_id).correlate(Evacuation).scalar_subquery()


EVACUATIONS = Kind("evacuations", "evacuation", Evacuation.id, {
    "id": Field(Evacuation.id, ID), "host": Field(name_of(Host, Evacuation.host_id)), "host_id": Field(Evacuation.host_id, ID),
    "vm": Field(name_of(Vm, Evacuation.vm_id)), "vm_id": Field(Evacuation.vm_id, ID),
    "vm_state": Field(_of_evacuated(Vm.state), _STATE, tuple(VM.states)),
    "destination": Field(name_of(Host, _of_evacuated(Vm.destination_id))),
    "destination_id": Field(_of_evacuated(Vm.destination_id), ID),
    "why": Field(Evacuation.why, about="why it cannot leave"), "task_id": Field(Evacuation.task_id, ID),
    "progress": Field(_of_evacuating_task(Task.progress), "number", about="per cent"),
    "message": Field(_of_evacuating_task(Task.message)),
    "began_at": Field(Evacuation.began_at, "time"), "tried_at": Field(Evacuation.tried_at, "time"),
}, below("evacuation", host=Evacuation.host_id, cluster=_of_evacuated(Vm.cluster_id)), name="vm", order=(("vm", False),))


def _of_domain(column: Any) -> Any:
    return sa.select(column).where(StorageDomain.id == DomainReach.domain_id).correlate(DomainReach).scalar_subquery()


REACHES = Kind("reaches", "reach", DomainReach.id, {
    "id": Field(DomainReach.id, ID),
    "domain": Field(_of_domain(StorageDomain.name)), "domain_id": Field(DomainReach.domain_id, ID),
    "host": Field(name_of(Host, DomainReach.host_id)), "host_id": Field(DomainReach.host_id, ID),
    "path": Field(_of_domain(StorageDomain.path)), "ok": Field(DomainReach.ok, "yesno"), "why": Field(DomainReach.why),
    "total_mib": Field(DomainReach.total_mib, "number"), "free_mib": Field(DomainReach.free_mib, "number"),
}, below("reach", storagedomain=DomainReach.domain_id, host=DomainReach.host_id,
         datacenter=_of_domain(StorageDomain.data_center_id)), name="host", order=(("host", False),))

def _of_upload(column: Any) -> Any:
    return sa.select(column).where(Transfer.disk_id == Disk.id).correlate(Disk).scalar_subquery()


DISKS = Kind("disks", "disk", Disk.id, {
    "id": Field(Disk.id, ID), "name": Field(Disk.name), "state": Field(Disk.state, _STATE, tuple(DISK.states)),
    "capacity_mib": Field(Disk.capacity_mib, "number"),
    "domain": Field(name_of(StorageDomain, Disk.domain_id)), "domain_id": Field(Disk.domain_id, ID),
    "vm": Field(name_of(Vm, Disk.vm_id)), "vm_id": Field(Disk.vm_id, ID),
    "template": Field(name_of(Template, Disk.template_id)), "template_id": Field(Disk.template_id, ID),
    "vm_state": Field(sa.select(Vm.state).where(Vm.id == Disk.vm_id).correlate(Disk).scalar_subquery()),
    "attached": Field(sa.or_(Disk.vm_id.is_not(None), Disk.template_id.is_not(None)), "yesno", about="to a VM or a template"),
    "made_with": Field(Disk.backing_id.is_not(None), "yesno", about="it lies over a template's disk and goes with its VM"),
    "preallocated": Field(Disk.preallocated, "yesno", about="its room is taken whether it is written to or not"),
    "path": Field(Disk.path), "format": Field(Disk.format),
    "transfer_id": Field(_of_upload(Transfer.id), ID),
    "upload": Field(_of_upload(Transfer.state)), "upload_why": Field(_of_upload(Transfer.why)),
    "upload_percent": Field(_of_upload(Transfer.received_bytes * 100 // Transfer.size_bytes), "number"),
}, below("disk", storagedomain=Disk.domain_id))


def _who_sees_templates(viewer: Viewer) -> Any:
    """Besides, who runs a pool sees every version of what its desktops are made from."""
    seen = below("template", template=Template.id, cluster=Template.cluster_id)(viewer)
    pools = [id for kind, id in places(viewer.grants, see_permit("template"), viewer.now) if kind == "pool"]
    if not pools:
        return seen
    made_from = sa.orm.aliased(Template)
    names = sa.select(made_from.name).join(POOL, POOL.c.template_id == made_from.id).where(POOL.c.id.in_(pools))
    return sa.or_(seen, Template.name.in_(names))


TEMPLATES = Kind("templates", "template", Template.id, {
    "id": Field(Template.id, ID), "name": Field(Template.name), "version": Field(Template.version, "number"),
    "description": Field(Template.description), "state": Field(Template.state, _STATE, tuple(TEMPLATE.states)),
    "cluster": Field(name_of(Cluster, Template.cluster_id)), "cluster_id": Field(Template.cluster_id, ID),
    "memory_mib": Field(Template.memory_mib, "number"), "vcpus": Field(Template.vcpus, "number"),
    "guest_agent": Field(Template.guest_agent, "yesno"), "boot_timeout_s": Field(Template.boot_timeout_s, "number"),
}, _who_sees_templates, order=(("name", False), ("version", True)))

_HOLDER = sa.select(LEASE.c.user_id).where(LEASE.c.vm_id == Vm.id, LEASE.c.state != "ended").correlate(Vm).scalar_subquery()


def _while_running(column: Any) -> Any:
    """What a host says of a VM counts only while it is known to run there."""
    return sa.case((Vm.state.in_(("powering_up", "up", "migrating", "powering_down")), column))


def _pins(what: Any) -> Any:
    names = sa.select(sa.cast(what, sa.Text)).select_from(Host).join(Pin, Pin.host_id == Host.id).where(Pin.vm_id == Vm.id)
    return sa.func.array(names.order_by(Host.name).correlate(Vm).scalar_subquery())


VMS = Kind("vms", "vm", Vm.id, {
    "id": Field(Vm.id, ID), "name": Field(Vm.name), "description": Field(Vm.description),
    "state": Field(Vm.state, _STATE, tuple(VM.states)), "why": Field(Vm.why),
    "cluster": Field(name_of(Cluster, Vm.cluster_id)), "cluster_id": Field(Vm.cluster_id, ID),
    "host": Field(name_of(Host, Vm.host_id)), "host_id": Field(Vm.host_id, ID),
    "destination": Field(name_of(Host, Vm.destination_id), about="where it is being migrated to"),
    "destination_id": Field(Vm.destination_id, ID),
    "pool": Field(name_of(POOL, Vm.pool_id)), "pool_id": Field(Vm.pool_id, ID),
    "template": Field(name_of(Template, Vm.template_id)), "template_id": Field(Vm.template_id, ID),
    "user": Field(person_name(_HOLDER), about="who holds its lease"),
    "memory_mib": Field(Vm.memory_mib, "number"), "vcpus": Field(Vm.vcpus, "number"),
    "cpu_usage": Field(_while_running(Vm.cpu_usage), "number", about="per cent of its processors, over the last seconds"),
    "memory_given_mib": Field(_while_running(Vm.memory_given_mib), "number", about="what its host gives it now"),
    "protocols": Field(Vm.protocols, "texts"), "guest": Field(Vm.guest, "json"),
    "ip": Field(sa.func.array(sa.select(sa.func.jsonb_array_elements_text(
        sa.case((sa.func.jsonb_typeof(Vm.guest["ips"]) == "array", Vm.guest["ips"]))).column_valued("ip"),
    ).correlate(Vm).scalar_subquery()), "texts"),
    "logged_in": Field(sa.func.array(sa.select(GuestSession.user_name).where(
        GuestSession.vm_id == Vm.id, GuestSession.ended_at.is_(None),
    ).order_by(GuestSession.user_name).correlate(Vm).scalar_subquery()), "texts", about="who is logged in inside"),
    "max_memory_mib": Field(Vm.max_memory_mib, "number", about="up to which it grows while it runs"),
    "max_vcpus": Field(Vm.max_vcpus, "number"), "video": Field(Vm.video), "guest_agent": Field(Vm.guest_agent, "yesno"),
    "boot_timeout_s": Field(Vm.boot_timeout_s, "number"),
    "next_run": Field(Vm.next_run, "json", about="what it is to be from its next start on"),
    "pause": Field(sa.case((Vm.state == "paused", Vm.pause)), about="why it is paused"),
    "paused_at": Field(sa.case((Vm.state == "paused", Vm.paused_at)), "time"),
    "resume_behaviour": Field(Vm.resume_behaviour, "choice", ("auto_resume", "leave_paused", "kill"),
                              about="what becomes of it when the storage that had paused it is back"),
    "run_once": Field(sa.case((Vm.state.not_in(("down", "image_locked")), Vm.run_once)), "json",
                      about="what this run has otherwise"),
    "high_availability": Field(Vm.high_availability, "yesno", about="it runs again elsewhere when its host dies"),
    "priority": Field(Vm.priority, "number", about="who is started first: 1 to 100"),
    "started_at": Field(Vm.started_at, "time"), "created_at": Field(Vm.created_at, "time"),
    "pinned_to": Field(_pins(Host.name), "texts", about="the only hosts that it may run on; none: all"),
    "host_ids": Field(_pins(Host.id), "texts", about="the same, by their ids"),
}, below("vm", vm=Vm.id, pool=Vm.pool_id, cluster=Vm.cluster_id))



def _of_vm(column: Any, vm_id: Any) -> Any:
    vm = sa.orm.aliased(Vm)
    return sa.select(getattr(vm, column)).where(vm.id == vm_id).scalar_subquery()


def _below_vm(kind: str, vm_id: Any) -> Callable[[Viewer], Any]:
    return below(kind, vm=vm_id, pool=_of_vm("pool_id", vm_id), cluster=_of_vm("cluster_id", vm_id))


SNAPSHOTS = Kind("snapshots", "snapshot", VmSnapshot.id, {
    "id": Field(VmSnapshot.id, ID), "name": Field(VmSnapshot.name),
    "state": Field(VmSnapshot.state, _STATE, tuple(SNAPSHOT.states)),
    "vm": Field(name_of(Vm, VmSnapshot.vm_id)), "vm_id": Field(VmSnapshot.vm_id, ID),
    "vm_state": Field(_of_vm("state", VmSnapshot.vm_id), "choice", tuple(VM.states)),
    "at_rest": Field(VmSnapshot.at_rest, "yesno", about="its file systems were: the VM was off, or its agent froze them"),
    "created_at": Field(VmSnapshot.created_at, "time"),
}, _below_vm("snapshot", VmSnapshot.vm_id), order=(("created_at", True),))

VNICS = Kind("vnics", "vnic", Vnic.id, {
    "id": Field(Vnic.id, ID), "name": Field(Vnic.name), "vm": Field(name_of(Vm, Vnic.vm_id)), "vm_id": Field(Vnic.vm_id, ID),
    "vm_state": Field(_of_vm("state", Vnic.vm_id), "choice", tuple(VM.states)),
    "mac": Field(Vnic.mac), "bridge": Field(Vnic.bridge), "model": Field(Vnic.model),
    "linked": Field(Vnic.linked, "yesno", about="its cable is in"), "plugged": Field(Vnic.plugged, "yesno"),
}, _below_vm("vnic", Vnic.vm_id))

GUESTSESSIONS = Kind("guestsessions", "guestsession", GuestSession.id, {
    "id": Field(GuestSession.id, ID), "user": Field(GuestSession.user_name, about="as the guest calls them"),
    "vm": Field(name_of(Vm, GuestSession.vm_id)), "vm_id": Field(GuestSession.vm_id, ID),
    "since": Field(GuestSession.since, "time"), "seen_at": Field(GuestSession.seen_at, "time"),
    "ended_at": Field(GuestSession.ended_at, "time"),
}, _below_vm("guestsession", GuestSession.vm_id), name="user", order=(("since", True),))

_GROUPS = (sa.select(Group.name).join(Membership, Membership.group_id == Group.id).where(Membership.user_id == User.id)
           .order_by(Group.name).correlate(User).scalar_subquery())

USERS = Kind("users", "user", User.id, {
    "id": Field(User.id, ID), "name": Field(User.name), "full_name": Field(person_name(User.id)),
    "display_name": Field(User.display_name), "email": Field(User.email),
    "directory": Field(name_of(Directory, User.directory_id)), "directory_id": Field(User.directory_id, ID),
    "group": Field(sa.func.array(_GROUPS), "texts", about="all groups, nested ones included"),
    "enabled": Field(User.enabled, "yesno"), "auto_launch": Field(User.auto_launch, "yesno"),
    "signed_in_at": Field(User.signed_in_at, "time"),
}, or_own("user", User.id))

GROUPS = Kind("groups", "group", Group.id, {
    "id": Field(Group.id, ID), "name": Field(Group.name),
    "directory": Field(name_of(Directory, Group.directory_id)), "directory_id": Field(Group.directory_id, ID),
    "auto_launch": Field(Group.auto_launch, "yesno"),
    "members": Field(sa.select(sa.func.count()).select_from(Membership).where(Membership.group_id == Group.id)
                     .correlate(Group).scalar_subquery(), "number", about="people known here"),
}, below("group"))


def _may_search_directories(viewer: Viewer) -> Any:
    held = places(viewer.grants, "directory.search", viewer.now) | places(viewer.grants, "user.see", viewer.now)
    return sa.true() if held else sa.false()


DIRECTORIES = Kind("directories", "directory", Directory.id, {
    "id": Field(Directory.id, ID), "name": Field(Directory.name), "type": Field(Directory.type, "choice", ("internal", "ad")),
    "servers": Field(sa.func.coalesce(Directory.config["servers"], sa.text("'[]'::jsonb")), "json"),
    "base_dn": Field(sa.func.coalesce(Directory.config["base_dn"].astext, "")),
    "netbios": Field(sa.func.coalesce(Directory.config["netbios"].astext, "")),
    "starttls": Field(sa.func.coalesce(sa.cast(Directory.config["starttls"].astext, sa.Boolean), sa.false()), "yesno"),
    "trouble": Field(Directory.trouble), "refreshed_at": Field(Directory.refreshed_at, "time"),
}, _may_search_directories)

PERMISSIONS = Kind("permissions", "permission", Permission.id, {
    "id": Field(Permission.id, ID), "role": Field(Permission.role, "choice", tuple(ROLES)),
    "user": Field(person_name(Permission.user_id)), "user_id": Field(Permission.user_id, ID),
    "group": Field(name_of(Group, Permission.group_id)), "group_id": Field(Permission.group_id, ID),
    "object_type": Field(Permission.object_type, "choice", OBJECT_TYPES), "object_id": Field(Permission.object_id, ID),
    "object": Field(sa.case(
        (Permission.object_type == "pool", name_of(POOL, Permission.object_id)),
        (Permission.object_type == "vm", name_of(Vm, Permission.object_id)),
        (Permission.object_type == "cluster", name_of(Cluster, Permission.object_id)),
        (Permission.object_type == "datacenter", name_of(DataCenter, Permission.object_id)),
        (Permission.object_type == "host", name_of(Host, Permission.object_id)),
        (Permission.object_type == "template", name_of(Template, Permission.object_id)),
        (Permission.object_type == "storagedomain", name_of(StorageDomain, Permission.object_id)),
    )),
    "valid_from": Field(Permission.valid_from, "time"), "valid_until": Field(Permission.valid_until, "time"),
    "calendar": Field(name_of(Calendar, Permission.calendar_id)), "calendar_id": Field(Permission.calendar_id, ID),
    "priority": Field(Permission.priority, "number"),
}, or_own("permission", Permission.user_id), name="object", order=(("object_type", False), ("object", False)))

_AT_DEVICE = (sa.select(WebSession.user_id)
              .where(WebSession.device_id == Device.id, WebSession.ended_at.is_(None), WebSession.expires_at > sa.func.now())
              .order_by(WebSession.created_at.desc()).limit(1).correlate(Device).scalar_subquery())

DEVICES = Kind("devices", "device", Device.id, {
    "id": Field(Device.id, ID), "name": Field(Device.name), "description": Field(Device.description),
    "state": Field(Device.state, _STATE, tuple(DEVICE.states)),
    "group": Field(name_of(Group, Device.group_id), about="only its people may sign in there"),
    "group_id": Field(Device.group_id, ID),
    "pool": Field(name_of(POOL, Device.pool_id), about="where people are taken to at once"), "pool_id": Field(Device.pool_id, ID),
    "auto_launch": Field(Device.auto_launch, "yesno"), "protocols": Field(Device.protocols, "texts"),
    "user": Field(person_name(_AT_DEVICE), "private", about="who is signed in there"),
    "address": Field(Device.address), "code_until": Field(Device.code_until, "time"), "seen_at": Field(Device.seen_at, "time"),
    "enrolled_at": Field(Device.enrolled_at, "time"), "created_at": Field(Device.created_at, "time"),
}, anywhere("device"), trusted=anywhere("session"))

CUSTOMACTIONS = Kind("customactions", "customaction", CustomAction.id, {
    "id": Field(CustomAction.id, ID), "name": Field(CustomAction.name), "description": Field(CustomAction.description),
    "target": Field(CustomAction.target, "choice", ("vm", "host")), "hook": Field(CustomAction.hook),
    "args": Field(CustomAction.args, "texts"), "timeout_s": Field(CustomAction.timeout_s, "number"),
}, anywhere("customaction"))

CALENDARS = Kind("calendars", "calendar", Calendar.id, {
    "id": Field(Calendar.id, ID), "name": Field(Calendar.name), "description": Field(Calendar.description),
    "timezone": Field(Calendar.timezone), "windows": Field(Calendar.windows, "texts"), "closed": Field(Calendar.closed, "texts"),
}, anywhere("calendar"))

SESSIONS = Kind("sessions", "session", WebSession.id, {
    "id": Field(WebSession.id, ID), "user": Field(person_name(WebSession.user_id)), "user_id": Field(WebSession.user_id, ID),
    "client": Field(WebSession.client, "choice", ("browser", "api")), "address": Field(WebSession.address),
    "device": Field(name_of(Device, WebSession.device_id)), "device_id": Field(WebSession.device_id, ID),
    "created_at": Field(WebSession.created_at, "time"), "seen_at": Field(WebSession.seen_at, "time"),
    "expires_at": Field(WebSession.expires_at, "time"), "ended_at": Field(WebSession.ended_at, "time"),
}, lambda viewer: sa.and_(WebSession.client != TOKEN, or_own("session", WebSession.user_id)(viewer)),
    name="user", order=(("created_at", True),))

TOKENS = Kind("tokens", "token", WebSession.id, {
    "id": Field(WebSession.id, ID), "name": Field(WebSession.name),
    "user": Field(person_name(WebSession.user_id)), "user_id": Field(WebSession.user_id, ID),
    "read_only": Field(WebSession.read_only, "yesno"), "roles": Field(WebSession.roles, "texts"),
    "created_at": Field(WebSession.created_at, "time"),
    "used_at": Field(sa.func.nullif(WebSession.seen_at, WebSession.created_at), "time"),
    "expires_at": Field(WebSession.expires_at, "time"), "ended_at": Field(WebSession.ended_at, "time"),
}, lambda viewer: sa.and_(WebSession.client == TOKEN, or_own("token", WebSession.user_id)(viewer)),
    name="name", order=(("created_at", True),))

TASKS = Kind("tasks", "task", Task.id, {
    "id": Field(Task.id, ID), "title": Field(Task.title), "command": Field(Task.command),
    "state": Field(Task.state, _STATE, tuple(TASK.states)), "progress": Field(Task.progress, "number", about="per cent"),
    "message": Field(Task.message), "object_kind": Field(Task.object_kind), "object_id": Field(Task.object_id, ID),
    "actor": Field(Task.actor_name), "reason": Field(Task.reason), "error": Field(Task.error, "json"),
    "result": Field(Task.result, "json"), "cancel_wanted": Field(Task.cancel_wanted, "yesno"),
    "created_at": Field(Task.created_at, "time"), "started_at": Field(Task.started_at, "time"),
    "ended_at": Field(Task.ended_at, "time"),
}, or_own("task", Task.actor_id, **of_object(Task.object_kind, Task.object_id)), name="title", order=(("created_at", True),))

EVENTS = Kind("events", "event", Event.id, {
    "id": Field(Event.id, ID), "at": Field(Event.at, "time"),
    "severity": Field(Event.severity, "choice", ("info", "warning", "error")), "code": Field(Event.code),
    "sentence": Field(Event.sentence), "object_kind": Field(Event.object_kind), "object_id": Field(Event.object_id, ID),
    "actor": Field(Event.actor_name), "user_id": Field(Event.user_id, ID), "pool_id": Field(Event.pool_id, ID),
    "task_id": Field(Event.task_id, ID), "facts": Field(Event.facts, "json"),
}, or_own("event", Event.user_id, **of_object(Event.object_kind, Event.object_id) | {
    "pool": sa.func.coalesce(Event.pool_id, of_object(Event.object_kind, Event.object_id)["pool"])}),
    name="sentence", order=(("at", True),))

BACKEND = (DATACENTERS, CLUSTERS, HOSTS, EVACUATIONS, STORAGEDOMAINS, REACHES, DISKS, TEMPLATES, VMS, VNICS, SNAPSHOTS,
           GUESTSESSIONS, USERS, GROUPS, DIRECTORIES, PERMISSIONS, CUSTOMACTIONS, CALENDARS, DEVICES, SESSIONS,
           TOKENS, TASKS, EVENTS)
