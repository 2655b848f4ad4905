"""Why a lease is as it is: its whole story from rows, for administrators, and for its holder without other people's names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.directory import rights
from backend.directory.rules import Grant, may
from backend.errors import NotFound
from backend.events import Event
from broker.timeline import Moment, for_holder, in_one_sentence, timeline
from pools import facts
from pools.models import Decision, Lease

OF_VM = ("vm.boot_failed", "vm.start_failed", "vm.died", "vm.host_silent", "vm.seen_running", "vm.shutdown_failed")
MOST = 500  # moments that are told; of a longer story the latest


@dataclass(frozen=True)
class Explanation:
    """A lease and its story; `in_full` for who may see other people's leases too."""

    lease: Lease
    pool: str
    sentence: str
    moments: list[Moment]
    in_full: bool


def explain(tx: Tx, lease_id: UUID, *, user_id: UUID, grants: list[Grant], now: datetime) -> Explanation:
    """The lease's story as this person may read it; `NotFound` when it is none of their business."""
    lease = tx.get(Lease, lease_id, populate_existing=True)
    seen = lease is not None and may(grants, "lease.see", rights.path_of(tx, "lease", lease.id), now)
    if lease is None or not (seen or lease.user_id == user_id):
        raise NotFound("not_found", "There is no such lease, or it is not yours.", kind="lease", id=str(lease_id))
    words = facts.words(tx, lease)
    moments = timeline(_decisions(tx, lease), _events(tx, lease))[-MOST:]
    return Explanation(
        lease,
        words["pool"],
        in_one_sentence(lease.state, lease.why, lease.end_reason),
        moments if seen else for_holder(moments, words["user"]),
        seen,
    )


def _decisions(tx: Tx, lease: Lease) -> list[Moment]:
    rows = tx.scalars(sa.select(Decision).where(Decision.lease_id == lease.id).order_by(Decision.at.desc()).limit(MOST))
    return [Moment(d.at, "decision", d.outcome, d.sentence, candidates=d.candidates) for d in rows]


def _events(tx: Tx, lease: Lease) -> list[tuple[Moment, str]]:
    """Those of the lease, and what happened to its desktops meanwhile."""
    own = sa.and_(Event.object_kind == "lease", Event.object_id == lease.id)
    first, last = tx.execute(sa.select(sa.func.min(Event.id), sa.func.max(Event.id)).where(own)).one()
    vms = sa.select(Decision.vm_id).where(Decision.lease_id == lease.id, Decision.vm_id.is_not(None))
    if first is None:
        return []
    desktops = sa.and_(Event.object_kind == "vm", Event.object_id.in_(vms), Event.code.in_(OF_VM), Event.id >= first)
    if lease.state == "ended":
        desktops = sa.and_(desktops, Event.id <= last)
    rows = tx.scalars(sa.select(Event).where(sa.or_(own, desktops)).order_by(Event.id.desc()).limit(MOST)).all()
    return [(Moment(e.at, "event", e.code, e.sentence, e.severity, e.actor_name), str(e.facts.get("why", ""))) for e in rows]
