"""Pure: the next round of a rollout: which desktops move to the wanted version now, and when it halts or is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from backend.errors import Invalid

MODES = ("at_once", "on_return", "batches")
AT_RETURN = 4  # free desktops that are out of service at once when it goes on return
IDLE = ("ready", "suspended", "spare", "broken")  # members that may be made anew, in this order
STANDING = ("ready", "suspended", "spare", "warming", "saving")  # members that somebody can be given soon


@dataclass(frozen=True)
class Rolling:
    """A rollout under way. `size` is the most desktops that the pool may have, `making` how many it is making now."""

    mode: str
    batch: int
    proved: bool
    failures: int
    halt_at: int
    size: int
    making: int = 0
    backwards: bool = False  # rolling back never halts: what it goes to has worked
    promised: int = 0  # desktops that bookings need by the time at which one that moves now is back


@dataclass(frozen=True)
class Desktop:
    """A member as a rollout sees it. `moving`: it is being made of the wanted version; `tried`: that failed, and it was set
    aside; `busy`: another task is at it; `lease`: the state of the live lease on it."""

    member_id: UUID
    state: str
    wanted: bool  # it is of the wanted version
    up: bool = False
    moving: bool = False
    tried: bool = False
    busy: bool = False
    lease_id: UUID | None = None
    lease: str = ""


@dataclass(frozen=True)
class Round:
    """What to do now. `prove`: the moved one must boot before others follow; `make`: one more is to be made for that."""

    proved: bool = False
    move: tuple[UUID, ...] = ()
    prove: bool = False
    make: bool = False
    recall: tuple[UUID, ...] = ()
    halt: bool = False
    done: bool = False
    kept: int = 0  # desktops that would move, but are kept for who has booked


def limit(rolling: Rolling) -> int | None:
    """How many desktops may be out of service at once for the rollout; None: all of them."""
    if not rolling.proved:
        return 1
    return {"at_once": None, "on_return": AT_RETURN}.get(rolling.mode, rolling.batch)


def may_move(rolling: Rolling, moving: int) -> bool:
    """Whether one more desktop may be taken out of service now."""
    most = limit(rolling)
    return most is None or moving < most


def next_round(rolling: Rolling, desktops: Sequence[Desktop]) -> Round:
    """What the rollout does now."""
    if rolling.failures >= rolling.halt_at and not rolling.backwards:
        return Round(halt=True)
    if not rolling.proved and any(d.wanted and (d.state == "suspended" or _runs(d)) for d in desktops):
        return Round(proved=True)  # somebody's desktop of that version runs already, or did
    if not rolling.proved:
        return _prove(rolling, desktops)
    left = [d for d in desktops if not d.wanted and not d.tried and d.state != "removing"]
    if not left and not any(d.moving for d in desktops) and not rolling.making:
        return Round(done=True)
    waiting = sorted((d for d in left if _idle(d)), key=_order)
    idle = _spared(rolling, waiting, desktops)
    most = limit(rolling)
    room = len(idle) if most is None else max(0, most - sum(d.moving for d in desktops))
    recall: tuple[UUID, ...] = ()
    if rolling.mode == "at_once":
        recall = tuple(d.lease_id for d in left if d.lease in ("starting", "active", "expiring") and d.lease_id is not None)
    return Round(move=tuple(d.member_id for d in idle[:room]), recall=recall, kept=len(waiting) - len(idle))


def _prove(rolling: Rolling, desktops: Sequence[Desktop]) -> Round:
    """One desktop of the version, which must boot: one that is of it already, a free one, a new one; at once, somebody's."""
    if any(d.moving for d in desktops) or rolling.making or any(d.state == "creating" for d in desktops):
        return Round()
    waiting = sorted((d for d in desktops if _idle(d)), key=lambda d: (d.state == "broken", not d.wanted, _order(d)))
    idle = _spared(rolling, waiting, desktops)
    if idle:
        return Round(move=(idle[0].member_id,), prove=True)
    if sum(d.state != "removing" for d in desktops) < rolling.size:
        return Round(make=True)
    coming = any(d.lease in ("grace", "returning") or d.state in ("resetting", "warming", "saving") for d in desktops)
    held = [d.lease_id for d in desktops if d.lease in ("active", "expiring") and d.lease_id is not None]
    if rolling.mode == "at_once" and held and not coming:
        return Round(recall=(held[0],))
    return Round(kept=len(waiting))


def _spared(rolling: Rolling, waiting: Sequence[Desktop], desktops: Sequence[Desktop]) -> list[Desktop]:
    """Those of the free ones that no booking needs. As many as are promised stay of those that stand ready or are about to,
    and of those that are up: one that still boots stands in for none that is up. At once is at once: an administrator has
    said that bookings do not count."""
    if rolling.mode == "at_once":
        return list(waiting)
    standing = [d for d in desktops if d.state in STANDING and d.lease_id is None and not d.moving]
    left, up = len(standing) - rolling.promised, sum(map(_runs, standing)) - rolling.promised
    found = []
    for d in waiting:
        if d.state != "broken":
            if left <= 0 or (rolling.promised and _runs(d) and up <= 0):
                continue
            left, up = left - 1, up - _runs(d)
        found.append(d)
    return found


def _runs(d: Desktop) -> bool:
    return d.up and d.state in ("spare", "leased")


def _idle(d: Desktop) -> bool:
    return d.state in IDLE and d.lease_id is None and not (d.busy or d.moving or d.tried)


def _order(d: Desktop) -> int:
    return IDLE.index(d.state)


def percent(done: int, total: int) -> int:
    """Progress; all of nothing is all."""
    return 100 * done // total if total else 100


def require_pace(mode: str, batch: int, max_failures: int) -> None:
    """`Invalid` in words unless a rollout can go like this."""
    if mode not in MODES:
        raise Invalid("bad_mode", f"“{mode}” is no way to roll out; choose from {', '.join(MODES)}.", fields=["mode"])
    if not 1 <= batch <= 1000:
        raise Invalid("bad_batch", "Between 1 and 1,000 desktops can be out of service at once.", fields=["batch"])
    if not 1 <= max_failures <= 1000:
        raise Invalid("bad_failures", "It halts after between 1 and 1,000 desktops that fail.", fields=["max_failures"])
