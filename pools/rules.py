"""Pure: when a lease ends, may be extended, what to pre-start, grow or reclaim, who is next and when."""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from backend.calendars.rules import FAR
from backend.directory.rules import Grant, Path
from backend.errors import Impossible, Invalid
from pools.quiet import Quietness, require_quietness
from pools.spares import FIRST

RIGHTS = ("start", "shutdown", "reboot", "reset", "swap", "snapshot")
USUAL_RIGHTS = ("start", "shutdown", "reset")  # of a pool whose administrator said nothing
PROTOCOLS = ("vnc", "spice")
ATTEMPTS = 3  # desktops that may break under one request before it is told no
HOLDING = ("starting", "active", "expiring", "grace")  # states in which the desktop is the person's
WANTING = ("queued", *HOLDING)  # … and those that count against a person's number of desktops
FREE = ("spare", "warming", "ready")  # members that may be given out, best first
STATES = (*FREE, "kept", "creating", "leased", "resetting", "broken")  # what counts towards a pool's size

# why a start may come to nothing though the desktop itself is in order: it is tried again, not set aside
NOT_ITS_FAULT = frozenset(
    {"no_host", "domain_not_active", "cancelled", "busy", "changed_meanwhile", "wrong_state", "host_lost", "vm_unknown", "lost"}
)


@dataclass(frozen=True)
class Policy:
    """What a pool's administrator decides. Lengths are in seconds."""

    size: int
    spares: int = 0
    lease_s: int | None = 3600
    extend_s: int = 1800
    extensions: int = 0
    warn_s: int = 300
    grace_s: int = 60
    shutdown_s: int = 60
    per_user: int = 1
    call_s: int = 0
    extend_while_waiting: bool = False
    book_desktops: int = 0
    book_ahead_s: int = 1_209_600
    book_longest_s: int = 28_800
    book_open: int = 3
    book_hold_s: int = 900
    spares_learn: bool = False
    idle_s: int = 0
    idle_action: str = "nothing"
    disconnect_s: int = 0
    disconnect_action: str = "nothing"
    rights: tuple[str, ...] = USUAL_RIGHTS
    protocols: tuple[str, ...] = PROTOCOLS


def require_policy(policy: Policy) -> None:
    """`Invalid` with a sentence, and the fields it is about, unless the policy makes sense."""

    def refuse_if(wrong: bool, sentence: str, *fields: str) -> None:
        if wrong:
            raise Invalid("bad_policy", sentence, fields=list(fields))

    p = policy
    refuse_if(not 1 <= p.size <= 10_000, "A pool has between 1 and 10,000 desktops.", "size")
    refuse_if(p.spares < 0, "The number of spares cannot be below 0.", "spares")
    refuse_if(
        p.spares > p.size,
        f"{p.spares} spares cannot be kept in a pool of {p.size} desktops; lower the spares or raise the size.",
        "spares", "size",
    )  # fmt: skip
    refuse_if(
        p.lease_s is not None and not 60 <= p.lease_s <= 366 * 86_400,
        "A lease lasts between one minute and 366 days; leave it empty to lease until returned.", "lease_s",
    )  # fmt: skip
    refuse_if(
        not 0 <= p.warn_s <= 86_400,
        "The warning comes between 0 seconds and one day before the end.",
        "warn_s",
    )
    refuse_if(
        p.lease_s is not None and p.warn_s >= p.lease_s,
        f"The warning comes {p.warn_s} s before the end, but the lease lasts only {p.lease_s} s; "
        "warn later or lease for longer.", "warn_s", "lease_s",
    )  # fmt: skip
    refuse_if(not 0 <= p.grace_s <= 86_400, "The grace is between 0 seconds and one day.", "grace_s")
    refuse_if(
        not 1 <= p.shutdown_s <= 3600,
        "A guest may take between 1 and 3,600 seconds to shut down.",
        "shutdown_s",
    )
    refuse_if(not 0 <= p.extensions <= 1000, "A lease may be extended between 0 and 1,000 times.", "extensions")
    refuse_if(
        p.extensions > 0 and not 60 <= p.extend_s <= 366 * 86_400,
        "An extension lasts between one minute and 366 days.", "extend_s",
    )  # fmt: skip
    refuse_if(not 0 <= p.call_s <= 3600, "Who is called has between 0 seconds and one hour to answer.", "call_s")
    refuse_if(
        not 0 <= p.book_desktops <= 10_000,
        "A booking of a person takes between 0 desktops (they book none) and 10,000.", "book_desktops",
    )  # fmt: skip
    refuse_if(
        not 3600 <= p.book_ahead_s <= 366 * 86_400, "People book between one hour and 366 days ahead.", "book_ahead_s"
    )
    refuse_if(
        not 300 <= p.book_longest_s <= 31 * 86_400, "A booking lasts between five minutes and 31 days.", "book_longest_s"
    )
    refuse_if(not 1 <= p.book_open <= 1000, "A person has between 1 and 1,000 bookings.", "book_open")
    refuse_if(
        not 0 <= p.book_hold_s <= 86_400,
        "Booked desktops that nobody uses are kept for between 0 seconds (until the end) and one day.", "book_hold_s",
    )  # fmt: skip
    refuse_if(not 1 <= p.per_user <= 100, "A person may hold between 1 and 100 desktops of a pool.", "per_user")
    require_quietness(Quietness(p.idle_s, p.idle_action, p.disconnect_s, p.disconnect_action))
    _known(p.rights, RIGHTS, "rights", "right")
    _known(p.protocols, PROTOCOLS, "protocols", "protocol")
    refuse_if(not p.protocols, "Offer at least one protocol: vnc or spice.", "protocols")


def _known(given: Iterable[str], known: tuple[str, ...], field: str, word: str) -> None:
    for value in given:
        if value not in known:
            raise Invalid("bad_policy", f"“{value}” is not a {word}; choose from {', '.join(known)}.", fields=[field])


# -- one lease -----------------------------------------------------------------------------------
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
    "start", "later", "broke", "silent", "died", "send_back", "over"
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
    return "died" if gone and lease.state in ("active", "expiring") else None


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
        return "later" if lease.code in NOT_ITS_FAULT and lease.vm_state == "down" else "broke"
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


def not_now(pool: str, opens: datetime | None) -> str:
    """What somebody is told who is not entitled now."""
    if opens is None:
        return f"Your right to pool {pool} has ended."
    return f"You may use pool {pool} again from {opens:%A, %d %B %Y at %H:%M} UTC."


def priority_of(grants: Iterable[Grant], path: Path, now: datetime) -> int:
    """The person's priority in the pool's queue: the highest of their entitlements that hold now."""
    return max((g.priority for g in _entitlements(grants, path) if g.holds(now)), default=0)


def _entitlements(grants: Iterable[Grant], path: Path) -> list[Grant]:
    places = set(path)
    return [g for g in grants if g.role == "user" and (g.object_type, g.object_id) in places]


# -- the members of one pool ---------------------------------------------------------------------
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
            return {"creating": "being made", "resetting": "being reset"}.get(c.state, f"being {c.state}"), False


def free(candidates: Sequence[Candidate], trouble: str = "", user_id: UUID | None = None) -> list[Candidate]:
    """The members that may be given to this person, best first. Who has a desktop of their own gets that one or none."""
    among = own(candidates, user_id) or candidates
    return sorted((c for c in among if reason(c, trouble, user_id)[1]), key=lambda c: FREE.index(c.state))


def own(candidates: Iterable[Candidate], user_id: UUID | None) -> list[Candidate]:
    """The members that belong to this person and that nobody uses now."""
    return [c for c in candidates if user_id is not None and c.belongs_to == user_id and not c.leased_by]


def own_broken(candidates: Iterable[Candidate], user_id: UUID) -> str:
    """A sentence when the desktops that belong to this person are all set aside; else empty."""
    theirs = own(candidates, user_id)
    if not theirs or any(c.state != "broken" for c in theirs):
        return ""
    return f"Your desktop {theirs[0].name} has been set aside: {theirs[0].why or 'it broke.'} Your administrator can repair it."


def member_name(pool: str, number: int) -> str:
    """A VM name for a pool's member, good as a host name too (RFC 1123)."""
    word = re.sub(r"[^a-z0-9]+", "-", unicodedata.normalize("NFKD", pool.lower()).encode("ascii", "ignore").decode())
    return f"{word.strip('-')[:50].strip('-') or 'desktop'}-{number}"


@dataclass(frozen=True)
class Wanted:
    """What a pool's members need now: how many to make, start, switch off and remove."""

    create: int = 0
    warm: int = 0
    cool: int = 0
    remove: int = 0


def wanted(
    counts: Mapping[str, int], queued: int, size: int, spares: int, *, slack: int = 0, makes: int = FIRST, starts: int = FIRST
) -> Wanted:
    """Members on demand up to `size`, `spares` of them started and waiting; surplus goes, but never a leased one. Surplus
    spares within the `slack` stay. No more than `makes` are made at once, and `starts` more started now."""
    n = {state: counts.get(state, 0) for state in STATES}
    total = sum(n.values())
    if total > size:
        over = total - size
        idle = n["ready"] + n["broken"] + (n["kept"] if not size else 0)  # a size of none: the pool is being removed
        return Wanted(remove=min(over, idle), cool=min(max(over - idle, 0), n["spare"]))
    coming = n["ready"] + n["warming"] + n["spare"] + n["creating"] + n["resetting"]
    create = max(0, min(queued + spares - coming, size - total, makes - n["creating"]))
    started = n["spare"] + n["warming"]
    warm = max(0, min(n["ready"], spares - started, starts))
    surplus = started - spares
    cool = 0 if queued or surplus <= slack else max(0, min(n["spare"], surplus))
    return Wanted(create=create, warm=warm, cool=cool)


def hopeless(counts: Mapping[str, int], size: int) -> bool:
    """Whether no desktop can come free by itself: all that may be made are made, and all are set aside."""
    total = sum(counts.get(state, 0) for state in STATES)
    return total >= size and counts.get("broken", 0) == total


def surplus(counts: Mapping[str, int], size: int) -> int:
    """How many free desktops are to go, because the pool was made smaller; those that are set aside go before them."""
    return max(0, sum(counts.get(state, 0) for state in STATES if state != "broken") - size)


MemberStep = Literal["created", "warmed", "fell", "broke", "adopt", "reset", "remove"]


def member_step(state: str, vm_state: str, task: str, code: str, held: bool) -> MemberStep | None:
    """The one thing to do next for this member; `task` is none, live, done or failed, `held` whether a live lease is on it."""
    if state == "spare" and vm_state == "down" or state == "leased" and not held:
        return "reset"
    if state == "ready" and vm_state == "up":
        return "adopt"
    if state == "warming" and vm_state == "up":
        return "warmed"
    if task == "live" or state in ("ready", "spare", "leased", "broken"):
        return None
    if state == "creating":
        return "created" if vm_state == "down" else "broke"
    if task == "failed" and code not in NOT_ITS_FAULT:
        return "broke"
    match state, vm_state:
        case "warming", "down":
            return "fell"
        case "warming", _:
            return "broke" if task == "failed" else None
        case "resetting", _:
            return "reset"
        case "removing", _:
            return "remove"
    return None


# -- the queue -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Turn:
    """When a member can next be used by somebody: its state, and the end of the lease on it."""

    state: str
    ends_at: datetime | None = None  # leased: the end of the lease; none: nobody knows
    since: datetime | None = None  # on its way: since when
    starting: bool = False  # leased, but its time has not begun


def free_at(turn: Turn, policy: Policy, boot_s: float, now: datetime) -> datetime | None:
    """When the next person can use this member; None when nobody knows."""
    boot, turnaround = timedelta(seconds=boot_s), timedelta(seconds=min(policy.shutdown_s, 10))
    if turn.state == "spare":
        return now
    if turn.state == "leased" and turn.starting and policy.lease_s is not None:
        whole = timedelta(seconds=policy.lease_s + policy.grace_s)
        return max((turn.since or now) + boot, now) + whole + turnaround + boot
    if turn.state == "leased":
        return turn.ends_at and max(turn.ends_at + timedelta(seconds=policy.grace_s), now) + turnaround + boot
    if turn.state in ("warming", "ready", "creating", "resetting"):
        return max((turn.since or now) + boot, now)
    return None


def estimate_s(place: int, turns: Iterable[Turn], policy: Policy, to_make: int, boot_s: float, now: datetime) -> int | None:
    """Seconds until the person at this place (1 is next) has a desktop; None when it cannot be told.

    Each desktop is given to the next in the queue as it comes free, and comes back after a full lease.
    """
    times = [t for turn in turns if (t := free_at(turn, policy, boot_s, now)) is not None]
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
