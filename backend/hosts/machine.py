"""HOST table: a host's life from its registration or its token to its removal. Pure."""

from backend.states import StateTable

_HAVE_POWER = ("up", "connecting", "non_responsive", "non_operational", "preparing_for_maintenance", "error")
HOST = StateTable(
    "host",
    "installing",
    {
        ("pending_approval", "approve"): "installing",
        ("installing", "enrolled"): "connecting",
        ("installing", "install_failed"): "install_failed",
        **{(state, "reinstall"): "installing" for state in ("installing", "install_failed", "maintenance")},
        **{(state, "unfit"): "non_operational" for state in ("up", "connecting", "non_responsive", "reboot", "down", "error")},
        ("up", "fail"): "error",  # starts fail there, one VM after another
        ("error", "recovered"): "up",
        ("error", "activate"): "connecting",
        ("error", "silent"): "connecting",
        ("error", "maintain"): "preparing_for_maintenance",
        ("non_operational", "answered"): "up",
        ("non_operational", "silent"): "connecting",
        ("non_operational", "maintain"): "preparing_for_maintenance",
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
        **{(state, "leaves"): "preparing_for_maintenance"  # it answers, and is still wanted in maintenance
           for state in ("connecting", "non_responsive", "non_operational", "reboot", "down")},
        ("down", "switch_on"): "reboot",
        ("down", "answered"): "up",
    },
)
