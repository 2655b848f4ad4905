"""Pure: which of a pool's desktops somebody may be given, which first, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

FREE = ("spare", "suspended", "warming", "ready")  # members that may be given out, best first
OFF = ("suspended", "ready")  # … of these the ones that must be started or woken, and need room on a host


@dataclass(frozen=True)
class Candidate:
    """A member as one sees it who looks for a desktop; `leased_by` names the holder, `why` says what broke; `belongs_to`
    is the person it is kept for, `owner` their name."""

    member_id: UUID
    vm_id: UUID
    name: str
    state: str
    vm_state: str
    host: str = ""
    host_state: str = ""
    leased_by: str = ""
    why: str = ""
    belongs_to: UUID | None = None
    owner: str = ""
    current: bool = True  # it is of the version that the pool's desktops are made of now


_COMING = {"creating": "being made", "resetting": "being reset", "saving": "a spare that is being suspended"}


def reason(c: Candidate, trouble: str = "", user_id: UUID | None = None) -> tuple[str, bool]:
    """Why this member may or may not be given to this person, in words. `trouble` says why nothing can be started now."""
    if c.belongs_to is not None and c.belongs_to != user_id:
        return f"belongs to {c.owner}", False
    match c.state:
        case "spare" | "warming" if c.host_state not in ("up", ""):
            return f"host {c.host} is {c.host_state.replace('_', ' ')}", False
        case "spare" if c.vm_state == "up":
            return "spare, free and up", True
        case "spare":
            return f"spare, but its VM is {c.vm_state.replace('_', ' ')}", False
        case "warming":
            return "being started as a spare", True
        case "suspended" if c.vm_state != "suspended":
            return f"a suspended spare, but its VM is {c.vm_state.replace('_', ' ')}", False
        case "suspended" if trouble:
            return f"a suspended spare, but cannot be woken now: {trouble}", False
        case "suspended":
            return "spare, free and suspended", True
        case "ready" if c.vm_state != "down":
            return f"free, but its VM is {c.vm_state.replace('_', ' ')}", False
        case "ready" if trouble:
            return f"free, but cannot be started now: {trouble}", False
        case "ready":
            return "free, must be started", True
        case "leased":
            return f"leased by {c.leased_by}" if c.leased_by else "coming back from a lease", False
        case "broken":
            return f"set aside: {c.why or 'it broke'}", False
        case _:
            return _COMING.get(c.state, f"being {c.state}"), False


def becoming(state: str) -> str:
    """What a desktop is doing for who is given it in this state: it is ready, waking up or starting for them."""
    return {"spare": "ready", "suspended": "waking up"}.get(state, "starting")


def free(candidates: Sequence[Candidate], trouble: str = "", user_id: UUID | None = None) -> list[Candidate]:
    """The members that may be given to this person, best first: of those that are as quickly there, the ones of the pool's
    present version. Who has a desktop of their own gets that one or none."""
    among = own(candidates, user_id) or candidates
    return sorted((c for c in among if reason(c, trouble, user_id)[1]), key=lambda c: (FREE.index(c.state), not c.current))


def own(candidates: Iterable[Candidate], user_id: UUID | None) -> list[Candidate]:
    """The members that belong to this person and that nobody uses now."""
    return [c for c in candidates if user_id is not None and c.belongs_to == user_id and not c.leased_by]


def own_broken(candidates: Iterable[Candidate], user_id: UUID) -> str:
    """A sentence when the desktops that belong to this person are all set aside; else empty."""
    theirs = own(candidates, user_id)
    if not theirs or any(c.state != "broken" for c in theirs):
        return ""
    return f"Your desktop {theirs[0].name} has been set aside: {theirs[0].why or 'it broke.'} Your administrator can repair it."
