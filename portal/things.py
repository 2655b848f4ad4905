"""Pure: every kind of thing that the administration shows, by its plural, and the side bar they stand in."""

from __future__ import annotations

from portal.thing import Thing
from portal.things_access import ACCESSRULES, DEVICES
from portal.things_actions import CUSTOMACTIONS
from portal.things_desktops import BOOKINGS, CONSOLES, DECISIONS, LEASES, TEMPLATES
from portal.things_disks import DISKS
from portal.things_people import CALENDARS, DIRECTORIES, GROUPS, PERMISSIONS, SESSIONS, TOKENS, USERS
from portal.things_placement import AFFINITYGROUPS, AFFINITYLABELS, SCHEDULINGPOLICIES
from portal.things_places import CLUSTERS, DATACENTERS, EVACUATIONS, HOSTS, REACHES, STORAGEDOMAINS
from portal.things_pools import MEMBERS, POOLS, ROLLOUTS, SPAREPLANS
from portal.things_power import POWERAGENTS
from portal.things_vms import GUESTSESSIONS, SNAPSHOTS, VMS, VNICS
from portal.things_work import EVENTS, TASKS

THINGS: dict[str, Thing] = {
    t.plural: t
    for t in (
        POOLS,
        MEMBERS,
        ROLLOUTS,
        SPAREPLANS,
        LEASES,
        BOOKINGS,
        DECISIONS,
        VMS,
        SNAPSHOTS,
        CUSTOMACTIONS,
        VNICS,
        GUESTSESSIONS,
        TEMPLATES,
        HOSTS,
        POWERAGENTS,
        STORAGEDOMAINS,
        REACHES,
        EVACUATIONS,
        DISKS,
        CLUSTERS,
        AFFINITYGROUPS,
        AFFINITYLABELS,
        SCHEDULINGPOLICIES,
        DATACENTERS,
        USERS,
        GROUPS,
        PERMISSIONS,
        CALENDARS,
        DIRECTORIES,
        DEVICES,
        ACCESSRULES,
        SESSIONS,
        TOKENS,
        CONSOLES,
        TASKS,
        EVENTS,
    )
}
BY_KIND: dict[str, Thing] = {t.kind: t for t in THINGS.values()}

SIDE_BAR: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Desktops", ("pools", "leases", "bookings", "vms", "templates", "consoles")),
    ("Infrastructure", ("hosts", "storagedomains", "disks", "clusters", "datacenters", "customactions")),
    ("Placement", ("affinitygroups", "affinitylabels", "schedulingpolicies")),
    ("People", ("users", "groups", "permissions", "directories", "sessions", "tokens")),
    ("Access", ("calendars", "devices", "accessrules")),
    ("What happens", ("tasks", "events")),
)
