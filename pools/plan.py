"""What of a pool's plan can be done now: only what there is room for, and while a trouble lasts nothing in vain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from backend.db import Tx
from pools import facts, troubles
from pools.choice import OFF
from pools.member_rules import Wanted, startable
from pools.models import Pool
from pools.room import LAST, Room, room
from pools.trouble_rules import FULL, NO_BOOT, keeps_from_starting


def possible(tx: Tx, pool: Pool, plan: Wanted, full: Wanted, counts: Mapping[str, int], now: datetime) -> Wanted:
    """What of the plan can be done now; what is in the way of all that is wanted (`full`) is told, and when it is over."""
    queue = facts.queue_places(tx, pool.id) if pool.state == "up" else []
    spares = full.warm + full.wake + max(0, full.create - len(queue))
    most = startable(counts, pool.size)
    asked = [*queue, *[LAST] * spares][:most]
    if asked or (pool.trouble_code and pool.retry_at is None):
        seen = room(tx, pool, asked or (LAST,)) if most else Room(0)
        troubles.compare(tx, pool, seen, now)
        if seen.obstacle is not None:  # people go before spares, and no more are made than can be started
            left = max(0, seen.starts - len(queue))
            makes = 0 if seen.obstacle.makes else max(0, seen.starts - sum(counts.get(state, 0) for state in OFF))
            warm = min(plan.warm, left)
            plan = replace(plan, create=min(plan.create, makes), warm=warm, wake=min(plan.wake, left - warm))
    return _tried(tx, pool, plan, bool(asked), now)


def _tried(tx: Tx, pool: Pool, plan: Wanted, asked: bool, now: datetime) -> Wanted:
    """What of the plan is done while only a try can show whether a trouble is over: nothing, and then with one."""
    if not pool.trouble_code or pool.retry_at is None:
        return plan
    due, starts = troubles.trying(pool, now), keeps_from_starting(pool.trouble_code)
    makes = not starts or pool.trouble_code == FULL
    if due and not asked and pool.trouble_code != NO_BOOT:  # nobody needs to know
        troubles.over(tx, pool)
        return plan
    if makes:
        plan = replace(plan, create=min(plan.create, 1) if due else 0)
    if starts:
        warm = min(plan.warm, 1) if due and not makes else 0
        plan = replace(plan, warm=warm, wake=min(plan.wake, 1 - warm) if due and not makes else 0)
    if due and (plan.create if makes else plan.warm + plan.wake):
        troubles.put_off(pool, now)
    return plan
