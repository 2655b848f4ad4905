"""Consoles of a story's people, told to the broker as their gateway would tell it; no picture is carried."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from backend.db import Tx
from broker import consoles, tickets
from broker.models import Ticket

GATEWAY, ADDRESS = "gateway", "192.0.2.1"


def open(tx: Tx, ticket: Ticket, now: datetime) -> None:
    """The person's viewer shows its ticket, and the console is open."""
    tickets.redeem(tx, ticket.id, console_id=uuid4(), protocols=(ticket.protocol,), client=ticket.client,
                   session_id=ticket.session_id, address=ADDRESS, gateway=GATEWAY, now=now)  # fmt: skip


def living(tx: Tx) -> list[UUID]:
    """The consoles that are open."""
    return consoles.left_behind(tx, GATEWAY, ())


def beat(tx: Tx, now: datetime) -> None:
    """Say of every open console that it lives; close those that must be closed."""
    for id, why in consoles.unwanted(tx, GATEWAY, now):
        consoles.end(tx, id, why=why, now=now)
    consoles.seen(tx, {id: (0, 0) for id in living(tx)}, (), now)
