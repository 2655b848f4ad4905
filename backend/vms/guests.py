"""Who is logged in inside guests: rows that follow what the guest agents say."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.changes import touch
from backend.db import Tx
from backend.events import record
from backend.vms.models import GuestSession, Vm

SEEN_EVERY = timedelta(seconds=30)  # how exact `seen_at` is: every look would be a write
OFF = ("down", "image_locked")  # a suspended VM still has its people inside


def open_sessions(tx: Tx) -> dict[UUID, frozenset[str]]:
    """Who is known to be logged in, by VM."""
    found: dict[UUID, set[str]] = {}
    for vm_id, user in tx.execute(sa.select(GuestSession.vm_id, GuestSession.user_name).where(GuestSession.ended_at.is_(None))):
        found.setdefault(vm_id, set()).add(user)
    return {vm_id: frozenset(users) for vm_id, users in found.items()}


def hear(tx: Tx, vm: Vm, came: Collection[str], left: Collection[str], now: datetime) -> None:
    """People logged in and out inside the VM."""
    for user in sorted(came):
        row = {"vm_id": vm.id, "user_name": user, "since": now, "seen_at": now}
        made = tx.execute(pg.insert(GuestSession).values(row).on_conflict_do_nothing().returning(GuestSession.id)).scalar()
        if made is not None:
            record(tx, "vm.guest_logged_in", vm, user=user)
            touch(tx, "guestsession", made, pool_id=vm.pool_id)
    if left:
        _end(tx, GuestSession.vm_id == vm.id, GuestSession.user_name.in_(left), now=now)


def seen(tx: Tx, vm_ids: Collection[UUID], now: datetime) -> None:
    """These VMs' guests have just said who is logged in."""
    stale = GuestSession.ended_at.is_(None), GuestSession.seen_at < now - SEEN_EVERY
    if vm_ids:
        tx.execute(sa.update(GuestSession).where(GuestSession.vm_id.in_(vm_ids), *stale).values(seen_at=now))


def end_sessions(tx: Tx, vm: Vm, now: datetime) -> None:
    """Nobody is logged in any more: the guest began anew."""
    _end(tx, GuestSession.vm_id == vm.id, now=now)


def end_where_off(tx: Tx, now: datetime) -> None:
    """Nobody is logged in where nothing runs."""
    _end(tx, GuestSession.vm_id.in_(sa.select(Vm.id).where(Vm.state.in_(OFF))), now=now)


def _end(tx: Tx, *which: sa.ColumnElement[bool], now: datetime) -> None:
    ended = tx.execute(
        sa.update(GuestSession)
        .where(GuestSession.ended_at.is_(None), *which)
        .values(ended_at=now)
        .returning(GuestSession.id, GuestSession.vm_id, GuestSession.user_name)
        .execution_options(synchronize_session=False)
    ).all()
    for id, vm_id, user in ended:
        vm = tx.get(Vm, vm_id)
        record(tx, "vm.guest_logged_out", vm, user=user)
        touch(tx, "guestsession", id, pool_id=vm.pool_id if vm else None)
