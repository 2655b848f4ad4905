"""HOST table: a host's life from its token to its removal. Pure."""

from backend.states import StateTable

_HAVE_POWER = ("up", "connecting", "non_responsive", "preparing_for_maintenance")
HOST = StateTable(
    "host",
    "installing",
    {
        ("installing", "enrolled"): "connecting",
        ("connecting", "answered"): "up",
        ("up", "silent"): "connecting",
        ("connecting", "lost"): "non_responsive",
        ("non_responsive", "answered"): "up",
        ("up", "maintain"): "preparing_for_maintenance",
        ("preparing_for_maintenance", "emptied"): "maintenance",
        ("preparing_for_maintenance", "activate"): "up",
        ("maintenance", "activate"): "connecting",
        ("preparing_for_maintenance", "silent"): "connecting",
        **{(state, "fence"): "reboot" for state in _HAVE_POWER},  # its power agents are at it
        ("reboot", "fence_failed"): "non_responsive",
        ("reboot", "answered"): "up",
        **{(state, "switched_off"): "down" for state in ("reboot", "maintenance")},
        **{(state, "confirmed_off"): "down" for state in ("connecting", "non_responsive", "reboot")},
        ("down", "switch_on"): "reboot",
        ("down", "answered"): "up",
    },
)
