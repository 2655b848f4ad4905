"""Every few seconds: what tickets and consoles there are is held against what may be."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from backend.clock import Clock
from backend.db import Tx
from backend.events import move
from backend.loops import FromRows
from broker import consoles, recheck, tickets
from broker.models import Ticket


class TicketsLoop(FromRows):
    """Expire tickets nobody used, and end consoles whose gateway is gone, whose VM is their person's
    no more, or which the access rules or their device do not allow any more."""

    name, every_s = "tickets", 5.0

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._silent: set[UUID] = set()

    def apply(self, tx: Tx, found: Any) -> None:
        now = self.clock.now()
        for ticket in tickets.minted(tx, Ticket.expires_at <= now, skip_locked=True):
            move(tx, ticket, "expire")
        consoles.end_unentitled(tx, now)
        recheck.end_barred(tx)
        silent = consoles.silent(tx, now)
        # twice in a row: after a pause of the database the gateways get a round to say that they live
        for console in [c for c in silent if c.id in self._silent]:
            consoles.end(tx, console.id, why="Its gateway has gone away.", now=now)
        self._silent = {c.id for c in silent}
