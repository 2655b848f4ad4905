"""VM, TEMPLATE and SNAPSHOT tables. Pure.

No event here is caused by a time-out alone: `died` and `stopped` need the host's word.
"""

from backend.states import StateTable

_RUNNING = ("wait_for_launch", "powering_up", "up", "paused", "powering_down", "reboot_in_progress", "unknown")
NOT_RUNNING = ("down", "image_locked", "suspended")  # of these no host has been promised anything; see also the triggers
_ON = ("powering_up", "up", "paused", "powering_down", "reboot_in_progress")

VM = StateTable(
    "vm",
    "image_locked",
    {
        ("image_locked", "created"): "down",
        ("image_locked", "reset_done"): "down",
        ("image_locked", "unlocked"): "down",
        ("down", "lock"): "image_locked",
        ("down", "start"): "wait_for_launch",
        ("wait_for_launch", "launched"): "powering_up",
        ("wait_for_launch", "launch_failed"): "down",
        ("powering_up", "booted"): "up",
        ("powering_up", "shutdown"): "powering_down",
        ("up", "shutdown"): "powering_down",
        ("powering_down", "shutdown_failed"): "up",
        ("wait_for_launch", "launched_paused"): "paused",
        **{(state, event): "paused" for state in ("up", "powering_up") for event in ("pause", "stall")},
        ("paused", "begin"): "powering_up",  # it was started paused
        ("paused", "resume"): "up",
        ("up", "migrate"): "migrating",  # its host stays the one it leaves until the other one has it
        ("migrating", "migrated"): "up",
        ("migrating", "stayed"): "up",
        ("migrating", "died"): "down",
        ("migrating", "lost_sight"): "unknown",
        ("up", "reboot"): "reboot_in_progress",
        ("up", "rebooted_itself"): "up",
        **{(state, "reset"): "reboot_in_progress" for state in ("powering_up", "up", "reboot_in_progress")},
        ("reboot_in_progress", "rebooted"): "powering_up",
        ("reboot_in_progress", "reboot_failed"): "up",
        ("up", "suspend"): "saving_state",
        ("saving_state", "suspended"): "suspended",
        ("saving_state", "suspend_failed"): "up",
        ("saving_state", "died"): "down",
        ("suspended", "restore"): "restoring_state",
        ("restoring_state", "restored"): "up",
        ("restoring_state", "restore_failed"): "suspended",
        ("restoring_state", "state_lost"): "down",
        ("suspended", "stop"): "powering_down",  # what was saved is thrown away
        ("powering_down", "discard_failed"): "suspended",
        **{(state, "stop"): "powering_down" for state in _ON},
        **{(state, "stopped"): "down" for state in _RUNNING},
        **{(state, "died"): "down" for state in _RUNNING if state != "wait_for_launch"},
        **{(state, "shut_itself_down"): "down" for state in _RUNNING if state != "wait_for_launch"},
        **{(state, "crashed"): "down" for state in _RUNNING if state != "wait_for_launch"},
        **{(state, "host_silent"): "unknown" for state in _ON},
        **{(state, "host_lost"): "down" for state in (*_RUNNING, "saving_state")},  # with proof that its host is off
        ("restoring_state", "host_lost"): "suspended",
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

SNAPSHOT = StateTable(
    "snapshot",
    "locked",
    {
        ("locked", "taken"): "ok",
        ("ok", "lock"): "locked",
        ("locked", "unlocked"): "ok",
    },
)
