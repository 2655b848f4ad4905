"""DOMAIN, DISK and TRANSFER tables. Pure."""

from backend.states import StateTable

DOMAIN = StateTable(
    "storage_domain",
    "unattached",
    {
        ("unattached", "attach"): "activating",
        ("activating", "activated"): "active",
        ("activating", "activation_failed"): "inactive",
        ("inactive", "activate"): "activating",
        ("active", "vanished"): "inactive",
        ("inactive", "came_back"): "active",
    },
    label="storage domain",
)

DISK = StateTable(
    "disk",
    "locked",
    {
        ("locked", "created"): "ok",
        ("locked", "creation_failed"): "illegal",
        ("ok", "lock"): "locked",
        ("illegal", "lock"): "locked",
        ("locked", "unlocked"): "ok",
    },
)

TRANSFER = StateTable(
    "transfer",
    "receiving",
    {
        ("receiving", "arrived"): "checking",
        ("checking", "taken"): "done",
        ("checking", "incomplete"): "receiving",
        ("checking", "refused"): "failed",
    },
)
