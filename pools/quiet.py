"""Pure: what is done with a desktop that nobody looks at, or at which nobody does anything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from backend.errors import Invalid

ACTIONS = ("nothing", "lock", "log_out", "suspend", "shutdown", "end")
LOSES = ("log_out", "suspend", "shutdown", "end")  # who is still there must be warned of these
WARNING = timedelta(seconds=60)
Cause = Literal["idle", "disconnect"]


@dataclass(frozen=True)
class Watched:
    """Whether a console of the desktop is open, when the last one was closed, and when somebody did something last."""

    open: bool = False
    left_at: datetime | None = None
    input_at: datetime | None = None


@dataclass(frozen=True)
class Quietness:
    """How long a desktop may go without input (`idle_s`) or without a console (`disconnect_s`), and what is done then.
    0 seconds without input: however long; without a console the action comes at once then, unless it is `nothing`."""

    idle_s: int = 0
    idle_action: str = "nothing"
    disconnect_s: int = 0
    disconnect_action: str = "nothing"


@dataclass(frozen=True)
class Due:
    """What is to be done now; `warn`: only that it is about to be done, at `at`."""

    cause: Cause
    action: str
    at: datetime
    warn: bool = False


def require_quietness(q: Quietness) -> None:
    """`Invalid` with a sentence unless it makes sense."""
    for field, action in (("idle_action", q.idle_action), ("disconnect_action", q.disconnect_action)):
        if action not in ACTIONS:
            raise Invalid("bad_policy", f"“{action}” is nothing that can be done then; choose from {', '.join(ACTIONS)}.",
                          fields=[field])
    if not (q.idle_s == 0 or 60 <= q.idle_s <= 30 * 86_400):
        raise Invalid("bad_policy", "A desktop is idle after between one minute and 30 days; 0: never.", fields=["idle_s"])
    if not 0 <= q.disconnect_s <= 30 * 86_400:
        raise Invalid("bad_policy", "What is done after a disconnect comes after between 0 seconds and 30 days.",
                      fields=["disconnect_s"])


def due(
    quietness: Quietness, began_at: datetime, watched: Watched, now: datetime, *,
    idle_done_at: datetime | None = None, disconnect_done_at: datetime | None = None, warned_at: datetime | None = None,
) -> Due | None:
    """The one thing to do now for a running lease that began then. `…_done_at` tell when it was done last: once in each
    stretch of quiet. Of both causes the one that was due first; a warning only to somebody who is there to read it."""
    q, found = quietness, list[Due]()
    idle_since = max(at for at in (began_at, watched.input_at) if at is not None)
    if q.idle_s and q.idle_action != "nothing" and (idle_done_at is None or idle_done_at < idle_since):
        at = idle_since + timedelta(seconds=q.idle_s)
        warned = warned_at is not None and warned_at >= idle_since
        if now >= at:
            found.append(Due("idle", q.idle_action, at))
        elif watched.open and q.idle_action in LOSES and not warned and now >= at - min(WARNING, (at - idle_since) / 2):
            found.append(Due("idle", q.idle_action, at, warn=True))
    left = max(at for at in (began_at, watched.left_at) if at is not None)
    if not watched.open and q.disconnect_action != "nothing" and (disconnect_done_at is None or disconnect_done_at < left):
        at = left + timedelta(seconds=q.disconnect_s)
        if now >= at:
            found.append(Due("disconnect", q.disconnect_action, at))
    return min(found, key=lambda d: (d.at, d.cause), default=None)
