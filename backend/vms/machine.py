"""VM and TEMPLATE tables. Pure.

No event here is caused by a time-out alone: `died` and `stopped` need the host's word.
"""

from backend.states import StateTable

_RUNNING = ("wait_for_launch", "powering_up", "up", "paused", "powering_down", "unknown")

VM = StateTable(
    "vm",
    "image_locked",
    {
        ("image_locked", "created"): "down",
        ("image_locked", "reset_done"): "down",
        ("down", "lock"): "image_locked",
        ("down", "start"): "wait_for_launch",
        ("wait_for_launch", "launched"): "powering_up",
        ("wait_for_launch", "start_failed"): "down",
        ("powering_up", "booted"): "up",
        ("powering_up", "shutdown"): "powering_down",
        ("up", "shutdown"): "powering_down",
        ("powering_down", "shutdown_failed"): "up",
        ("up", "pause"): "paused",
        ("paused", "resume"): "up",
        **{(state, "stop"): "powering_down" for state in ("powering_up", "up", "paused", "powering_down")},
        **{(state, "stopped"): "down" for state in _RUNNING},
        **{(state, "died"): "down" for state in _RUNNING if state != "wait_for_launch"},
        **{(state, "host_silent"): "unknown" for state in ("powering_up", "up", "paused", "powering_down")},
        ("unknown", "seen_running"): "up",
        ("unknown", "seen_paused"): "paused",
    },
    label="VM",
)

TEMPLATE = StateTable(
    "template",
    "locked",
    {
        ("locked", "created"): "ok",
        ("locked", "creation_failed"): "illegal",
        ("ok", "lock"): "locked",
    },
)
