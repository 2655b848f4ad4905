"""How it stands with a desktop that a person holds, waits for or owns, without deciding or changing anything."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.directory import rights
from backend.directory.rules import may
from backend.vms.models import Vm
from broker.answers import Answer, starting, waiting
from pools import facts
from pools.models import Lease, Pool
from pools.rules import WANTING


def standing(tx: Tx, *, user_id: UUID, desktop_id: UUID, now: datetime) -> Answer | None:
    """queued, starting, ready (there is no ticket in it) or off; None when the person holds nothing here.

    A page may ask as often as it likes: nobody gets a desktop by looking."""
    row = tx.execute(
        sa.select(Lease, Pool, Vm)
        .join(Pool, Pool.id == Lease.pool_id)
        .outerjoin(Vm, Vm.id == Lease.vm_id)
        .where(Lease.user_id == user_id, Lease.state.in_(WANTING), sa.or_(Pool.id == desktop_id, Vm.id == desktop_id))
        .order_by(Lease.queue_place)
        .execution_options(populate_existing=True)
    ).first()
    lease, pool, vm = row if row is not None else (None, None, tx.get(Vm, desktop_id, populate_existing=True))
    if lease is not None and pool is not None and lease.state == "queued":
        return waiting(tx, pool, lease, now)
    if vm is None or (lease is None and vm.pool_id is not None):
        return None
    if lease is None and not may(rights.grants_of(tx, user_id), "desktop.use", rights.path_of(tx, "vm", vm.id), now):
        return None
    if vm.state in ("up", "paused", "migrating"):
        return Answer("ready", lease.why if lease else "", lease, vm.id, vm.name, progress=100)
    answer = starting(tx, vm, lease, facts.boot_s(tx, pool.id) if pool else facts.BOOT_S, now)
    if vm.state in ("down", "suspended") and answer.task_id is None and (lease is None or lease.state != "starting"):
        return Answer("off", f"Desktop {vm.name} is {'off' if vm.state == 'down' else 'suspended'}.", lease, vm.id, vm.name)
    return answer
