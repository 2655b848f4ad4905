"""The DEVICE table: announced with a code, enrolled with a token of its own, revoked."""

from __future__ import annotations

from backend.states import StateTable

DEVICE = StateTable("device", "announced", {
    ("announced", "enroll"): "enrolled",
    ("announced", "renew"): "announced",  # the code was lost, or has run out
    ("announced", "revoke"): "revoked",
    ("enrolled", "renew"): "announced",  # the token was lost: set up anew
    ("enrolled", "revoke"): "revoked",
    ("revoked", "renew"): "announced",
})
