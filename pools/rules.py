"""Pure: when a lease ends, may be extended, what is next for it; and whether somebody is entitled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from backend.calendars.rules import FAR
from backend.directory.rules import Grant, Path
from backend.errors import Impossible
from pools.policy import Policy

ATTEMPTS = 3  # desktops that may break under one request before it is told no
HOLDING = ("starting", "active", "expiring", "grace")  # states in which the desktop is the person's
WANTING = ("queued", *HOLDING)  # … and those that count against a person's number of desktops

SPOILED = "saved_state_missing"  # why a VM is down that was to be woken: nothing is there any more of what was saved

# why a start may come to nothing though the desktop itself is in order: it is tried again, not set aside
NOT_ITS_FAULT = frozenset(
    {
        "no_host", "domain_not_active", "cancelled", "busy", "changed_meanwhile", "wrong_state", "host_lost", "vm_unknown",
        "vm_lost", "lost",
    }
)


def lease_end(start: datetime, lease_s: int | None, entitled_until: datetime | None) -> datetime | None:
    """When a lease that starts now ends: after its length, but never past the entitlement; None: when returned."""
    ends = [start + timedelta(seconds=lease_s)] if lease_s is not None else []
    return min([*ends, entitled_until] if entitled_until else ends, default=None)


Action = Literal["warn", "expire", "take"]


def next_action(state: str, ends_at: datetime | None, grace_until: datetime | None, warn_s: int, now: datetime) -> Action | None:
    """What is due of this lease now. After an outage it is what would be due by now, not what was missed."""
    if state in ("active", "expiring") and ends_at is not None:
        if now >= ends_at:
            return "expire"
        if state == "active" and now >= ends_at - timedelta(seconds=warn_s):
            return "warn"
    if state == "grace" and (grace_until is None or now >= grace_until):
        return "take"
    return None


@dataclass(frozen=True)
class LeaseFacts:
    """A live lease, its desktop, and the task that is to start it. `task` is none, live, done or failed."""

    state: str
    ends_at: datetime | None = None
    grace_until: datetime | None = None
    entitled: bool = True
    off_wanted: bool = False
    member_state: str | None = None
    vm_state: str | None = None
    task: str = "none"
    code: str = ""  # why the task failed
    entitled_until: datetime | None = None
    to_call: bool = False  # the queue came to them, and they must answer
    called_until: datetime | None = None


Step = Literal[
    "warn", "expire", "take", "disentitle", "shorten", "too_late", "call", "no_answer", "ready",
    "start", "later", "broke", "spoiled", "silent", "died", "off", "send_back", "over"
]  # fmt: skip


def lease_step(lease: LeaseFacts, warn_s: int, now: datetime) -> Step | None:
    """The one thing to do next for this lease; None: nothing now."""
    if lease.state in WANTING and not lease.entitled:
        return "disentitle"
    match lease.state:
        case "queued":
            return "too_late" if lease.ends_at is not None and now >= lease.ends_at else None
        case "starting":
            return _starting(lease, now)
        case "returning":
            return _returning(lease)
    until = lease.entitled_until
    if lease.state in ("active", "expiring") and until is not None and (lease.ends_at is None or until < lease.ends_at):
        return "shorten"
    if action := next_action(lease.state, lease.ends_at, lease.grace_until, warn_s, now):
        return action
    gone = lease.vm_state is None or (lease.vm_state == "down" and lease.task != "live" and not lease.off_wanted)
    if gone and lease.state in ("active", "expiring"):
        unstarted = lease.vm_state == "down" and lease.task == "failed" and lease.code in NOT_ITS_FAULT
        return "off" if unstarted else "died"
    return None


def _starting(lease: LeaseFacts, now: datetime) -> Step | None:
    if lease.vm_state == "up" and lease.to_call:
        return "call" if lease.called_until is None else "no_answer" if now >= lease.called_until else None
    if lease.vm_state == "up":
        return "ready"
    if lease.vm_state is None:
        return "broke"
    if lease.vm_state == "unknown":
        return "silent"
    if lease.task == "live":
        return None
    if lease.task == "failed":
        if lease.code in NOT_ITS_FAULT:
            return "later" if lease.vm_state in ("down", "suspended") else "broke"
        return "spoiled" if lease.vm_state == "suspended" or lease.code == SPOILED else "broke"
    return "start" if lease.vm_state in ("down", "suspended") else None


def _returning(lease: LeaseFacts) -> Step | None:
    if lease.member_state == "leased":
        return "send_back"
    away = lease.member_state in ("resetting", "broken", "removing") and lease.vm_state not in (None, "down", "image_locked")
    return None if away else "over"


def extended_end(
    *,
    state: str,
    ends_at: datetime | None,
    used: int,
    policy: Policy,
    waiting: int,
    entitled_until: datetime | None,
) -> datetime:
    """The end after one more extension, or `Impossible` with the reason why there is none."""
    if state not in ("active", "expiring"):
        how = {"queued": "has not begun", "starting": "has not begun", "grace": "has ended"}.get(state, f"is {state}")
        raise Impossible("wrong_state", f"Your lease {how}; only a running one can be extended.", state=state)
    if ends_at is None:
        raise Impossible("no_end", "This lease has no end, so there is nothing to extend.")
    if used >= policy.extensions:
        times = "once" if policy.extensions == 1 else f"{policy.extensions} times"
        sentence = f"This lease has been extended {times} already; more is not possible."
        if policy.extensions == 0:
            sentence = "Leases of this pool cannot be extended."
        raise Impossible("no_extensions_left", sentence, extensions=policy.extensions)
    if waiting and not policy.extend_while_waiting:
        people = "1 person is" if waiting == 1 else f"{waiting} people are"
        raise Impossible("others_wait", f"The lease cannot be extended: {people} waiting for a desktop.", waiting=waiting)
    end = lease_end(ends_at, policy.extend_s, entitled_until)
    assert end is not None
    if end <= ends_at:
        raise Impossible("entitlement_ends", "The lease cannot be extended: your right to this pool ends with it.")
    return end


def entitled(grants: Iterable[Grant], path: Path, now: datetime) -> tuple[bool, datetime | None]:
    """Whether the person may take from the pool at the head of the path, and until when (None: no end in sight).

    Entitlements that follow each other without a gap count as one."""
    given, until = _entitlements(grants, path), now
    while until - now < FAR:
        ends = [g.until(until) for g in given if g.holds(until)]
        if not ends:
            return until > now, until if until > now else None
        if any(end is None for end in ends):
            return True, None
        until = max(end for end in ends if end is not None)
    return True, None


def entitled_again(grants: Iterable[Grant], path: Path, now: datetime) -> datetime | None:
    """When somebody who is not entitled now will be; None: never, as far as anybody can see."""
    return min((at for g in _entitlements(grants, path) if (at := g.opens(now)) is not None), default=None)


def zone_of(grants: Iterable[Grant], path: Path, opens: datetime | None, now: datetime) -> str:
    """The time zone of the calendar of the entitlement that begins then, or of another one; empty when none has any."""
    given = _entitlements(grants, path)
    first = [g for g in given if opens is not None and g.opens(now) == opens]
    return next((g.hours.timezone for g in [*first, *given] if g.hours is not None), "")


def not_now(pool: str, opens: str) -> str:
    """What somebody is told who is not entitled now; `opens` says in words when they will be, if ever."""
    return f"You may use pool {pool} again from {opens}." if opens else f"Your right to pool {pool} has ended."


def priority_of(grants: Iterable[Grant], path: Path, now: datetime) -> int:
    """The person's priority in the pool's queue: the highest of their entitlements that hold now."""
    return max((g.priority for g in _entitlements(grants, path) if g.holds(now)), default=0)


def _entitlements(grants: Iterable[Grant], path: Path) -> list[Grant]:
    places = set(path)
    return [g for g in grants if g.role == "user" and (g.object_type, g.object_id) in places]
