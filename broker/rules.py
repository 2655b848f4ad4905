"""Pure: which desktop for this person: the one they hold, a free one, a place in the queue, or no, because."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pools.rules import FREE

Outcome = Literal["kept", "given", "starting", "queued", "refused"]
SHOWN = 100  # candidates a decision tells one by one; of the rest it tells how many for which reason


@dataclass(frozen=True)
class Candidate:
    """A member of the pool as the broker sees it; `leased_by` names the holder, `why` says what broke."""

    member_id: UUID
    vm_id: UUID
    name: str
    state: str
    vm_state: str
    host: str = ""
    host_state: str = ""
    leased_by: str = ""
    why: str = ""


@dataclass(frozen=True)
class Asked:
    """Everything that the choice for one person and one pool depends on."""

    pool: str
    candidates: Sequence[Candidate]
    removing: bool = False
    held: str | None = None  # the desktop they hold already, and want
    holds: int = 0
    per_user: int = 1
    queued: int = 0  # people who asked before
    hopeless: bool = False


@dataclass(frozen=True)
class Choice:
    """What was decided, in which order to try the members, why, and for every candidate its reason."""

    outcome: Outcome
    sentence: str
    order: tuple[Candidate, ...] = ()
    code: str = ""  # of a refusal
    reasons: tuple[tuple[Candidate, str], ...] = ()


def reason(c: Candidate) -> tuple[str, bool]:
    """Why this member may or may not be given out, in words."""
    match c.state:
        case "spare" | "warming" if c.host_state not in ("up", ""):
            return f"host {c.host} is {c.host_state.replace('_', ' ')}", False
        case "spare" if c.vm_state == "up":
            return "spare, free and up", True
        case "spare":
            return f"spare, but its VM is {c.vm_state.replace('_', ' ')}", False
        case "warming":
            return "being started as a spare", True
        case "ready" if c.vm_state == "down":
            return "free, must be started", True
        case "ready":
            return f"free, but its VM is {c.vm_state.replace('_', ' ')}", False
        case "leased":
            return f"leased by {c.leased_by}" if c.leased_by else "coming back from a lease", False
        case "broken":
            return f"set aside: {c.why or 'it broke'}", False
        case _:
            return {"creating": "being made", "resetting": "being reset"}.get(c.state, c.state), False


def choose(asked: Asked) -> Choice:
    """The choice for this person. Nobody who asks now goes before somebody who waits already."""
    weighed = [(c, *reason(c)) for c in asked.candidates]
    reasons = tuple((c, why) for c, why, _ in weighed)
    free = sorted((c for c, _, good in weighed if good), key=lambda c: FREE.index(c.state))
    if asked.held is not None:
        return Choice("kept", f"You have desktop {asked.held} already.", reasons=reasons)
    if asked.removing:
        sentence = f"Pool {asked.pool} is being removed, so it gives out no more desktops."
        return Choice("refused", sentence, code="pool_removing", reasons=reasons)
    if asked.holds >= asked.per_user:
        many = "one desktop" if asked.per_user == 1 else f"{asked.per_user} desktops"
        sentence = f"You may have {many} of pool {asked.pool} at a time; give one back first."
        return Choice("refused", sentence, code="per_user_reached", reasons=reasons)
    if asked.hopeless:
        sentence = (
            f"No desktop of pool {asked.pool} works at the moment: all of them have been set aside. "
            "Your administrator can see why and repair them."
        )
        return Choice("refused", sentence, code="no_working_desktop", reasons=reasons)
    if asked.queued:
        people = "1 person asked" if asked.queued == 1 else f"{asked.queued} people asked"
        return Choice("queued", f"{people} before you; you are called when it is your turn.", reasons=reasons)
    if free:
        best = free[0]
        if best.state == "spare":
            return Choice("given", f"Desktop {best.name} is ready for you.", tuple(free), reasons=reasons)
        return Choice("starting", f"Desktop {best.name} is starting for you.", tuple(free), reasons=reasons)
    return Choice("queued", "No desktop is free at the moment; you are next.", reasons=reasons)


def told(reasons: Sequence[tuple[Candidate, str]], *, taken: UUID | None = None) -> dict[str, Any]:
    """The candidates as a decision keeps them; the chosen one says so, and comes first."""
    ordered = sorted(reasons, key=lambda pair: pair[0].member_id != taken)
    members = [
        {
            "vm_id": str(c.vm_id),
            "name": c.name,
            "state": c.state,
            "reason": f"{why}: chosen" if c.member_id == taken else why,
        }
        for c, why in ordered[:SHOWN]
    ]
    rest: dict[str, int] = {}
    for c, _ in ordered[SHOWN:]:
        rest[c.state] = rest.get(c.state, 0) + 1
    return {"members": members, "rest": rest} if rest else {"members": members}
