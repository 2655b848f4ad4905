"""Pure: how hosts' power agents are shown, and what can be wanted of a host's power."""

from __future__ import annotations

from collections.abc import Callable

from portal.thing import Button, Column, Row, Thing


def _has(*states: str) -> Callable[[Row], bool]:
    return lambda row: bool(row.get("power_agents")) and (not states or row["state"] in states)


def _silent(row: Row) -> bool:
    return row["state"] in ("connecting", "non_responsive", "reboot")


POWERAGENTS = Thing(
    "poweragents",
    "poweragent",
    "Power agents",
    "icon:plug-zap",
    "The devices that switch hosts' power.",
    (
        Column("address", "Address"),
        Column("type", "Kind"),
        Column("host", "Host", "link", "hosts"),
        Column("username", "User"),
        Column("options", "Options", "list"),
        Column("order", "Order", "number"),
    ),
    (
        Column("host", "Host", "link", "hosts"),
        Column("type", "Kind"),
        Column("port", "Port", "number", when="port"),
        Column("username", "User"),
        Column("has_password", "Has its password", "yesno"),
        Column("encrypt", "Encrypted", "yesno"),
        Column("options", "Options", "list"),
        Column("order", "Order", "number"),
    ),
    (
        Button("poweragent.edit", "Edit power agent", "icon:pencil", form=True, main=True),
        Button("poweragent.remove", "Remove", "icon:trash-2", danger=True, ask="Its host cannot be switched by it any more."),
    ),
    name="address",
    menu=False,
)

HOST_BUTTONS = (
    Button("host.add_power_agent", "Add power agent", "icon:plug-zap", form=True),
    Button("host.test_power", "Test power agents", "icon:activity", _has(), ask="They are asked whether the host is on."),
    Button("host.power_on", "Power on", "icon:power", _has("down", "maintenance"), ask="Its power agents switch it on."),
    Button(
        "host.reboot",
        "Reboot",
        "icon:refresh-cw",
        _has("up", "maintenance", "non_responsive", "connecting", "non_operational", "error"),
        danger=True,
        ask="Its power agents switch it off and on. It must run no VMs, unless it does not answer.",
    ),
    Button(
        "host.power_off",
        "Power off",
        "icon:power-off",
        _has("up", "maintenance", "non_responsive", "connecting", "non_operational", "error"),
        danger=True,
        ask="Its power agents switch it off. It must run no VMs, unless it does not answer.",
    ),
    Button(
        "host.confirm_rebooted",
        "Confirm that it was rebooted",
        "icon:check",
        _silent,
        danger=True,
        ask="Only if you have seen that it is off or was rebooted: its VMs are started elsewhere, and if they still run here, "
        "their disks are destroyed.",
    ),
)
