"""HOST table: a host's life from its token to its removal. Pure."""

from backend.states import StateTable

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
    },
)
