"""Pure: how thin clients and access rules are shown."""

from __future__ import annotations

from portal.thing import NAME, STATE, Button, Column, Part, Thing

DEVICES = Thing(
    "devices",
    "device",
    "Devices",
    "icon:tv-minimal",
    "Thin clients that are known here: who may sign in there, and where they are taken.",
    (
        NAME,
        STATE,
        Column("group", "For the people of", "link_all", "groups"),
        Column("pool", "Straight to", "link", "pools"),
        Column("user", "Signed in"),
        Column("address", "Last address", "mono"),
        Column("seen_at", "Last seen", "ago"),
    ),
    (
        Column("group", "For the people of", "link_all", "groups"),
        Column("pool", "Straight to", "link", "pools"),
        Column("auto_launch", "Auto-launch", "yesno"),
        Column("protocols", "Shows desktops over", "list_all"),
        Column("user", "Signed in"),
        Column("address", "Last address", "mono"),
        Column("seen_at", "Last seen", "ago"),
        Column("enrolled_at", "Enrolled", "ago"),
        Column("code_until", "Its code is good", "left"),
    ),
    (
        Button("device.edit", "Edit", "icon:pencil", form=True, main=True),
        Button(
            "device.revoke",
            "Revoke",
            "icon:ban",
            lambda row: row["state"] != "revoked",
            danger=True,
            ask="The device is trusted no more: who is signed in there is signed out, and it must enroll anew.",
        ),
        Button(
            "device.remove",
            "Remove",
            "icon:trash-2",
            danger=True,
            ask="The device and the access rules about it are forgotten, and who is signed in there is signed out.",
        ),
    ),
    (
        Part("Sessions", "sessions", "device_id = {id}", ("user", "ended_at", "address", "created_at"), link=False),
        Part("Access rules", "accessrules", "device_id = {id}", ("position", "name", "effect", "pool", "network"), link=False),
        Part("Events", "events", "object_id = {id}", link=False),
    ),
    (("device.create", "Add device"),),
    live=("session", "accessrule"),
    hints=("state = enrolled", "state = announced", "state = revoked"),
)

ACCESSRULES = Thing(
    "accessrules",
    "accessrule",
    "Access rules",
    "icon:route",
    "From which networks and devices desktops can be reached. The first rule that fits decides; without one, all is allowed.",
    (
        Column("position", "Place", "number"),
        NAME,
        Column("effect", "Effect", "state"),
        Column("pool", "Desktops of", "link_all", "pools"),
        Column("network", "From", "mono"),
        Column("device", "At", "at_device"),
        Column("protocols", "Over", "list_all"),
    ),
    (
        Column("position", "Place", "number"),
        Column("effect", "Effect", "state"),
        Column("pool", "Desktops of", "link_all", "pools"),
        Column("network", "From the network", "mono"),
        Column("device", "At", "at_device"),
        Column("protocols", "Over", "list_all"),
        Column("sentence", "What the person reads"),
    ),
    (
        Button("accessrule.edit", "Edit", "icon:pencil", form=True, main=True),
        Button("accessrule.move", "Move up", "icon:arrow-up", lambda row: row["position"] > 1, fixed=(("by", "-1"),)),
        Button("accessrule.move", "Move down", "icon:arrow-down", fixed=(("by", "1"),)),
        Button(
            "accessrule.remove",
            "Remove",
            "icon:trash-2",
            danger=True,
            ask="The rules behind it decide from now on. Consoles that are open stay open.",
        ),
    ),
    (Part("Events", "events", "object_id = {id}", link=False),),
    (("accessrule.create", "Create access rule"),),
    live=("device", "pool"),
    hints=("effect = deny", "enrolled = true"),
)
