"""Pure: how custom actions are shown."""

from __future__ import annotations

from portal.thing import NAME, Button, Column, Thing

CUSTOMACTIONS = Thing(
    "customactions",
    "customaction",
    "Custom actions",
    "icon:square-terminal",
    "Hooks of the hosts' operators that can be run for virtual machines and hosts.",
    (
        NAME,
        Column("target", "For", "action_target"),
        Column("hook", "Hook", "mono"),
        Column("args", "Arguments", "list"),
        Column("timeout_s", "May take", "length"),
    ),
    (
        Column("description", "Description"),
        Column("target", "For", "action_target"),
        Column("hook", "Hook", "mono"),
        Column("args", "Arguments", "list"),
        Column("timeout_s", "May take", "length"),
    ),
    (
        Button("customaction.edit", "Edit", "icon:pencil", form=True, main=True),
        Button(
            "customaction.remove",
            "Remove",
            "icon:trash-2",
            danger=True,
            ask="Nobody can run it any more. The hook itself stays on the hosts.",
        ),
    ),
    creates=(("customaction.create", "Declare custom action"),),
    hints=("target = vm",),
)
