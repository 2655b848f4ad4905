"""What was decided about a lease without looking at desktops, kept with its reason."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from backend.db import Tx
from pools.models import Decision, Lease


def note(tx: Tx, lease: Lease, outcome: str, sentence: str, now: datetime) -> None:
    """Store the decision; `outcome` is not_extended, shortened, recalled or ended, `sentence` what the person is told."""
    row = {"at": now, "user_id": lease.user_id, "pool_id": lease.pool_id, "lease_id": lease.id, "vm_id": lease.vm_id}
    sentences = {"outcome": outcome, "sentence": sentence, "candidates": {"members": []}}
    tx.execute(sa.insert(Decision.__table__).values(**row, **sentences))  # type: ignore[arg-type]
