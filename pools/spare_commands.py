"""Plan another number of spares for the hours of a calendar."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain
from pools.models import Pool, SparePlan


@dataclass(frozen=True)
class PlanSpares(Plain):
    """Keep so many spares of a pool in the hours of a calendar; said again, the new number counts."""

    pool_id: UUID
    calendar_id: UUID
    spares: int
    name, permission = "spareplan.create", "pool.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "pool", self.pool_id

    def title(self, tx: Tx) -> str:
        return f"Plan spares of pool {get(tx, Pool, self.pool_id).name}"

    def check(self, tx: Tx) -> None:
        pool, _ = get(tx, Pool, self.pool_id), get(tx, Calendar, self.calendar_id)
        if not 0 <= self.spares <= pool.size:
            raise Invalid("bad_policy", f"Pool {pool.name} has {pool.size} desktops at most; keep between 0 and {pool.size} "
                          "spares.", fields=["spares"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        pool = get(tx, Pool, self.pool_id, lock=True)
        mine = sa.select(SparePlan).where(SparePlan.pool_id == pool.id, SparePlan.calendar_id == self.calendar_id)
        plan = tx.scalars(mine).first() or SparePlan(pool_id=pool.id, calendar_id=self.calendar_id)
        plan.spares = self.spares
        tx.add(plan)
        tx.flush()
        record(tx, "pool.spares_planned", pool, actor=actor.name, count=self.spares,
               calendar=get(tx, Calendar, self.calendar_id).name)
        touch(tx, "pool", pool.id, pool_id=pool.id)
        return {"id": str(plan.id)}


@dataclass(frozen=True)
class UnplanSpares(Plain):
    """Keep the pool's own number of spares in these hours again."""

    spareplan_id: UUID
    name, permission = "spareplan.remove", "pool.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "pool", get(tx, SparePlan, self.spareplan_id).pool_id

    def title(self, tx: Tx) -> str:
        return f"Remove a plan of spares of pool {get(tx, Pool, get(tx, SparePlan, self.spareplan_id).pool_id).name}"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        plan = get(tx, SparePlan, self.spareplan_id, lock=True)
        pool = get(tx, Pool, plan.pool_id)
        record(tx, "pool.spares_unplanned", pool, actor=actor.name, calendar=get(tx, Calendar, plan.calendar_id).name)
        touch(tx, "pool", pool.id, pool_id=pool.id)
        tx.delete(plan)
        tx.flush()
