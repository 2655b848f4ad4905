"""What was decided for a person and why, kept: the candidates, and for each the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from broker.rules import told
from pools.choice import Candidate, becoming, reason
from pools.models import Decision, Lease, PoolMember

_INSERT = sa.insert(Decision.__table__)  # type: ignore[arg-type]


def keep(
    tx: Tx,
    *,
    user_id: UUID,
    pool_id: UUID,
    outcome: str,
    sentence: str,
    reasons: Sequence[tuple[Candidate, str]],
    now: datetime,
    lease: Lease | None = None,
    member: PoolMember | None = None,
    counts: Mapping[str, int] | None = None,
    access: Mapping[str, Any] | None = None,
) -> None:
    """Store a decision; `outcome` is given, starting, queued or refused. `counts`: see `rules.told`; `access`: what the
    rules by network and device said."""
    candidates = told(reasons, taken=member.id if member else None, counts=counts)
    tx.execute(_INSERT, {
        "at": now,
        "user_id": user_id,
        "pool_id": pool_id,
        "lease_id": lease.id if lease else None,
        "outcome": outcome,
        "vm_id": member.vm_id if member else None,
        "sentence": sentence,
        "candidates": candidates if access is None else candidates | {"access": access},
    })  # fmt: skip


def served(tx: Tx, lease: Lease, member: PoolMember, candidates: Sequence[Candidate], now: datetime) -> None:
    """Keep that the queue has come to this person."""
    taken = next(c for c in candidates if c.member_id == member.id)
    keep(
        tx,
        user_id=lease.user_id,
        pool_id=lease.pool_id,
        outcome="given" if taken.state == "spare" else "starting",
        sentence=f"Your turn: desktop {taken.name} is {becoming(taken.state)} for you.",
        reasons=[(c, reason(c)[0]) for c in candidates],
        now=now,
        lease=lease,
        member=member,
    )
