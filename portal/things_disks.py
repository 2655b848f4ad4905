"""Pure: how disks are shown."""

from __future__ import annotations

from portal.thing import NAME, STATE, Button, Column, Part, Row, Thing

_STILL = (None, "up", "powering_up", "paused", "down")  # of its VM, if it has one
_USERS = (
    Column("domain", "Storage domain", "link", "storagedomains"),
    Column("vm", "VM", "link", "vms", when="vm"),
    Column("template", "Template", "link", "templates", when="template"),
)



def _is_disk(row: Row) -> bool:
    return bool(row["state"] == "ok" and row["format"] != "iso")


DISKS = Thing(
    "disks",
    "disk",
    "Disks",
    "icon:disc-3",
    "Disks of VMs and templates, and those that belong to nobody.",
    (
        NAME,
        STATE,
        Column("capacity_mib", "Size", "mib"),
        Column("domain", "Storage domain", "link", "storagedomains"),
        Column("vm", "VM", "link", "vms"),
        Column("template", "Template", "link", "templates"),
    ),
    (
        Column("capacity_mib", "Size", "mib"),
        Column("preallocated", "Room taken at once", "yesno"),
        *_USERS,
        Column("made_with", "Over its template's", "yesno", when="made_with"),
        Column("format", "Format", when="format=iso"),
        Column("path", "File", "mono", when="path"),
        Column("upload_percent", "Uploaded", "percent", when="upload=receiving"),
        Column("upload_why", "Why it is not taken", when="upload_why"),
    ),
    (
        Button(
            "disk.attach",
            "Attach",
            "icon:plug",
            lambda row: not row["attached"] and _is_disk(row),
            form=True,
            main=True,
        ),
        Button(
            "disk.resize",
            "Resize",
            "icon:arrow-up",
            lambda row: not row["template_id"] and _is_disk(row) and row["vm_state"] in _STILL,
            form=True,
        ),
        Button(
            "disk.detach",
            "Detach",
            "icon:unplug",
            lambda row: row["vm_id"] and not row["made_with"] and row["vm_state"] in _STILL,
            ask="It stays as it is, with nobody using it. The guest of a machine that runs is asked to let go of it first.",
        ),
        Button(
            "disk.remove",
            "Remove",
            "icon:trash-2",
            lambda row: not row["attached"],
            danger=True,
            ask="The disk and all that is on it are removed. This cannot be undone.",
        ),
    ),
    (Part("Events", "events", "object_id = {id}", link=False),),
    creates=(("disk.create", "Create disk"),),
    live=("vm",),
    hints=("attached = no",),
)
