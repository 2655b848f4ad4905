"""A console of one's own that is open on another device: asked about, moved, or left."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from backend.db import Tx
from backend.errors import Impossible
from broker import connect as broker
from broker.models import ConsoleSession, Ticket
from sim import make
from sim.make import NOW


def open_console(tx: Tx, user: Any, session: Any, vm_id: Any) -> ConsoleSession:
    """A console of this sign-in, as the gateway writes it down."""
    ticket = Ticket(user_id=user.id, session_id=session.id, vm_id=vm_id, protocol="vnc", client="browser", state="redeemed",
                    created_at=NOW, expires_at=NOW)  # fmt: skip
    tx.add(ticket)
    tx.flush()
    console = ConsoleSession(id=uuid4(), ticket_id=ticket.id, user_id=user.id, vm_id=vm_id, protocol="vnc", client="browser",
                             address="192.0.2.7", gateway="g", started_at=NOW, seen_at=NOW)  # fmt: skip
    tx.add(console)
    tx.flush()
    return console


def connect(tx: Tx, user: Any, session: Any, pool: Any, move: bool | None) -> broker.Answer:
    return broker.connect(tx, user_id=user.id, session_id=session.id, desktop_id=pool.id, protocol=None, client="browser",
                          now=NOW, move=move)  # fmt: skip


def test_asks_first_then_moves(tx: Tx) -> None:
    pool, alice = make.a_pool(tx, members=1, member_state="spare"), make.a_user(tx)
    make.a_permission(tx, alice, pool)
    here, there = make.a_session(tx, alice), make.a_session(tx, alice)
    vm_id = connect(tx, alice, there, pool, False).vm_id
    console = open_console(tx, alice, there, vm_id)
    with pytest.raises(Impossible, match=r"open on another of your devices \(at 192.0.2.7, since 2026-03-02 08:00 UTC\)") as no:
        connect(tx, alice, here, pool, False)
    assert no.value.code == "console_elsewhere"
    assert connect(tx, alice, there, pool, False).state == "ready", "one's own window is not elsewhere"
    assert connect(tx, alice, here, pool, None).state == "ready", "programs that do not ask go on as they did"
    tx.refresh(console)
    assert console.end_wanted is None
    assert connect(tx, alice, here, pool, True).state == "ready"
    tx.refresh(console)
    assert console.end_wanted == "You moved this console to another device."
    assert connect(tx, alice, here, pool, False).state == "ready", "what is being closed is not asked about again"


def test_other_peoples_and_closed_consoles_do_not_count(tx: Tx) -> None:
    pool, alice, bob = make.a_pool(tx, members=1, member_state="spare"), make.a_user(tx), make.a_user(tx)
    make.a_permission(tx, alice, pool)
    here = make.a_session(tx, alice)
    vm_id = connect(tx, alice, here, pool, False).vm_id
    open_console(tx, bob, make.a_session(tx, bob), vm_id)
    open_console(tx, alice, make.a_session(tx, alice), vm_id)
    tx.execute(sa.update(ConsoleSession).where(ConsoleSession.user_id == alice.id).values(ended_at=NOW))
    assert connect(tx, alice, here, pool, False).state == "ready"
