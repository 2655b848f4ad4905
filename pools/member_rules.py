"""Pure: what is next for a member, and how many a pool makes, starts, switches off and removes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pools.choice import FREE
from pools.rules import NOT_ITS_FAULT, SPOILED
from pools.spares import FIRST

SAVES = 4  # spares of a pool that are suspended at once
STATES = (*FREE, "saving", "kept", "creating", "leased", "resetting", "broken")  # what counts towards a pool's size


def member_name(pool: str, number: int) -> str:
    """A VM name for a pool's member, good as a host name too (RFC 1123)."""
    word = re.sub(r"[^a-z0-9]+", "-", unicodedata.normalize("NFKD", pool.lower()).encode("ascii", "ignore").decode())
    return f"{word.strip('-')[:50].strip('-') or 'desktop'}-{number}"


@dataclass(frozen=True)
class Wanted:
    """What a pool's members need now: how many to make, start, switch off and remove; of the spares, how many to suspend and
    to wake."""

    create: int = 0
    warm: int = 0
    cool: int = 0
    remove: int = 0
    save: int = 0
    wake: int = 0


def wanted(
    counts: Mapping[str, int], queued: int, size: int, spares: int, *, running: int | None = None, slack: int = 0,
    makes: int = FIRST, starts: int = FIRST, saves: int = SAVES,
) -> Wanted:
    """Members on demand up to `size`, `spares` of them started and waiting; surplus goes, but never a leased one. Surplus
    spares within the `slack` stay. So many of the spares are to be `running` (None: all), the others suspended. No more than
    `makes` are made at once, `saves` suspended, and `starts` more started or woken now."""
    n = {state: counts.get(state, 0) for state in STATES}
    total = sum(n.values())
    if total > size:
        over = total - size
        idle = n["ready"] + n["suspended"] + n["broken"]
        idle += n["kept"] if not size else 0  # a size of none: the pool is being removed
        return Wanted(remove=min(over, idle), cool=min(max(over - idle, 0), n["spare"]))
    standing = n["spare"] + n["warming"] + n["saving"] + n["suspended"]
    coming = n["ready"] + standing + n["creating"] + n["resetting"]
    create = max(0, min(queued + spares - coming, size - total, makes - n["creating"]))
    warm = max(0, min(n["ready"], spares - standing, starts))
    surplus = standing - spares
    cool = 0 if queued or surplus <= slack else max(0, min(n["spare"] + n["suspended"], surplus))
    up = spares if running is None else min(running, spares)
    wake = max(0, min(n["suspended"], up - n["spare"] - n["warming"] - warm, starts - warm))
    save = 0 if queued or running is None else max(0, min(n["spare"] - cool - up, saves - n["saving"]))
    return Wanted(create=create, warm=warm, cool=cool, save=save, wake=wake)


def hopeless(counts: Mapping[str, int], size: int) -> bool:
    """Whether no desktop can come free by itself: all that may be made are made, and all are set aside."""
    total = sum(counts.get(state, 0) for state in STATES)
    return total >= size and counts.get("broken", 0) == total


def startable(counts: Mapping[str, int], size: int) -> int:
    """How many desktops could be started that are not: those that are off, and those still to be made."""
    made = sum(counts.get(state, 0) for state in STATES)
    return sum(counts.get(state, 0) for state in ("ready", "suspended", "kept")) + max(0, size - made)


def surplus(counts: Mapping[str, int], size: int) -> int:
    """How many free desktops are to go, because the pool was made smaller; those that are set aside go before them."""
    return max(0, sum(counts.get(state, 0) for state in STATES if state != "broken") - size)


MemberStep = Literal[
    "created", "warmed", "fell", "broke", "adopt", "reset", "remove", "saved", "unsaved", "slept", "spoiled"
]  # fmt: skip


def member_step(state: str, vm_state: str, task: str, code: str, held: bool) -> MemberStep | None:
    """The one thing to do next for this member; `task` is none, live, done or failed, `held` whether a live lease is on it."""
    if state in ("spare", "saving", "suspended") and vm_state == "down" or state == "leased" and not held:
        return "reset"
    if state in ("ready", "suspended") and vm_state == "up":
        return "adopt"
    if state in ("spare", "saving") and vm_state == "suspended":
        return "saved"
    if state == "warming" and vm_state == "up":
        return "warmed"
    if task == "live" or state in ("ready", "spare", "suspended", "leased", "broken"):
        return None
    if state == "saving":
        return "unsaved" if vm_state == "up" else None
    if state == "creating":
        return "created" if vm_state == "down" else "broke"
    if state == "warming" and (vm_state == "suspended" or code == SPOILED):
        return "spoiled" if task == "failed" and code not in NOT_ITS_FAULT else "slept"
    if task == "failed" and code not in NOT_ITS_FAULT:
        return "broke"
    match state, vm_state:
        case "warming", "down":
            return "fell"
        case "warming", "unknown":
            return None  # whether it runs its host will say, or a proof that the host is off
        case "warming", _:
            return "broke" if task == "failed" else None
        case "resetting", _:
            return "reset"
        case "removing", _:
            return "remove"
    return None
