"""What keeps a pool from making or starting desktops: begun, known of, over. Each cause is told once, however often it is met.

Two kinds. What can be *seen* (`pools.room`: no host has room, the storage is full) is looked at every second and not tried;
it is over when it is seen to be gone. What only a try shows is tried again after a while that grows (`retry_at`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx
from backend.events import record
from backend.vms.models import Vm
from pools import facts
from pools.models import Pool
from pools.room import LAST, Room, in_the_way, room
from pools.trouble_rules import FULL, IN_A_ROW, MAKING, NO_BOOT, NOT_NOW, Obstacle, keeps_from_starting, of_any, pause_s


def holding(pool: Pool) -> str:
    """Why the pool gives out no desktop that must be started, unless its loops see or try that one can be; else empty."""
    return pool.trouble if pool.trouble_code and keeps_from_starting(pool.trouble_code) else ""


def obstacle(tx: Tx, pool: Pool) -> Obstacle | None:
    """What keeps the pool from starting desktops, with the reason of every host as it is now; None: nothing."""
    if not pool.trouble_code:
        return None
    seen = room(tx, pool, [*facts.queue_places(tx, pool.id), LAST]).obstacle
    return seen if seen is not None and seen.code == pool.trouble_code else Obstacle(pool.trouble_code, pool.trouble)


def trying(pool: Pool, now: datetime) -> bool:
    """Whether it is time to try with one desktop whether the trouble is over."""
    return pool.trouble_code != "" and pool.retry_at is not None and now >= pool.retry_at


def see(tx: Tx, pool: Pool, obstacle: Obstacle, now: datetime) -> None:
    """Something is seen to be in the way. (What keeps the pool from making desktops stays what is told.)"""
    if pool.trouble_code.startswith(MAKING):
        return
    _meet(tx, pool, obstacle.code, obstacle.sentence, obstacle.in_full, None, now)


def compare(tx: Tx, pool: Pool, seen: Room, now: datetime) -> None:
    """What was seen to be in the way of all that the pool wants still is, or is gone; what only a try can show stays."""
    if seen.obstacle is not None:
        see(tx, pool, seen.obstacle, now)
    elif pool.trouble_code and pool.retry_at is None:
        over(tx, pool)


def start_failed(tx: Tx, pool: Pool, code: str, why: str, vm: Vm, now: datetime) -> None:
    """A desktop could not be started, and it was not its fault."""
    if code == "no_host":
        if (obstacle := room(tx, pool).obstacle) is not None:
            return see(tx, pool, obstacle, now)
        if in_the_way(tx, vm) is None:
            return  # somebody was faster, and is gone again
    _tried(tx, pool, code, of_any(why, vm.name), now)


def make_failed(tx: Tx, pool: Pool, code: str, why: str, now: datetime) -> None:
    """A desktop could not be made."""
    obstacle = room(tx, pool).obstacle
    if obstacle is not None and obstacle.makes:
        see(tx, pool, obstacle, now)
    else:
        _tried(tx, pool, FULL if code == FULL else f"{MAKING}{code}", why, now)


def not_booted(tx: Tx, pool: Pool, why: str, now: datetime) -> None:
    """One more desktop did not start or boot, and was set aside: after some in a row it is the template or the host, and the
    others are kept. A dedicated pool's desktops are somebody's, and fail each by itself."""
    pool.unbooted += 1
    if pool.unbooted >= IN_A_ROW and pool.type != "dedicated":
        _tried(tx, pool, NO_BOOT, NOT_NOW, now, f"The last one said: {why}")


def made(tx: Tx, pool: Pool) -> None:
    """A desktop was made: what kept the pool from that is over."""
    if pool.retry_at is not None and (pool.trouble_code == FULL or not keeps_from_starting(pool.trouble_code)):
        over(tx, pool)


def started(tx: Tx, pool: Pool) -> None:
    """A desktop has started: whatever a try had shown to be in the way of that is over."""
    if pool.unbooted:
        pool.unbooted = 0
    if pool.retry_at is not None and pool.trouble_code != FULL and keeps_from_starting(pool.trouble_code):
        over(tx, pool)


def look_again(pool: Pool, now: datetime) -> None:
    """Somebody changed the pool: perhaps this is what it waited for."""
    pool.tries, pool.unbooted = 0, 0
    if pool.retry_at is not None:
        pool.retry_at = now


def put_off(pool: Pool, now: datetime) -> None:
    """One is being tried: no other before it is known what came of it, or some time has passed."""
    pool.tries += 1
    pool.retry_at = now + timedelta(seconds=pause_s(pool.tries))


def another_template(tx: Tx, pool: Pool) -> None:
    """Desktops are made of another version from now on, so that those of the last one did not boot is over."""
    pool.unbooted = 0
    if pool.trouble_code == NO_BOOT:
        over(tx, pool)


def over(tx: Tx, pool: Pool) -> None:
    """The trouble is over, which is told by whoever is first to write it down."""
    tx.flush()
    none = {"trouble": "", "trouble_code": "", "trouble_since": None, "retry_at": None, "tries": 0}
    if _set(tx, pool, Pool.trouble_code != "", none):
        record(tx, "pool.well", pool)
        touch(tx, "pool", pool.id, pool_id=pool.id)


def _tried(tx: Tx, pool: Pool, code: str, why: str, now: datetime, more: str = "") -> None:
    seen = pool.trouble_code != "" and pool.retry_at is None
    if seen and keeps_from_starting(code):
        return  # what is seen comes first
    if pool.trouble_code != code:
        _meet(tx, pool, code, why, f"{why} {more}".strip(), now + timedelta(seconds=pause_s(1)), now)
    elif pool.retry_at is not None and now >= pool.retry_at:  # else another one failed beside it
        put_off(pool, now)


def _meet(tx: Tx, pool: Pool, code: str, sentence: str, told: str, retry_at: datetime | None, now: datetime) -> None:
    """The pool is in this trouble; it is told when it begins, by whoever is first to write it down."""
    if pool.trouble_code == code and (pool.retry_at is None) == (retry_at is None):
        if pool.trouble != sentence:
            pool.trouble = sentence
            touch(tx, "pool", pool.id, pool_id=pool.id)
        return
    tx.flush()
    values = {
        "trouble": sentence, "trouble_code": code, "trouble_since": now, "retry_at": retry_at,
        "tries": 0 if retry_at is None else 1,
    }  # fmt: skip
    if _set(tx, pool, Pool.trouble_code != code, values):
        record(tx, "pool.trouble", pool, why=told)
        touch(tx, "pool", pool.id, pool_id=pool.id)
    elif retry_at is None:  # a try had shown it before; from now on it is seen
        pool.trouble, pool.retry_at, pool.tries = sentence, None, 0
        touch(tx, "pool", pool.id, pool_id=pool.id)


def _set(tx: Tx, pool: Pool, unless_done: Any, values: dict[str, Any]) -> bool:
    change = sa.update(Pool).where(Pool.id == pool.id, unless_done).values(values)
    done = tx.execute(change.returning(Pool.id).execution_options(synchronize_session=False)).first()
    tx.refresh(pool)
    return done is not None
