"""What buttons of the administration may ask for, and wishes that are no commands: ending consoles, sessions, tokens."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from flask import request

from backend.db import get
from backend.directory import sessions, tokens
from backend.directory.models import WebSession
from backend.directory.rights import require
from broker import consoles
from broker.models import ConsoleSession, Ticket
from portal.auth import actor
from portal.routes import read_uuid
from portal.things import THINGS
from portal.transaction import tx
from portal.views import now


def end_console(id: str) -> str:
    """Have somebody's console closed, and tell them why; answers what to say of it, as all of these do."""
    console = get(tx(), ConsoleSession, read_uuid(id, "console"))
    require(tx(), actor(), "console.end", "vm", console.vm_id, now())
    why = request.form.get("message", "").strip()[:300] or "Your administrator has closed this console."
    consoles.want_end(tx(), sa.select(Ticket.id).where(Ticket.id == console.ticket_id), why)
    return "The console is being closed."


def end_session(id: str) -> str:
    """Sign somebody out in one place."""
    session = get(tx(), WebSession, read_uuid(id, "session"))
    require(tx(), actor(), "user.edit", "user", session.user_id, now())
    sessions.end(tx(), session.id, now())
    return "The session has ended."


def revoke_token(id: str) -> str:
    """Make somebody's API token worth nothing."""
    tokens.revoke(tx(), read_uuid(id, "token"), actor(), now())
    return "The token is revoked."


ACTIONS: dict[str, Callable[[str], str]] = {
    "console.end": end_console, "session.end": end_session, "token.revoke": revoke_token,
}
PERMITS = {
    "console.end": "console.end", "session.end": "user.edit", "token.revoke": "user.edit", "directory.add": "directory.edit",
}

# commands that have pages of their own: a token to show once, a directory to ask, a password to hash
BY_HAND = frozenset({"device.create", "host.create", "host.reinstall", "directory.add", "user.create", "permission.grant"})
FORMS = (
    frozenset(
        [c for t in THINGS.values() for c, _ in t.creates] + [b.command for t in THINGS.values() for b in t.buttons if b.form]
    )
    - BY_HAND
)
OFFERED = FORMS | frozenset(b.command for t in THINGS.values() for b in t.buttons) - frozenset(ACTIONS)
