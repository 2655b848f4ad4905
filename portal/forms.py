"""One form description per command, made from its fields; words and choices where a field's name is not enough."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from msgspec import UNSET

from pools.policy import PROTOCOLS, RIGHTS

UNITS = (("d", 86_400, "days"), ("h", 3600, "hours"), ("min", 60, "minutes"), ("s", 1, "seconds"))

# fields that name a row of another collection, and the search that leaves the sensible ones
ROWS = {
    "template_id": ("templates", "state = ok"),
    "domain_id": ("storagedomains", "state = active"),
    "cluster_id": ("clusters", ""),
    "data_center_id": ("datacenters", ""),
    "host_id": ("hosts", "state = up"),
    "pool_id": ("pools", ""),
    "group_id": ("groups", ""),
    "device_id": ("devices", ""),
    "calendar_id": ("calendars", ""),
    "disk_id": ("disks", "attached = no and state = ok"),
    "vm_id": ("vms", ""),
    "iso_domain_id": ("storagedomains", "state = active"),
    "user_id": ("users", "enabled = yes"),
}
MANY_ROWS = {"vm_ids": ("vms", ""), "host_ids": ("hosts", "")}  # several rows of another collection
NAMED_ROWS = {"scheduling_policy": "schedulingpolicies"}  # rows that are named beside what is built in
RIGHT_WORDS = {
    "start": "Start it", "shutdown": "Shut it down", "reboot": "Reboot it", "reset": "Get a fresh one",
    "swap": "Change it for another one", "snapshot": "Take snapshots and go back to them",
}  # fmt: skip
CHOICES: dict[str, tuple[tuple[str, str], ...]] = {
    "boot_from": (("cd", "CD"), ("network", "Network"), ("disk", "Disk")),
    "rights": tuple((r, RIGHT_WORDS[r]) for r in RIGHTS),
    "protocols": tuple(
        (p, {"vnc": "VNC, in the browser", "spice": "SPICE, in the browser or in remote-viewer"}.get(p, p)) for p in PROTOCOLS
    ),
}
_QUIET = (("nothing", "Nothing"), ("lock", "Lock its screen"), ("log_out", "Log the person out"), ("suspend", "Suspend it"),
          ("shutdown", "Shut it down"), ("end", "End the lease"))
_POLICIES = (("none", "None"), ("evenly_distributed", "Evenly distributed"), ("power_saving", "Power saving"),
             ("vm_evenly_distributed", "Evenly distributed by number of VMs"))
SELECTS = {
    "mode": (
        ("on_return", "Each desktop when it comes back"),
        ("batches", "In batches, as they come free"),
        ("at_once", "At once: people are warned, then their desktops are taken"),
    ),
    "spare_kind": (("running", "Running: the console opens at once"), ("suspended", "Suspended: woken when somebody comes")),
    "idle_action": _QUIET,
    "disconnect_action": _QUIET,
    "type": (("floating", "Floating: it goes back when the lease ends"), ("dedicated", "Dedicated: it stays its first holder's")),
    "video": (("virtio", "virtio"), ("vga", "VGA"), ("qxl", "QXL")),
    "resume_behaviour": (
        ("auto_resume", "It goes on by itself"), ("leave_paused", "It stays paused"), ("kill", "It is powered off"),
    ),
    "model": (("virtio", "virtio"), ("e1000e", "Intel e1000e"), ("rtl8139", "Realtek 8139")),
    "target_kind": (("vm", "A virtual machine, on its host"), ("host", "A host")),
    "effect": (("allow", "Allow"), ("deny", "Deny")),
    "vms_rule": (("none", "No rule"), ("positive", "Keep them together on one host"), ("negative", "Keep them apart")),
    "hosts_rule": (("none", "No rule"), ("positive", "Keep the VMs on these"), ("negative", "Keep the VMs off these")),
    "scheduling_policy": _POLICIES,
    "balancing": _POLICIES,
}

OWN_SELECTS: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("cluster.migration_policy", "migration_converge"): (
        ("auto_converge", "It is slowed down more and more"),
        ("suspend", "It is paused until it has arrived"),
        ("post_copy", "It goes on at the other host before all of it is there; if either host fails then, it is lost"),
        ("none", "It stays where it is"),
    ),
    ("storagedomain.create", "type"): (
        ("local", "A folder of this host alone"),
        ("posixfs", "Shared: mounted at the same path on every host"),
    ),
}

# fields that take the name of a row of another collection
OWN_ROWS = {
    ("vm.run_action", "customaction_id"): ("customactions", "target = vm"),
    ("host.run_action", "customaction_id"): ("customactions", "target = host"),
}
TEXT_ROWS = {("host.add_power_agent", "type"): "powerkinds", ("poweragent.edit", "type"): "powerkinds"}

# label and help; a command's own words stand before those of every command
WORDS: dict[str, tuple[str, str]] = {
    "pool_name": ("Name", "What people see in their portal, for instance “Desktops”."),
    "description": ("Description", ""),
    "template_id": ("Template", "What the desktops are made from."),
    "domain_id": ("Storage domain", "Where the disks are made. Left open: where the template's disk lies."),
    "size": ("Most desktops", "No more than so many desktops are ever made."),
    "spares": ("Spares", "So many desktops are kept waiting, so that people get one at once. Running ones use memory."),
    "lease_s": ("A lease lasts", "After that the desktop goes back to the pool. 0: until its holder gives it back."),
    "extensions": ("Extensions", "How many times its holder may extend a lease."),
    "extend_s": ("An extension adds", ""),
    "warn_s": ("Warning", "So long before the end the holder is warned."),
    "grace_s": ("Grace", "So long after the end the desktop stays, for people to save their work."),
    "shutdown_s": ("Time to shut down", "A desktop that has not shut down by then is switched off."),
    "per_user": ("Desktops a person", "How many desktops of this pool one person may hold."),
    "call_s": ("Time to answer", "Who waited is called and has so long to open the desktop; then the next gets it. 0: no limit."),
    "extend_while_waiting": ("Extend while others wait", "Off: a lease cannot be extended while somebody waits for a desktop."),
    "spare_kind": ("Spares wait", "Suspended ones use no memory, but room beside their disks; they are woken for their holder in "
                   "seconds. Their guests need the guest agent, which sets their clocks."),
    "spares_learn": ("Learn from past weeks", "More spares at times at which more people came in the last four weeks."),
    "idle_s": ("Idle after", "So long without a key or the pointer. 0: never."),
    "idle_action": ("When idle", "Who is still there is warned a minute before."),
    "disconnect_s": ("Left after", "So long without an open console."),
    "disconnect_action": ("When left", ""),
    "type": ("Kind", ""),
    "stateless": ("Throw changes away", "On: a lease begins with a desktop as the template is. Off: what people did is kept."),
    "windows": ("Open", "A line each: Mon-Fri 07:30-18:00, daily 22:00-06:00, or a rule of RFC 5545 and times."),
    "closed": ("Closed on", "A line each: 2026-12-24, or 2026-12-24..2027-01-01. Left open: never."),
    "timezone": ("Time zone", "For instance Europe/Berlin."),
    "calendar_name": ("Name", "For instance “Office hours”."),
    "user_id": ("Person", "It belongs to them from now on, and nobody else gets it."),
    "book_desktops": ("Desktops a booking", "How many desktops a person may book at once. 0: only who runs the pool books."),
    "book_ahead_s": ("Booked ahead", "How far ahead people may book."),
    "book_longest_s": ("Longest booking", "How long a person's booking may be."),
    "book_open": ("Bookings a person", "How many bookings that are not over one person may have."),
    "book_hold_s": ("Unused ones kept", "Booked desktops that nobody has taken by then are free for others. 0: until the end."),
    "rights": ("Its holder may", ""),
    "protocols": ("Consoles", "How a desktop can be opened."),
    "vm_name": ("Name", "Letters, digits and dashes; the guest is told this name."),
    "memory_mib": ("Memory", "Left open: as the template says."),
    "vcpus": ("Processors", "Left open: as the template says."),
    "host_name": ("Name", "What the host is called here."),
    "cluster_id": ("Cluster", ""),
    "host_id": ("Host", "The host whose folder it is."),
    "data_center_id": ("Data center", ""),
    "domain_name": ("Name", ""),
    "path": ("Folder", "An empty folder of that host, for instance /var/lib/leasehold/disks."),
    "cluster_name": ("Name", ""),
    "networks": ("Networks", "A line each: a host without them runs no VM of this cluster. Left open: none is needed."),
    "label_name": ("Name", "For instance “gpu” or “licensed”."),
    "policy_name": ("Name", ""),
    "vm_ids": ("VMs", ""),
    "host_ids": ("Hosts", ""),
    "vms_rule": ("Its VMs", ""),
    "vms_enforcing": ("Never break this rule", "Off: it is a wish. On: a VM for which there is no such host does not start."),
    "hosts_rule": ("Its hosts", ""),
    "hosts_enforcing": ("Never break this rule", "Off: it is a wish. On: a VM for which there is no such host does not start."),
    "priority": ("Priority", "How much its wishes weigh beside those of other groups."),
    "scheduling_policy": ("Policy", "How VMs are placed when they start, and moved while they run."),
    "balancing": ("Balance as", "When VMs are moved while they run."),
    "filters": ("Filters", "A line each; left open: all. A VM never starts where it could not run."),
    "weights": ("Scores", "A line each with its weight: idle=2. There are free_memory, idle, free_cpus, packed, calm, few_vms, "
                "affinity."),
    "high_cpu_percent": ("Too busy above", "A host whose processors are busier gives VMs away."),
    "low_cpu_percent": ("Too idle below", "Power saving empties a host whose processors have less to do."),
    "over_s": ("For so long", "A host must have been too busy or too idle for so long."),
    "high_memory_percent": ("Too full above", "A host that has promised more of its memory gives VMs away."),
    "low_memory_percent": ("Too empty below", "Power saving empties a host that has promised less of its memory."),
    "hosts_in_reserve": ("Hosts in reserve", "So many hosts without VMs stay up."),
    "shut_down_hosts": ("Switch empty hosts off", "By their power agents, and on again before room runs out. A host without a "
                        "power agent, or to which a VM is bound, stays up."),
    "high_vm_count": ("Most VMs a host", "A host with more VMs gives some away."),
    "vm_migration_threshold": ("Difference in VMs", "As soon as the fullest host has so many more than the emptiest."),
    "spm_vm_grace": ("Grace of the storage pool manager", "It counts as having so many more VMs."),
    "at_once": ("Moves at once", "No more VMs are moved at the same time."),
    "rest_s": ("Rest after a move", "A VM that was moved stays for so long."),
    "data_center_name": ("Name", ""),
    "memory_overcommit_percent": ("Memory overcommit", "100 means that VMs never get more memory than the hosts have."),
    "template_name": ("Name", ""),
    "image_path": ("Image file", "A qcow2 file in the storage domain's folder; it is never written to again."),
    "capacity_mib": ("Size of the disk", ""),
    "kernel": ("Kernel", "For direct kernel boot; with it the initrd is needed too."),
    "initrd": ("Initrd", ""),
    "cmdline": ("Kernel's command line", "{name} stands for the VM's name."),
    "video": ("Graphics card", ""),
    "guest_agent": ("The guest has an agent", "qemu-guest-agent: it tells addresses and users, and shuts down cleanly."),
    "boot_timeout_s": ("May take to boot", "A desktop that is not up by then counts as broken."),
    "user_name": ("User name", "Small letters, digits, dots, dashes and underscores."),
    "display_name": ("Called", "The name other people read."),
    "email": ("E-mail", ""),
    "auto_launch": ("Auto-launch", "Who has exactly one desktop is taken to it straight after signing in."),
    "enabled": ("May sign in", ""),
    "seconds": ("Longer by", ""),
    "message": ("Message", "The person reads it. Left open: a general sentence."),
    "device_name": ("Name", "What people read on its screen, for instance “Ward 3”."),
    "group_id": ("For the people of", "Left open: everybody may sign in there."),
    "pool_id": ("Pool", ""),
    "rule_name": ("Name", "For instance “Wards only at the wards”."),
    "effect": ("Effect", "The first rule that fits decides."),
    "network": ("From the network", "10.1.0.0/16 or a single address. Left open: from everywhere."),
    "device_id": ("At the device", "Left open: at any."),
    "enrolled": ("At enrolled devices alone", ""),
    "sentence": ("Sentence", "What a person reads who is refused by the rule. Left open: a general sentence."),
    "mode": ("How", "One desktop must boot with the new version before the others follow."),
    "batch": ("Batch", "In batches, no more than so many desktops are out of service at once."),
    "max_failures": ("Halt after", "With so many desktops of the new version that do not work it halts, and can be rolled back."),
    "fencing": ("Fence hosts that do not answer", "Their power agents switch them off, so that their VMs can run elsewhere."),
    "fencing_grace_s": ("Grace", "So long a host may be silent before it is fenced."),
    "fencing_silent_percent": ("Not when more are silent than", "Then it is more likely the manager that is cut off."),
    "fencing_at_once": ("Hosts fenced at once", "No more than so many of this cluster."),
    "fencing_skip_if_lease_alive": ("Not while its storage lease is renewed", "Then the host lives, and so do its VMs."),
    "fencing_kdump_wait_s": ("Time to write down a crash", "A host that says that its kernel crashed is fenced after that."),
    "high_availability": ("Highly available", "When its host dies it is started on another one."),
    "max_memory_mib": ("Memory it can grow to", "While it runs. 0: it does not grow. It costs the guest up to 64 MiB."),
    "max_vcpus": ("Processors it can grow to", "While it runs. 0: it does not grow."),
    "resume_behaviour": ("When its storage is back", "A machine whose storage fails it is paused, and then this happens."),
    "action_name": ("Name", "For instance “Flush caches”."),
    "hook": ("Hook", "The name of a program in the folder of hooks that the hosts' operators have set up."),
    "args": ("Arguments", "One a line. They are handed over as they are: no shell reads them."),
    "target_kind": ("For", ""),
    "customaction_id": ("Custom action", "What it writes is on the task's page afterwards."),
    "mac": ("Address", "Left open: the next that nobody has."),
    "bridge": ("Bridge", "Of the hosts, for instance br0."),
    "model": ("Model", ""),
    "linked": ("Its cable is in", ""),
    "disk_id": ("Disk", "One that is attached to nothing."),
    "vm_id": ("VM", ""),
    "disk_name": ("Name", ""),
    "preallocated": ("Take its room at once", "Else it takes room as it is written to."),
    "force": ("Also when people hold desktops of it", "Their leases end and their consoles are closed."),
}
OWN_WORDS: dict[tuple[str, str], tuple[str, str]] = {
    **{
        (command, "priority"): ("Priority", "Who is started first when a host has died: 1 is low, 50 medium, 100 high.")
        for command in ("vm.create", "vm.edit_availability")
    },
    **{
        (command, field): words
        for command in ("host.add_power_agent", "poweragent.edit")
        for field, words in {
            "type": ("Kind", "What hosts have programs for."),
            "address": ("Address", "Of the device, as the other hosts reach it."),
            "port": ("Port", "0: the usual one."),
            "username": ("User", ""),
            "password_sealed": ("Password", "Kept encrypted. When editing, left open: it stays as it is."),
            "options": ("Options", "One a line, as in plug=3."),
            "encrypt": ("Encrypted", "Over IPMI 2.0 or TLS."),
            "order": ("Order", "Devices of one number belong together, like two supplies. The next are tried when they fail."),
        }.items()
    },
    **{
        ("host.install", field): words
        for field, words in {
            "host_name": ("Name", "What it is called here."),
            "address": ("Address", "By which the manager reaches it, by SSH and afterwards."),
            "ssh_port": ("SSH port", ""),
            "storage_roots": ("Storage folders", "Storage domains on it lie below these, one a line, such as /srv/leasehold."),
            "username": ("User", "root, or a user whom sudo lets run every command."),
            "password_sealed": ("Password", "For sudo as well. Kept encrypted, and forgotten when the installation has ended."),
            "private_key_sealed": ("Private key", "Instead of the password: as ssh-keygen writes it, without a passphrase."),
            "fingerprint": (
                "Fingerprint of its key",
                "SHA256:… as “ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub” prints it there. "
                "Left open: you are shown it, and asked, before anything is done there.",
            ),
        }.items()
    },
    ("host.confirm_key", "fingerprint"): (
        "Fingerprint", "What the host itself prints, at its own console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
    ),
    ("vm.edit", "memory_mib"): ("Memory", "While it runs, more is given at once if it may grow so far, in steps of 128 MiB."),
    ("vm.edit", "vcpus"): ("Processors", "While it runs, more are given at once if it may grow so far."),
    ("vm.edit", "protocols"): ("Consoles", "How it can be opened."),
    ("vnic.create", "vnic_name"): ("Name", "Left open: nic1, nic2, …"),
    ("vm.run_once", "boot_from"): ("Boot from", "Tried in this order. None ticked: as usual."),
    ("vm.run_once", "iso_domain_id"): ("Storage domain of the CD", "Where the ISO file lies. Left open: no CD."),
    ("vm.run_once", "iso"): ("ISO file", "Its path below the storage domain's folder, such as iso/debian.iso."),
    ("vm.run_once", "kernel"): ("Kernel", "Left open: as usual."),
    ("vm.run_once", "initrd"): ("Initrd", "Left open: as usual."),
    ("vm.run_once", "cmdline"): ("Kernel's command line", "Left open: as usual. {name} stands for the VM's name."),
    ("vm.run_once", "protocols"): ("Consoles", "How this run can be opened."),
    ("vm.run_once", "paused"): ("Start it paused", "It begins when it is let go on: time to open its console first."),
    ("template.import", "memory_mib"): ("Memory", ""),
    **{("affinitygroup." + verb, "group_name"): ("Name", "") for verb in ("create", "edit")},
    ("vm.pin", "host_ids"): ("Runs only on", "None ticked: on every host."),
    ("template.import", "vcpus"): ("Processors", ""),
    ("template.import", "domain_id"): ("Storage domain", "Where the image file lies."),
    **{
        (f"device.{verb}", field): words
        for verb in ("create", "edit")
        for field, words in {
            "pool_id": ("Straight to a desktop of", "Who may use this pool is taken there after signing in."),
            "protocols": ("Shows desktops over", "None ticked: over whatever the desktop offers."),
            "auto_launch": ("Auto-launch", "Who has exactly one desktop is taken to it straight after signing in here."),
        }.items()
    },
    **{
        (f"accessrule.{verb}", field): words
        for verb in ("create", "edit")
        for field, words in {
            "pool_id": ("Desktops of", "Left open: every desktop."),
            "protocols": ("Over", "None ticked: over all. Allow leaves these alone, deny takes these away."),
        }.items()
    },
    ("vm.migrate", "host_id"): ("To host", "Hosts that cannot take it now are shown with the reason."),
    ("host.upgrade", "evacuate"): ("Migrate its VMs away first", "Off: they run on where they are while the agent starts again."),
    ("cluster.set_alerts", "alert_cpu_percent"): ("Processors above", "An event tells it, another that it is over. 0: never."),
    ("cluster.set_alerts", "alert_memory_percent"): ("Memory above", "0: never."),
    ("cluster.set_alerts", "alert_swap_percent"): ("Swap above", "0: never."),
    ("cluster.set_alerts", "alert_storage_percent"): ("Storage above", "Of the fullest folder of the host. 0: never."),
    ("cluster.set_alerts", "alert_network_mib_s"): ("Network above", "In and out together. 0: never."),
    ("cluster.set_cpu", "cpu_model"): (
        "CPU model", "VMs get it with their next start; hosts that cannot give it are not operational. "
        "Left open: as much as all hosts have."),
    ("cluster.migration_policy", "migration_bandwidth_mib"): ("Bandwidth of a migration", "0: as fast as the network is."),
    ("cluster.migration_policy", "migrations_per_host"): ("Migrations a host", "So many at once, in and out; more wait."),
    ("cluster.migration_policy", "migration_downtime_ms"): (
        "Longest downtime", "At the end the guest stands still for a moment: no longer than this, if that can be done."),
    ("cluster.migration_policy", "migration_converge"): (
        "When a VM's memory changes faster than it is sent", "It is seen by its memory having been sent twice."),
    ("disk.create", "domain_id"): ("Storage domain", ""),
    ("disk.resize", "capacity_mib"): ("New size", "It can only grow. Its guest enlarges the file system on it afterwards."),
    ("storagedomain.import", "host_id"): ("Host", "Whose folder it is. Of a shared one: any host that has it mounted."),
    ("storagedomain.import", "path"): ("Folder", "Where the storage domain lies; the path must be the one that it had before."),
    ("storagedomain.import", "domain_name"): ("Name", "Left open: the name that it had."),
    ("storagedomain.create", "host_id"): ("Host", "Whose folder it is. Of a shared one: the host that prepares it."),
    ("storagedomain.create", "path"): ("Folder", "An empty folder of that host, for instance /var/lib/leasehold/disks. A "
                                       "shared one must be mounted there on every host."),
    ("pool.roll_out", "template_id"): ("Version", "A template imported under the name of one that is there is its next version."),
    ("pool.roll_out", "message"): ("Message", "When it goes at once: read by the people whose desktops are taken."),
    ("pool.roll_out", "supersede"): ("In place of the rollout that is under way", "That one ends where it is."),
    ("pool.roll_out", "force"): (
        "Also what people lose by it",
        "What they changed, where desktops keep that; at once, also the desktops that are booked.",
    ),
    ("pool.edit", "size"): ("Most desktops", "Smaller: free desktops go at once, leased ones when they come back."),
    ("pool.edit", "lease_s"): (
        "A lease lasts",
        "Leases that run keep the end they were given. 0: until its holder gives it back.",
    ),
}
NUMBER_UNITS = {
    "memory_mib": "MiB", "max_memory_mib": "MiB", "capacity_mib": "MiB", "memory_overcommit_percent": "%",
    "alert_network_mib_s": "MiB/s",
    **dict.fromkeys(("alert_cpu_percent", "alert_memory_percent", "alert_swap_percent", "alert_storage_percent"), "%"),
    "fencing_silent_percent": "%", "migration_bandwidth_mib": "MiB/s", "migration_downtime_ms": "ms",
    **dict.fromkeys(("high_cpu_percent", "low_cpu_percent", "high_memory_percent", "low_memory_percent"), "%"),
}
SECTIONS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    name: (
        ("Desktops", ("pool_name", "description", "template_id", "domain_id", "type", "stateless", "size", "spares",
                      "spare_kind",
                      "spares_learn")),
        ("Leases", ("lease_s", "per_user", "extensions", "extend_s", "extend_while_waiting", "warn_s", "grace_s", "shutdown_s",
                    "call_s")),
        ("Bookings", ("book_desktops", "book_ahead_s", "book_longest_s", "book_open", "book_hold_s")),
        ("Unused desktops", ("idle_s", "idle_action", "disconnect_s", "disconnect_action")),
        ("What people may do", ("rights", "protocols")),
    )
    for name in ("pool.create", "pool.edit")
} | {
    "cluster.set_policy": (
        ("", ("scheduling_policy",)),
        ("When hosts are too busy", ("high_cpu_percent", "high_memory_percent", "over_s", "at_once", "rest_s")),
        ("Evenly by number of VMs", ("high_vm_count", "vm_migration_threshold", "spm_vm_grace")),
        ("Power saving", ("low_cpu_percent", "low_memory_percent", "hosts_in_reserve", "shut_down_hosts")),
    )
}
HIDDEN: dict[str, tuple[str, ...]] = {
    "vm.create": ("pool_id",),
    "vm.shutdown": ("timeout_s",),
    "user.edit": ("enabled",),
    "device.create": ("code_sha256",),
}
SECTIONS["vm.edit"] = (
    ("", ("description",)),
    ("Size", ("memory_mib", "vcpus", "max_memory_mib", "max_vcpus")),
    ("Display", ("video", "protocols")),
    ("Behaviour", ("guest_agent", "boot_timeout_s", "resume_behaviour")),
)
SECTIONS["vm.run_once"] = (
    ("Boot", ("boot_from", "iso_domain_id", "iso")),
    ("Kernel", ("kernel", "initrd", "cmdline")),
    ("Display", ("video", "protocols")),
    ("Start", ("paused",)),
)
SECTIONS["host.install"] = (
    ("The host", ("host_name", "cluster_id", "address")),
    ("Signing on", ("ssh_port", "username", "password_sealed", "private_key_sealed", "fingerprint")),
    ("Storage", ("storage_roots",)),
)
LONG = frozenset({"message", "cmdline", "sentence", "private_key_sealed"})


@dataclass
class Input:
    """One field of a form, with what stands in it and what is wrong with it."""

    name: str
    label: str
    help: str
    kind: str  # text | password | secret (of several lines) | long | lines | number | length | switch | select | checks
    required: bool
    value: Any = None
    unit: str = ""
    options: tuple[tuple[str, str], ...] = ()
    error: str = ""
    clears: bool = False  # left empty, it takes away what was there
    closed: frozenset[str] = frozenset()  # options that cannot be chosen now; their words say why
    blank: str = ""  # what it is called to choose none


@dataclass
class Form:
    """A command's form: its inputs, in sections."""

    command: str
    inputs: dict[str, Input] = field(default_factory=dict)
    error: str = ""

    @property
    def sections(self) -> list[tuple[str, list[Input]]]:
        """The inputs in groups; one group without a title when the command has none."""
        groups = SECTIONS.get(self.command)
        if groups is None:
            return [("", list(self.inputs.values()))]
        return [(title, [self.inputs[n] for n in names if n in self.inputs]) for title, names in groups]

    def blame(self, message: str, names: Any) -> None:
        """Put a refusal where it belongs: to its fields, else above the form."""
        known = [n if n in self.inputs else f"{n}_sealed" for n in names or () if {n, f"{n}_sealed"} & self.inputs.keys()]
        for name in known:
            self.inputs[name].error = message
        if not known:
            self.error = message


def form_of(
    command: str,
    cls: Any,
    options: Callable[[str, str], tuple[tuple[str, str], ...]],
    *,
    only: tuple[str, ...] | None = None,
    but: tuple[str, ...] = (),
) -> Form:
    """The command's form with its defaults; `options` answers (id, name) of a collection's rows."""
    form, hints = Form(command), get_type_hints(cls)
    for f in fields(cls):
        if f.name in but or f.name in HIDDEN.get(command, ()) or (only is not None and f.name not in only):
            continue
        default = None if f.default in (MISSING, UNSET) else f.default
        made = _input(command, f.name, _plain(hints[f.name]), f.default is MISSING, default, options)
        made.clears = f.default is UNSET
        form.inputs[f.name] = made
    return form


def _plain(hint: Any) -> Any:
    """The type without its `| None`."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(a for a in get_args(hint) if a is not type(None))
    return hint


def _input(command: str, name: str, hint: Any, required: bool, default: Any, options: Any) -> Input:
    plain = name.removesuffix("_id").removesuffix("_sealed").replace("_", " ").capitalize()
    label, about = OWN_WORDS.get((command, name)) or WORDS.get(name) or (plain, "")
    made = Input(name, label, about, "text", required, default)
    if hint is bool:
        made.kind, made.required = "switch", False
    elif hint is int:
        made.kind, made.unit = (
            ("length", "") if name.endswith("_s") or name == "seconds" else ("number", NUMBER_UNITS.get(name, ""))
        )
    elif hint is UUID:
        plural, search = OWN_ROWS.get((command, name)) or ROWS.get(name, ("", ""))
        made.kind, made.options = "select", options(plural, search) if plural else ()
    elif get_origin(hint) is tuple and name in MANY_ROWS:
        made.kind, made.options, made.required = "checks", options(*MANY_ROWS[name]), False
    elif get_origin(hint) is tuple and name in CHOICES:
        made.kind, made.options, made.required = "checks", CHOICES[name], False
    elif get_origin(hint) is tuple:
        made.kind = "lines"
    elif name.endswith("_sealed"):
        made.kind = "secret" if name in LONG else "password"
    elif plural := TEXT_ROWS.get((command, name)):
        made.kind, made.options = "select", options(plural, "")
    elif chosen := OWN_SELECTS.get((command, name)) or SELECTS.get(name):
        own = tuple((called, called) for _, called in options(NAMED_ROWS[name], "")) if name in NAMED_ROWS else ()
        made.kind, made.options = "select", chosen + own
    elif name in LONG:
        made.kind = "long"
    return made


def fill(form: Form, values: Mapping[str, Any]) -> Form:
    """Put a row's values in."""
    for name, made in form.inputs.items():
        key = name if name in values else "name" if name.endswith("_name") and "name" in values else None
        if key is not None:
            made.value = values[key] if made.kind != "length" else values[key] or 0
    return form


def read(form: Form, given: Any) -> dict[str, Any]:
    """What was filled in, as the command's fields; everything stays in the form, and what is wrong is said there.

    `given` is a MultiDict. A field left empty that may be empty is left out."""
    values: dict[str, Any] = {}
    for name, made in form.inputs.items():
        if made.kind == "switch":
            made.value = values[name] = name in given
            continue
        if made.kind == "checks":
            made.value = values[name] = given.getlist(name)
            continue
        if made.kind == "lines":
            made.value = values[name] = [line.strip() for line in given.get(name, "").splitlines() if line.strip()]
            if made.required and not made.value:
                made.error = "This is needed."
            continue
        text = made.value = given.get(name, "").strip()
        if not text:
            if made.required:
                made.error = "This is needed."
            elif made.kind in ("text", "long"):
                values[name] = ""
            elif made.clears:
                values[name] = None
            continue
        if made.kind in ("number", "length"):
            try:
                number = float(text.replace(",", "."))
                factor = dict((u, n) for u, n, _ in UNITS).get(given.get(f"{name}.unit", "s"), 1) if made.kind == "length" else 1
                made.unit = given.get(f"{name}.unit", "s") if made.kind == "length" else made.unit
                values[name] = round(number * factor)
            except (ValueError, OverflowError):
                made.error = "Write a number here, without its unit."
        else:
            values[name] = text
    return values


def wrong(form: Form) -> bool:
    """Whether anything was found to be wrong."""
    return bool(form.error) or any(made.error for made in form.inputs.values())


def as_length(value: Any, unit: str = "") -> tuple[str, str]:
    """A length as number and unit, in the largest unit that holds it without a rest."""
    if unit:
        return str(value), unit
    seconds = int(value or 0)
    for short, factor, _ in UNITS:
        if seconds and seconds % factor == 0:
            return str(seconds // factor), short
    return str(seconds), "min" if not seconds else "s"
