"""Pure: which desktop for this person: the one they hold, a free one, a place in the queue, or no, because."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pools.choice import Candidate, becoming, free, own_broken, reason

Outcome = Literal["kept", "given", "starting", "queued", "refused"]
SHOWN = 100  # candidates a decision tells one by one; of the rest it tells how many for which reason


@dataclass(frozen=True)
class Asked:
    """Everything that the choice for one person and one pool depends on."""

    pool: str
    candidates: Sequence[Candidate]
    user_id: UUID | None = None
    removing: bool = False
    paused: str = ""  # a sentence while the pool gives out nothing
    held: str | None = None  # the desktop they hold already, and want
    holds: int = 0
    per_user: int = 1
    queued: int = 0  # people who go before: they asked before, or have a higher priority
    hopeless: bool = False
    trouble: str = ""  # why nothing can be started at the moment
    booked: str = ""  # a sentence while the desktops that are free are booked by others
    reserved: int = 0  # of the free ones, so many wait for people who have booked
    surplus: int = 0  # free desktops that are to go, because the pool was made smaller


@dataclass(frozen=True)
class Choice:
    """What was decided, in which order to try the members, why, and for every candidate its reason."""

    outcome: Outcome
    sentence: str
    order: tuple[Candidate, ...] = ()
    code: str = ""  # of a refusal
    reasons: tuple[tuple[Candidate, str], ...] = ()


def choose(asked: Asked) -> Choice:
    """The choice for this person. Nobody who asks now goes before somebody of their priority who waits already."""
    reasons = tuple((c, reason(c, asked.trouble, asked.user_id)[0]) for c in asked.candidates)
    order = tuple(free(asked.candidates, asked.trouble, asked.user_id)[asked.reserved :])
    order = order[: max(0, len(order) - asked.surplus)]
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
    if asked.user_id is not None and (sentence := own_broken(asked.candidates, asked.user_id)):
        return Choice("refused", sentence, code="own_desktop_broken", reasons=reasons)
    if asked.paused:
        return Choice("queued", f"{asked.paused} Your place in the queue is kept.", reasons=reasons)
    if asked.queued:
        people = "1 person is" if asked.queued == 1 else f"{asked.queued} people are"
        return Choice("queued", f"{people} before you; you are called when it is your turn.", reasons=reasons)
    if asked.booked:
        return Choice("queued", asked.booked, reasons=reasons)
    if order:
        best = order[0]
        if best.state == "spare":
            return Choice("given", f"Desktop {best.name} is ready for you.", order, reasons=reasons)
        return Choice("starting", f"Desktop {best.name} is {becoming(best.state)} for you.", order, reasons=reasons)
    why = asked.trouble or "No desktop is free at the moment."
    return Choice("queued", f"{why} You are next.", reasons=reasons)


def told(
    reasons: Sequence[tuple[Candidate, str]], *, taken: UUID | None = None, counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The candidates as a decision keeps them; the chosen one says so, and comes first; the others by name. `counts` are the
    numbers of all members by state, where only some were looked at."""
    ordered = sorted(reasons, key=lambda pair: (pair[0].member_id != taken, len(pair[0].name), pair[0].name))[:SHOWN]
    members = [
        {
            "vm_id": str(c.vm_id),
            "name": c.name,
            "state": c.state,
            "reason": f"{why}: chosen" if c.member_id == taken else why,
        }
        for c, why in ordered
    ]
    rest = Counter(counts or (c.state for c, _ in reasons))
    rest.subtract(c.state for c, _ in ordered)
    left = {state: count for state, count in rest.items() if count > 0}
    return {"members": members, "rest": left} if left else {"members": members}
