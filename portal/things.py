"""Pure: what the console shows of each kind of thing: columns, facts, what hangs on it, and its buttons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A field as it is shown. `how` is the cell's kind in admin/cells.html; `of` what it needs to know besides."""

    field: str
    label: str
    how: str = "text"
    of: str = ""


@dataclass(frozen=True)
class Button:
    """A command that can be wanted of one thing. `ask` is the question before it; `form` leads to its form first."""

    command: str
    word: str
    icon: str
    when: Callable[[Row], bool] = lambda row: True
    ask: str = ""
    danger: bool = False
    form: bool = False
    fields: tuple[str, ...] = ()  # fields of the command that the question lets one fill in
    fixed: tuple[tuple[str, str], ...] = ()  # fields that this button sets
    main: bool = False  # stands beside the name, not in the menu


@dataclass(frozen=True)
class Part:
    """Rows of another collection that belong to the thing: shown below it."""

    title: str
    plural: str
    search: str  # with {id}
    columns: tuple[str, ...] = ()  # a choice of the other's columns; none: all
    link: bool = True  # whether to lead to the whole table


@dataclass(frozen=True)
class Thing:
    """One kind of thing: what it is called, where it stands in the side bar, and how it is shown."""

    plural: str
    kind: str
    title: str
    icon: str
    about: str
    columns: tuple[Column, ...]
    facts: tuple[Column, ...] = ()
    buttons: tuple[Button, ...] = ()
    parts: tuple[Part, ...] = ()
    creates: tuple[tuple[str, str], ...] = ()  # (command, word)
    name: str = "name"
    live: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()  # searches worth showing
    detail: bool = True
    menu: bool = True

    def column(self, field: str) -> Column:
        """Its column of this field."""
        return next(c for c in self.columns if c.field == field)

    def listens(self) -> str:
        """The kinds of changes after which its pages look again."""
        return " ".join(dict.fromkeys((self.kind, *self.live)))


def _in(*states: str) -> Callable[[Row], bool]:
    return lambda row: row["state"] in states


def _live_lease(row: Row) -> bool:
    return row["state"] not in ("ended", "returning")


NAME = Column("name", "Name", "name")
STATE = Column("state", "State", "state")
WHY = Column("why", "Why")
CLUSTER = Column("cluster", "Cluster", "link", "clusters")
MEMORY = Column("memory_mib", "Memory", "mib")

POOLS = Thing(
    "pools", "pool", "Pools", "icon:layers", "Desktops made from a template and leased to people for a time.",
    (NAME, STATE, Column("template", "Template", "link", "templates"), Column("members", "Desktops", "share", "size"),
     Column("leased", "Leased", "number"), Column("spares", "Spares", "number"), Column("waiting", "Waiting", "alarm"),
     Column("broken", "Set aside", "alarm"), Column("lease_s", "Lease", "length")),
    (Column("description", "Description"), CLUSTER, Column("template", "Template", "link", "templates"),
     Column("domain", "Storage domain", "link", "storagedomains"), Column("type", "Kind"), Column("stateless", "Changes are thrown away", "yesno"),
     Column("size", "Most desktops", "number"), Column("spares", "Spares kept running", "number"), Column("lease_s", "A lease lasts", "length"),
     Column("extend_s", "An extension adds", "length"), Column("extensions", "Extensions", "number"), Column("warn_s", "Warning before the end", "length"),
     Column("grace_s", "Grace after the end", "length"), Column("shutdown_s", "Time to shut down", "length"), Column("per_user", "Desktops a person", "number"),
     Column("rights", "Its people may", "list"), Column("protocols", "Consoles", "list")),
    (Button("pool.edit", "Edit", "icon:pencil", _in("up"), form=True, main=True),
     Button("pool.remove", "Remove", "icon:trash-2", _in("up"), danger=True, fields=("force",),
            ask="The pool and all its desktops are removed. This cannot be undone.")),
    (Part("Desktops", "members", "pool_id = {id}", ("vm", "state", "user", "why")),
     Part("Leases", "leases", "pool_id = {id} and state != ended", ("user", "state", "vm", "ends_at"))),
    (("pool.create", "Create pool"),), live=("member", "lease", "vm"),
    hints=("waiting > 0", "broken > 0", "state = removing"),
)

MEMBERS = Thing(
    "members", "member", "Desktops of pools", "icon:monitor", "Every desktop of every pool, and where it is in its round.",
    (Column("vm", "Desktop", "link", "vms"), STATE, Column("pool", "Pool", "link", "pools"), Column("user", "Held by"), WHY),
    buttons=(
        Button("member.repair", "Repair", "icon:wrench", _in("broken"), ask="It is made anew from the template and tried again."),
        Button("member.reset", "Reset", "icon:refresh-cw", _in("ready", "spare"), ask="Everything on it is thrown away, and it is made anew from the template."),
        Button("member.remove", "Remove", "icon:trash-2", _in("ready", "spare", "broken"), danger=True, ask="The desktop and its disk are removed; the pool makes another one when it needs it."),
    ),
    name="vm", live=("lease", "vm"), detail=False, hints=("state = broken", "state = spare"), menu=False,
)

LEASES = Thing(
    "leases", "lease", "Leases", "icon:key-round", "Who holds which desktop, until when, and who waits.",
    (Column("user", "Person", "name"), STATE, Column("pool", "Pool", "link", "pools"), Column("vm", "Desktop", "link", "vms"),
     Column("asked_at", "Asked", "ago"), Column("ends_at", "Ends", "left"), WHY),
    (Column("pool", "Pool", "link", "pools"), Column("vm", "Desktop", "link", "vms"), Column("asked_at", "Asked", "ago"),
     Column("starts_at", "Began", "ago"), Column("ends_at", "Ends", "left"), Column("grace_until", "Grace until", "left"),
     Column("extensions_used", "Extensions used", "number"), Column("ended_at", "Ended", "ago"), Column("end_reason", "Ended because"), WHY),
    (Button("lease.extend", "Extend", "icon:clock-plus", _in("active", "expiring"), fields=("seconds",), ask="The holder keeps the desktop for longer, whatever the pool's policy says."),
     Button("lease.reclaim", "Take back", "icon:undo-2", _live_lease, danger=True, fields=("message",), ask="Its holder loses the desktop at once: consoles are closed, the desktop is shut down. A person who only waits leaves the queue.")),
    (Part("Why: what the broker decided", "decisions", "lease_id = {id}"), Part("Consoles", "consoles", "lease_id = {id}", ("vm", "protocol", "client", "address", "started_at", "ended_at", "end_reason"), link=False),
     Part("Events", "events", "object_id = {id}", link=False)),
    name="user", live=("console", "decision"), hints=("state = queued", "state = expiring", "state != ended sortby ends_at"),
)

DECISIONS = Thing(
    "decisions", "decision", "Decisions", "icon:scale", "What the broker decided for each request, and why.",
    (Column("at", "When", "ago"), Column("outcome", "Outcome", "state"), Column("user", "Person"), Column("pool", "Pool", "link", "pools"), Column("sentence", "What the person was told", "name")),
    (Column("at", "When", "ago"), Column("user", "Person", "link", "users"), Column("pool", "Pool", "link", "pools"), Column("lease_id", "Lease", "id", "leases"), Column("candidates", "Candidates", "candidates")),
    name="sentence", menu=False,
)

VMS = Thing(
    "vms", "vm", "Virtual machines", "icon:monitor", "Every virtual machine, in pools and outside.",
    (NAME, STATE, Column("host", "Host", "link", "hosts"), Column("pool", "Pool", "link", "pools"), Column("user", "Held by"),
     Column("ip", "Address", "list"), MEMORY, Column("started_at", "Up", "ago")),
    (Column("description", "Description"), WHY, CLUSTER, Column("host", "Host", "link", "hosts"), Column("pool", "Pool", "link", "pools"),
     Column("template", "Template", "link", "templates"), Column("user", "Held by"), Column("vcpus", "Processors", "number"), MEMORY,
     Column("protocols", "Consoles", "list"), Column("ip", "Addresses", "list"), Column("guest", "Guest", "guest"),
     Column("started_at", "Started", "ago"), Column("created_at", "Made", "ago")),
    (Button("vm.start", "Start", "icon:play", _in("down"), main=True), Button("vm.shutdown", "Shut down", "icon:power", _in("up", "powering_up"), main=True),
     Button("vm.stop", "Power off", "icon:power-off", _in("powering_up", "up", "paused", "powering_down", "not_responding"), danger=True, ask="As if its plug were pulled: what is not saved is lost."),
     Button("vm.remove", "Remove", "icon:trash-2", lambda row: row["state"] == "down" and not row["pool_id"], danger=True, ask="The virtual machine and its disk are removed. This cannot be undone.")),
    (Part("Tasks", "tasks", "object_id = {id}", ("title", "state", "actor", "created_at")), Part("Disks", "disks", "vm_id = {id}", ("name", "state", "capacity_mib", "domain"), link=False),
     Part("Consoles", "consoles", "vm_id = {id}", ("user", "protocol", "address", "started_at", "ended_at", "end_reason")), Part("Events", "events", "object_id = {id}", link=False)),
    (("vm.create", "Create VM"),), live=("lease", "host", "task"), hints=("state = up", "host = alpha", "user = alice", "memory_mib > 1024"),
)

HOSTS = Thing(
    "hosts", "host", "Hosts", "icon:server", "The machines that run the desktops.",
    (NAME, STATE, CLUSTER, Column("cpu_usage", "Processors", "usage"), Column("memory_free_mib", "Memory", "memory"), Column("vms", "Running VMs", "number"), Column("reported_at", "Last report", "ago")),
    (CLUSTER, Column("address", "Address"), Column("port", "Agent's port", "number"), Column("console_port", "Console port", "number"), Column("hypervisor", "Hypervisor"), Column("virt_type", "Virtualization"),
     Column("agent_version", "Agent"), Column("cpus", "Processors", "number"), Column("load", "Load", "number"), MEMORY, Column("memory_free_mib", "Memory free", "mib"),
     Column("enrolled", "Has its certificate", "yesno"), Column("reported_at", "Last report", "ago")),
    (Button("host.maintenance", "Maintenance", "icon:wrench", _in("up"), ask="It takes no more VMs, and is in maintenance once its last VM is gone."),
     Button("host.activate", "Activate", "icon:play", _in("maintenance", "preparing_for_maintenance"), main=True),
     Button("host.remove", "Remove", "icon:trash-2", _in("maintenance", "installing"), danger=True, ask="Leasehold forgets the host; its agent is told nothing.")),
    (Part("Virtual machines", "vms", "host_id = {id}", ("name", "state", "pool", "user", "memory_mib")), Part("Storage domains", "storagedomains", "host_id = {id}", ("name", "state", "path", "free_mib"), link=False), Part("Events", "events", "object_id = {id}", link=False)),
    (("host.create", "Add host"),), live=("vm",), hints=("state = up", "state != up", "cpu_usage > 80"),
)

TEMPLATES = Thing(
    "templates", "template", "Templates", "icon:copy", "What desktops are made from.",
    (NAME, Column("version", "Version", "number"), STATE, Column("description", "Description"), CLUSTER, Column("vcpus", "Processors", "number"), MEMORY),
    (Column("description", "Description"), CLUSTER, Column("version", "Version", "number"), Column("vcpus", "Processors", "number"), MEMORY, Column("guest_agent", "Has a guest agent", "yesno"), Column("boot_timeout_s", "May take to boot", "length")),
    (Button("template.remove", "Remove", "icon:trash-2", _in("ok", "illegal"), danger=True, ask="The template is removed; its image file stays where it is."),),
    (Part("Pools made from it", "pools", "template_id = {id}", ("name", "state", "members", "leased")), Part("Virtual machines", "vms", "template_id = {id}", ("name", "state", "host", "user"))),
    (("template.import", "Import template"),),
)

STORAGEDOMAINS = Thing(
    "storagedomains", "storagedomain", "Storage domains", "icon:hard-drive", "Where disks lie.",
    (NAME, STATE, Column("type", "Kind"), Column("host", "Host", "link", "hosts"), Column("path", "Path", "mono"), Column("free_mib", "Used", "storage"), WHY),
    (Column("datacenter", "Data center", "link", "datacenters"), Column("host", "Host", "link", "hosts"), Column("path", "Path", "mono"), Column("total_mib", "Size", "mib"), Column("free_mib", "Free", "mib"), WHY),
    (Button("storagedomain.activate", "Activate", "icon:play", _in("inactive"), main=True),),
    (Part("Disks", "disks", "domain_id = {id}", ("name", "state", "capacity_mib", "vm", "template"), link=False),),
    (("storagedomain.create", "Add storage domain"),), live=("host",),
)

DISKS = Thing(
    "disks", "disk", "Disks", "icon:disc-3", "Disks of VMs and templates.",
    (Column("name", "Name"), STATE, Column("capacity_mib", "Size", "mib"), Column("domain", "Storage domain", "link", "storagedomains"), Column("vm", "VM", "link", "vms"), Column("template", "Template", "link", "templates")),
    detail=False, menu=False,
)

CLUSTERS = Thing(
    "clusters", "cluster", "Clusters", "icon:boxes", "Hosts alike enough that a VM may run on any of them.",
    (NAME, Column("datacenter", "Data center", "link", "datacenters"), Column("description", "Description"), Column("memory_overcommit_percent", "Memory overcommit", "percent")),
    (Column("description", "Description"), Column("datacenter", "Data center", "link", "datacenters"), Column("memory_overcommit_percent", "Memory overcommit", "percent")),
    parts=(Part("Hosts", "hosts", "cluster_id = {id}", ("name", "state", "cpu_usage", "memory_free_mib", "vms")), Part("Pools", "pools", "cluster_id = {id}", ("name", "state", "members", "leased"))),
    creates=(("cluster.create", "Create cluster"),),
)

DATACENTERS = Thing(
    "datacenters", "datacenter", "Data centers", "icon:building-2", "Hosts that share storage and networks.",
    (NAME, Column("description", "Description")), (Column("description", "Description"),),
    parts=(Part("Clusters", "clusters", "datacenter_id = {id}"), Part("Storage domains", "storagedomains", "datacenter_id = {id}")),
    creates=(("datacenter.create", "Create data center"),),
)

USERS = Thing(
    "users", "user", "Users", "icon:user-round", "People known here: of the internal directory, or of a domain.",
    (Column("full_name", "Name", "name"), Column("display_name", "Called"), Column("enabled", "State", "enabled"), Column("directory", "Directory", "link", "directories"), Column("auto_launch", "Auto-launch", "yesno"), Column("signed_in_at", "Last sign-in", "ago")),
    (Column("display_name", "Called"), Column("email", "E-mail"), Column("directory", "Directory", "link", "directories"), Column("group", "Groups", "list"), Column("enabled", "May sign in", "yesno"), Column("auto_launch", "Auto-launch", "yesno"), Column("signed_in_at", "Last sign-in", "ago")),
    (Button("user.edit", "Edit", "icon:pencil", form=True, main=True),
     Button("user.edit", "Disable", "icon:ban", lambda row: bool(row["enabled"]), danger=True, fixed=(("enabled", "false"),), ask="The person is signed out everywhere and cannot sign in until enabled again."),
     Button("user.edit", "Enable", "icon:circle-check", lambda row: not row["enabled"], fixed=(("enabled", "true"),), main=True),
     Button("user.sign_out", "Sign out everywhere", "icon:log-out", ask="All sessions of the person end, and their consoles are closed."),
     Button("user.remove", "Remove", "icon:trash-2", danger=True, ask="The person, their permissions and past leases are removed.")),
    (Part("Permissions", "permissions", "user_id = {id}"), Part("Leases", "leases", "user_id = {id} and state != ended", ("pool", "state", "vm", "ends_at")), Part("Sessions", "sessions", "user_id = {id}", ("client", "address", "created_at", "ended_at"), link=False), Part("Events", "events", "user_id = {id}", link=False)),
    (("user.create", "Create user"),), name="full_name", live=("session", "permission", "lease"), hints=("enabled = false", "directory = internal", "group = staff"),
)

GROUPS = Thing(
    "groups", "group", "Groups", "icon:users-round", "Groups of directories that have been given something here.",
    (NAME, Column("directory", "Directory", "link", "directories"), Column("members", "People known here", "number"), Column("auto_launch", "Auto-launch", "yesno")),
    (Column("directory", "Directory", "link", "directories"), Column("members", "People known here", "number"), Column("auto_launch", "Auto-launch", "yesno")),
    (Button("group.edit", "Switch auto-launch on", "icon:rocket", lambda row: not row["auto_launch"], fixed=(("auto_launch", "true"),)),
     Button("group.edit", "Switch auto-launch off", "icon:rocket", lambda row: bool(row["auto_launch"]), fixed=(("auto_launch", "false"),))),
    (Part("Permissions", "permissions", "group_id = {id}"),), live=("permission",),
)

PERMISSIONS = Thing(
    "permissions", "permission", "Permissions", "icon:shield-check", "Who has which role on what.",
    (Column("user", "Who", "who"), Column("role", "Role", "role"), Column("object_type", "On", "object"), Column("valid_from", "From", "ago"), Column("valid_until", "Until", "left")),
    buttons=(Button("permission.take", "Take", "icon:x", danger=True, ask="The role is taken back at once. A desktop that is held already is kept until it is returned."),),
    creates=(("permission.grant", "Give a role"),), name="object", detail=False,
)

DIRECTORIES = Thing(
    "directories", "directory", "Directories", "icon:book-user", "Where people come from: the internal directory and Active Directory domains.",
    (NAME, Column("trouble", "State", "trouble"), Column("type", "Kind", "directory_type"), Column("servers", "Domain controllers", "list"), Column("refreshed_at", "Refreshed", "ago")),
    (Column("type", "Kind", "directory_type"), Column("servers", "Domain controllers", "list"), Column("base_dn", "Base DN", "mono"), Column("netbios", "Short name"), Column("starttls", "StartTLS", "yesno"), Column("trouble", "Trouble"), Column("refreshed_at", "Refreshed", "ago")),
    (Button("directory.remove", "Remove", "icon:trash-2", lambda row: row["type"] != "internal", danger=True, ask="Its people, their groups and everything they were given here are forgotten."),),
    (Part("Users", "users", "directory_id = {id}", ("full_name", "display_name", "enabled", "signed_in_at")), Part("Groups", "groups", "directory_id = {id}", ("name", "members"))),
    (("directory.add", "Add Active Directory"),), live=("user", "group"),
)

TASKS = Thing(
    "tasks", "task", "Tasks", "icon:list-checks", "Everything that takes a while, step by step.",
    (Column("title", "Task", "name"), STATE, Column("progress", "Progress", "progress"), Column("actor", "Asked by"), Column("created_at", "Asked", "ago"), Column("ended_at", "Ended", "ago")),
    (Column("command", "Command", "mono"), Column("actor", "Asked by"), Column("reason", "Reason"), Column("message", "It says"), Column("object_id", "On", "task_object"), Column("created_at", "Asked", "ago"), Column("started_at", "Began", "ago"), Column("ended_at", "Ended", "ago")),
    name="title", hints=("state = running", "state = failed", "actor = admin"),
)

EVENTS = Thing(
    "events", "event", "Events", "icon:scroll-text", "What happened, and to whom.",
    (Column("at", "When", "ago"), Column("severity", "", "severity"), Column("sentence", "What happened", "event"), Column("actor", "By")),
    name="sentence", hints=("severity = error", "severity != info", "code = lease.expire"), detail=False,
)

CONSOLES = Thing(
    "consoles", "console", "Consoles", "icon:monitor-play", "Who watches which screen, from where, over which protocol.",
    (Column("user", "Person", "link", "users"), Column("vm", "Desktop", "link", "vms"), Column("ended_at", "State", "console_state"), Column("protocol", "Over", "upper"), Column("client", "With"), Column("address", "From", "mono"),
     Column("started_at", "Since", "ago"), Column("bytes_to_client", "Sent", "bytes"), Column("end_reason", "Ended because")),
    buttons=(Button("console.end", "End", "icon:x", lambda row: not row["ended_at"], danger=True, fields=("message",), ask="The person's console is closed within seconds; the desktop goes on running."),),
    name="vm", detail=False, hints=("protocol = vnc", "user = alice"),
)

SESSIONS = Thing(
    "sessions", "session", "Sessions", "icon:log-in", "Who is signed in, with what, from where.",
    (Column("user", "Person", "link", "users"), Column("ended_at", "State", "session_state"), Column("client", "With"), Column("address", "From", "mono"), Column("created_at", "Since", "ago"), Column("seen_at", "Last seen", "ago"), Column("expires_at", "Expires", "left")),
    buttons=(Button("session.end", "End", "icon:log-out", lambda row: not row["ended_at"], danger=True, ask="The person must sign in again there; their consoles of that session are closed."),),
    name="user", detail=False,
)

THINGS: dict[str, Thing] = {t.plural: t for t in (
    POOLS, MEMBERS, LEASES, DECISIONS, VMS, TEMPLATES, HOSTS, STORAGEDOMAINS, DISKS, CLUSTERS, DATACENTERS, USERS, GROUPS, PERMISSIONS,
    DIRECTORIES, SESSIONS, CONSOLES, TASKS, EVENTS)}
BY_KIND: dict[str, Thing] = {t.kind: t for t in THINGS.values()}

SIDE_BAR: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Desktops", ("pools", "leases", "vms", "templates", "consoles")),
    ("Infrastructure", ("hosts", "storagedomains", "clusters", "datacenters")),
    ("People", ("users", "groups", "permissions", "directories", "sessions")),
    ("What happens", ("tasks", "events")),
)
