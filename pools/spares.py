"""Pure: how many desktops a pool keeps started and waiting, and how many may start or be made at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median

from backend.calendars.rules import Hours

WEEKS = 4  # of the past that tell what a day is like
FIRST = 4  # starts at once on a host, or disks made at once on a storage domain, before anything has been measured
MOST = 64  # … and never more than this
SLOWED = 2.0  # starts may take so many times as long as one alone does; more at once would only make all of them wait
WINDOW = timedelta(seconds=120)  # the starts of which are "lately", …
BRIEF = timedelta(seconds=15)  # … or less far back, where a start is quick: what was long ago would hold up the ramp


def planned(base: int, plans: Sequence[tuple[Hours, int]], lead: timedelta, now: datetime) -> int:
    """The spares that policy wants: the most of the plans whose hours are open, or are about to be within the time that
    desktops take to start; outside all of them the pool's own number."""
    open_now = [spares for hours, spares in plans if hours.open_at(now) or hours.open_at(now + lead)]
    return max(open_now, default=base)


def learned(asked: Sequence[int]) -> int:
    """The spares that past weeks suggest: `asked` tells how many people came in the coming minutes a week ago, two weeks
    ago and so on. The second most counts, so that one odd day is not taken for a habit."""
    return sorted(asked, reverse=True)[1] if len(asked) > 1 else 0


def wanted_spares(policy: int, past: int, booked: int, size: int) -> int:
    """All reasons together, within the pool's size. Who has booked is not among those who come by themselves."""
    return min(size, max(policy, past) + booked)


def window(alone_s: float | None) -> timedelta:
    """How far back "lately" goes, where one start alone takes so long: three of them, within bounds."""
    return WINDOW if alone_s is None else min(WINDOW, max(BRIEF, timedelta(seconds=3 * alone_s)))


def at_once(places: int, lately_s: Sequence[float], alone_s: float | None, span_s: float) -> int:
    """How many starts (or disks) may be under way at once on so many hosts (or storage domains).

    `lately_s` tells how long those took that ended in the last `span_s` seconds, `alone_s` how long one takes in quiet
    times. By Little's law the sum of the times over the span is how many were under way at a time. While they take less
    than `SLOWED` times as long as alone, more may be tried; when they take longer, there must be fewer.
    """
    if not lately_s or not alone_s:
        return places * FIRST
    under_way = sum(lately_s) / max(span_s, *lately_s)
    slow = median(lately_s) / alone_s
    tried = max(under_way, places * FIRST if slow <= SLOWED else places)
    return max(places, min(places * MOST, math.ceil(tried * SLOWED / slow)))
