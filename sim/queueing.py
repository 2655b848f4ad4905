"""People who queue on a simulated pool by told time: what they were told when they asked, and what it was."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from uuid import UUID

import sqlalchemy as sa

from broker import connect as broker
from pools.models import Lease
from sim.installation import Installation


@dataclass(frozen=True)
class Wait:
    """One person's: seconds told, and seconds from asking until the desktop was up."""

    told_s: float
    was_s: float

    @property
    def error(self) -> float:
        """How far off, relative to the wait; above 0 when it was told too long."""
        return (self.told_s - self.was_s) / self.was_s


def queue(place: Installation, people: int, desktops: int, *, lease_s: int, early: float, seed: int = 1) -> list[Wait]:
    """The people come one after the other, more than there are desktops; of those who have one, a share of `early` gives it
    back after half the lease at the earliest, the others stay to its end. The waits of those who had to queue."""
    dice = random.Random(seed)
    pool_id = place.add_pool(size=desktops, spares=desktops, lease_s=lease_s, grace_s=30)
    place.run_until(lambda tx: _count(tx, "spare") == desktops, "all desktops are up")
    users = [place.a_user(f"p{n}", on=[pool_id]) for n in range(people)]
    for user_id, session_id in users:
        with place.tx() as tx:
            broker.connect(
                tx, user_id=user_id, session_id=session_id, desktop_id=pool_id, protocol=None, client="browser",
                now=place.clock.now(),
            )  # fmt: skip
        place.tick(dice.uniform(0.5, lease_s / people))
    leaves: dict[UUID, float] = {}
    while True:
        with place.tx() as tx:
            live = tx.scalars(sa.select(Lease).where(Lease.state != "ended")).all()
            if not any(lease.state in ("queued", "starting") for lease in live):
                break
            for lease in live:
                if lease.state not in ("active", "expiring") or lease.starts_at is None:
                    continue
                stays = leaves.setdefault(lease.id, dice.uniform(0.5, 1) * lease_s if dice.random() < early else lease_s * 2)
                if (place.clock.now() - lease.starts_at).total_seconds() >= stays:
                    broker.give_back(tx, user_id=lease.user_id, lease_id=lease.id, now=place.clock.now())
        place.tick(2.0)
    with place.tx() as tx:
        rows = tx.scalars(sa.select(Lease).where(Lease.told_s.is_not(None), Lease.starts_at.is_not(None))).all()
        return [Wait(lease.told_s or 0, (lease.starts_at - lease.asked_at).total_seconds()) for lease in rows if lease.starts_at]


def how_far_off(waits: Sequence[Wait]) -> tuple[float, float, float]:
    """Mean, median and 90th percentile of how far off they were, too long and too short alike."""
    errors = sorted(abs(wait.error) for wait in waits)
    return mean(errors), median(errors), errors[min(len(errors) - 1, int(0.9 * len(errors)))]


def _count(tx: sa.orm.Session, state: str) -> int:
    return tx.scalar(sa.text("SELECT count(*) FROM pool_member WHERE state = :state"), {"state": state}) or 0
