"""Pure: when whoever waits for a desktop has one."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pools.policy import Policy


@dataclass(frozen=True)
class Turn:
    """When a member can next be used by somebody: its state, and the end of the lease on it."""

    state: str
    ends_at: datetime | None = None  # leased: the end of the lease; none: nobody knows
    since: datetime | None = None  # on its way: since when
    starting: bool = False  # leased, but its time has not begun


def free_at(turn: Turn, policy: Policy, boot_s: float, resume_s: float, now: datetime) -> datetime | None:
    """When the next person can use this member; None when nobody knows."""
    boot, turnaround = timedelta(seconds=boot_s), timedelta(seconds=min(policy.shutdown_s, 10))
    if turn.state == "spare":
        return now
    if turn.state == "leased" and turn.starting and policy.lease_s is not None:
        whole = timedelta(seconds=policy.lease_s + policy.grace_s)
        return max((turn.since or now) + boot, now) + whole + turnaround + boot
    if turn.state == "leased":
        return turn.ends_at and max(turn.ends_at + timedelta(seconds=policy.grace_s), now) + turnaround + boot
    if turn.state in ("saving", "suspended"):
        return now + timedelta(seconds=resume_s)
    if turn.state in ("warming", "ready", "creating", "resetting"):
        return max((turn.since or now) + boot, now)
    return None


def estimate_s(
    place: int, turns: Iterable[Turn], policy: Policy, to_make: int, boot_s: float, resume_s: float, now: datetime
) -> int | None:
    """Seconds until the person at this place (1 is next) has a desktop; None when it cannot be told.

    Each desktop is given to the next in the queue as it comes free, and comes back after a full lease.
    """
    times = [t for turn in turns if (t := free_at(turn, policy, boot_s, resume_s, now)) is not None]
    times += [now + timedelta(seconds=boot_s)] * max(0, to_make)
    heapq.heapify(times)
    at = now
    for _ in range(place):
        if not times:
            return None
        at = heapq.heappop(times)
        if policy.lease_s is not None:
            again = at + timedelta(seconds=policy.lease_s + policy.grace_s)
            heapq.heappush(times, again + timedelta(seconds=min(policy.shutdown_s, 10) + boot_s))
    return max(0, round((at - now).total_seconds()))
