"""Pure: how the administration shows leases, bookings, decisions, templates and consoles."""

from __future__ import annotations

from portal.thing import CLUSTER, MEMORY, NAME, STATE, WHY, Button, Column, Part, Thing, live_lease, within

LEASES = Thing(
    "leases",
    "lease",
    "Leases",
    "icon:key-round",
    "Who holds which desktop, until when, and who waits.",
    (
        Column("user", "Person", "name"),
        STATE,
        Column("pool", "Pool", "link", "pools"),
        Column("vm", "Desktop", "link", "vms"),
        Column("asked_at", "Asked", "ago"),
        Column("ends_at", "Ends", "left"),
        WHY,
    ),
    (
        Column("pool", "Pool", "link", "pools"),
        Column("vm", "Desktop", "link", "vms"),
        Column("asked_at", "Asked", "ago"),
        Column("starts_at", "Began", "ago"),
        Column("ends_at", "Ends", "left"),
        Column("grace_until", "Grace until", "left"),
        Column("extensions_used", "Extensions used", "number"),
        Column("ended_at", "Ended", "ago"),
        Column("end_reason", "Ended because"),
    ),
    (
        Button(
            "lease.extend",
            "Extend",
            "icon:clock-plus",
            within("active", "expiring"),
            fields=("seconds",),
            ask="The holder keeps the desktop for longer, whatever the pool's policy says.",
        ),
        Button(
            "lease.reclaim",
            "Take back",
            "icon:undo-2",
            live_lease,
            danger=True,
            fields=("message",),
            ask="Its holder loses the desktop at once: it is shut down. A person who only waits leaves the queue.",
        ),
    ),
    (
        Part(
            "Consoles",
            "consoles",
            "lease_id = {id}",
            ("vm", "protocol", "client", "address", "started_at", "ended_at", "end_reason"),
            link=False,
        ),
    ),
    name="user",
    live=("console", "decision"),
    hints=("state = queued", "state = expiring", "state != ended sortby ends_at"),
)

BOOKINGS = Thing(
    "bookings",
    "booking",
    "Bookings",
    "icon:calendar-days",
    "Desktops that are kept for people, and made ready for them, at a later time.",
    (
        Column("user", "Booked by", "name"),
        Column("name", "What for"),
        STATE,
        Column("pool", "Pool", "link", "pools"),
        Column("desktops", "Desktops", "number"),
        Column("starts_at", "From", "clock"),
        Column("ends_at", "Until", "clock"),
        WHY,
    ),
    (
        Column("pool", "Pool", "link", "pools"),
        Column("name", "What for"),
        Column("group", "For the group"),
        Column("desktops", "Desktops", "number"),
        Column("kept", "Kept of them", "number"),
        Column("starts_at", "From", "clock"),
        Column("ends_at", "Until", "clock"),
        Column("made_at", "Made", "ago"),
        WHY,
    ),
    (
        Button(
            "booking.cancel",
            "Cancel booking",
            "icon:calendar-x",
            within("booked", "preparing", "running"),
            danger=True,
            fields=("message",),
            ask="Its desktops are free for others. Who has one of them already keeps it until the end.",
        ),
    ),
    (
        Part("Leases", "leases", "booking_id = {id}", ("user", "state", "vm", "ends_at")),
        Part("Events", "events", "object_id = {id}", link=False),
    ),
    name="user",
    live=("lease",),
    hints=("state = running", "state = booked sortby starts_at"),
)

DECISIONS = Thing(
    "decisions",
    "decision",
    "Decisions",
    "icon:scale",
    "What the broker decided for each request, and why.",
    (
        Column("at", "When", "ago"),
        Column("outcome", "Outcome", "state"),
        Column("user", "Person"),
        Column("pool", "Pool", "link", "pools"),
        Column("sentence", "What the person was told", "name"),
    ),
    (
        Column("at", "When", "ago"),
        Column("user", "Person", "link", "users"),
        Column("pool", "Pool", "link", "pools"),
        Column("lease_id", "Lease", "id", "leases"),
        Column("candidates", "Candidates", "candidates"),
    ),
    name="sentence",
    menu=False,
)

TEMPLATES = Thing(
    "templates",
    "template",
    "Templates",
    "icon:copy",
    "What desktops are made from.",
    (
        NAME,
        Column("version", "Version", "number"),
        STATE,
        Column("description", "Description"),
        CLUSTER,
        Column("vcpus", "Processors", "number"),
        MEMORY,
    ),
    (
        Column("description", "Description"),
        CLUSTER,
        Column("version", "Version", "number"),
        Column("vcpus", "Processors", "number"),
        MEMORY,
        Column("guest_agent", "Has a guest agent", "yesno"),
        Column("boot_timeout_s", "May take to boot", "length"),
    ),
    (
        Button(
            "template.remove",
            "Remove",
            "icon:trash-2",
            within("ok", "illegal"),
            danger=True,
            ask="The template is removed; its image file stays where it is.",
        ),
    ),
    (
        Part("Pools made from it", "pools", "template_id = {id}", ("name", "state", "members", "leased")),
        Part("Virtual machines", "vms", "template_id = {id}", ("name", "state", "host", "user")),
    ),
    (("template.import", "Import template"),),
)

CONSOLES = Thing(
    "consoles",
    "console",
    "Consoles",
    "icon:monitor-play",
    "Who watches which screen, from where, over which protocol.",
    (
        Column("user", "Person", "link", "users"),
        Column("vm", "Desktop", "link", "vms"),
        Column("ended_at", "State", "console_state"),
        Column("protocol", "Over", "upper"),
        Column("client", "With"),
        Column("address", "From", "mono"),
        Column("started_at", "Since", "ago"),
        Column("bytes_to_client", "Sent", "bytes"),
        Column("end_reason", "Ended because"),
    ),
    buttons=(
        Button(
            "console.end",
            "End",
            "icon:x",
            lambda row: not row["ended_at"],
            danger=True,
            fields=("message",),
            ask="The person's console is closed within seconds; the desktop goes on running.",
        ),
    ),
    name="vm",
    detail=False,
    hints=("protocol = vnc", "user = alice"),
)
