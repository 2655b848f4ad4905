"""Take a person to a desktop: the one they hold, a free one, or a place in the queue; and the ticket to its console."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.directory import rights
from backend.directory.rules import Path, may
from backend.errors import Denied, Impossible, Invalid
from backend.events import record
from backend.vms.commands.power import StartVm
from backend.vms.models import Vm
from broker import consoles, decisions, reach, tickets
from broker.access import Verdict, Whence, told
from broker.answers import Answer, no_room, starting, waiting
from broker.desktops import Desktop, auto_launch, desktops, paused
from broker.holding import Done, act, extend, extension_refused, give_back, leave_queue, no_desktop, submit_for
from broker.models import Ticket
from broker.rules import SHOWN, Asked, Choice, choose
from pools import booked, facts, leases, members, times, troubles
from pools.capacity import BOOKED
from pools.choice import FREE, OFF, Candidate, becoming, free, own
from pools.member_rules import hopeless, startable, surplus
from pools.models import Lease, Pool, PoolMember
from pools.room import in_the_way, room
from pools.rules import HOLDING, WANTING, entitled, entitled_again, not_now, priority_of, zone_of

__all__ = [
    "Answer", "Desktop", "Done", "act", "auto_launch", "connect", "desktops", "extend", "extension_refused", "give_back",
    "leave_queue",
]  # fmt: skip
CLIENTS = ("browser", "native")
_MINE = (
    sa.select(Lease)
    .where(Lease.pool_id == sa.bindparam("pool_id"), Lease.user_id == sa.bindparam("user_id"), Lease.state.in_(WANTING))
    .order_by(Lease.queue_place)
    .execution_options(populate_existing=True)
)


@dataclass(frozen=True)
class _Wish:
    """Who wants to connect, how, and when."""

    user_id: UUID
    session_id: UUID
    protocol: str | None
    client: str
    now: datetime
    whence: Whence = Whence()
    access: Verdict | None = None
    move: bool | None = None
    bookings: bool = True  # whether the pool has any, as `booked.guard` says

    def over(self, offered: list[str]) -> list[str]:
        """Those of the protocols that can be used from there."""
        return [p for p in offered if self.access is None or p in self.access.protocols]


def connect(
    tx: Tx,
    *,
    user_id: UUID,
    session_id: UUID,
    desktop_id: UUID,
    protocol: str | None,
    client: str,
    now: datetime,
    another: bool = False,
    from_: Whence = Whence(),
    move: bool | None = None,
) -> Answer:
    """Take the person to this desktop: a pool's (theirs, or a new one), or a VM of their own. Asked again and again
    while the answer is starting or queued; only what is new is decided. `another`: one more of the pool, if they may.
    `from_`: where they ask from. `move`: what becomes of a console that they have open elsewhere: it is closed, it stays
    (None), or, if false, they are asked first (`Impossible`, `console_elsewhere`)."""
    if client not in CLIENTS:
        raise Invalid("bad_client", "The client is browser or native.", fields=["client"])
    wish = _Wish(user_id, session_id, protocol, client, now, from_, move=move)
    pool, center = facts.with_center(tx, desktop_id)
    if pool is not None:
        return _told(pool, _connect_pool(tx, pool, facts.pool_path(tx, pool, center), wish, another))
    vm = tx.get(Vm, desktop_id, populate_existing=True)
    if vm is not None and vm.pool_id is not None:
        wish = replace(wish, bookings=booked.guard(tx, vm.pool_id))
        lease = leases.holder(tx, vm.id, HOLDING)
        if lease is not None and lease.user_id == user_id:
            pool, lease, until = _still(tx, lease, wish)
            wish = _reached(tx, pool.name, pool.id, pool.protocols, wish)
            return _told(pool, _elsewhere(tx, pool, wish) or _of_lease(tx, pool, lease, until, wish))
    elif vm is not None and may(rights.grants_of(tx, user_id), "desktop.use", rights.path_of(tx, "vm", vm.id), now):
        return _own_vm(tx, vm, wish)
    raise no_desktop(desktop_id)


def _told(pool: Pool, answer: Answer) -> Answer:
    """The answer with what is left of the lease."""
    return replace(answer, extensions_left=facts.extensions_left(pool, answer.lease)) if answer.lease is not None else answer


def _connect_pool(tx: Tx, pool: Pool, path: Path, wish: _Wish, another: bool) -> Answer:
    wish = replace(wish, bookings=booked.guard(tx, pool.id, one_of=wish.user_id))
    mine = tx.scalars(_MINE, {"pool_id": pool.id, "user_id": wish.user_id}).all()
    grants = rights.grants_of(tx, wish.user_id)
    good, until = entitled(grants, path, wish.now)
    if not good:
        opens = entitled_again(grants, path, wish.now)
        if not mine and opens is None:
            raise no_desktop(pool.id)
        return _closed(tx, pool, opens, zone_of(grants, path, opens, wish.now), wish)
    wish = _reached(tx, pool.name, pool.id, pool.protocols, wish)
    if (no := _elsewhere(tx, pool, wish)) is not None:
        return no
    _protocol(wish.over(pool.protocols), wish)
    if mine and (not another or mine[-1].state == "queued"):
        return _of_lease(tx, pool, mine[-1] if another else mine[0], until, wish)
    return _decide(tx, pool, len(mine), until, priority_of(grants, path, wish.now), wish)


def _closed(tx: Tx, pool: Pool, opens: datetime | None, zone: str, wish: _Wish) -> Answer:
    """The refusal, kept as a decision, when the person may not use the pool now."""
    sentence = not_now(pool.name, times.spoken(opens, zone, wish.now) if opens else "")
    decisions.keep(
        tx, user_id=wish.user_id, pool_id=pool.id, outcome="refused", sentence=sentence, reasons=(), now=wish.now,
    )  # fmt: skip
    no = Denied("entitlement_ended", sentence, opens_at=opens.isoformat() if opens else None)
    return Answer("refused", sentence, refusal=no)


def _reached(tx: Tx, name: str, pool_id: UUID | None, offered: list[str], wish: _Wish) -> _Wish:
    """The wish with what the rules by network and device say of it."""
    return replace(wish, access=reach.verdict(tx, name=name, pool_id=pool_id, offered=offered, from_=wish.whence))


def _elsewhere(tx: Tx, pool: Pool, wish: _Wish) -> Answer | None:
    """The refusal, kept as a decision, when the pool cannot be reached from where the person is."""
    access = wish.access
    if access is None or access.allowed:
        return None
    decisions.keep(
        tx, user_id=wish.user_id, pool_id=pool.id, outcome="refused", sentence=access.sentence, reasons=(), now=wish.now,
        access=told(access, wish.whence),
    )  # fmt: skip
    _tell(tx, pool, None, access.sentence, wish)
    return Answer("refused", access.sentence, refusal=Denied("not_from_here", access.sentence, pool=pool.name))


def _still(tx: Tx, lease: Lease, wish: _Wish) -> tuple[Pool, Lease, datetime | None]:
    """The lease with its pool and the end of the person's entitlement; `Denied` when that is over."""
    pool, center = facts.with_center(tx, lease.pool_id)
    assert pool is not None
    good, until = entitled(rights.grants_of(tx, wish.user_id), facts.pool_path(tx, pool, center), wish.now)
    if not good:
        raise Denied("entitlement_ended", f"Your right to pool {pool.name} has ended.")
    return pool, lease, until


def _decide(tx: Tx, pool: Pool, holds: int, until: datetime | None, priority: int, wish: _Wish) -> Answer:
    """A new request: give a free desktop, or a place in the queue, or refuse; and keep why."""
    counts, trouble = facts.counts(tx, pool.id), troubles.holding(pool)
    booking = booked.for_person(tx, pool.id, wish.user_id, wish.now) if wish.bookings else None
    walks_in = wish.bookings and booking is None  # past what others have booked
    priority = priority if booking is None else BOOKED
    asked = Asked(
        pool=pool.name,
        candidates=_candidates(tx, pool, counts, trouble, wish.user_id),
        user_id=wish.user_id,
        removing=pool.state == "removing",
        paused=paused(pool),
        holds=holds,
        per_user=pool.per_user,
        queued=facts.queued(tx, pool.id, priority),
        hopeless=hopeless(counts, pool.size),
        surplus=surplus(counts, pool.size) if pool.type == "floating" else 0,
        trouble=trouble,
        booked=booked.must_wait(tx, pool, wish.user_id, wish.now)[0] if walks_in else "",
        reserved=booked.reserved(tx, pool, wish.now) if walks_in else 0,
    )
    own_one = pool.type == "dedicated" and bool(own(asked.candidates, wish.user_id))
    if own_one:  # nobody else can have it, so nobody is overtaken
        asked = replace(asked, queued=0)
    choice = choose(asked)
    if _must_start(asked, choice, counts, pool.size) and (obstacle := room(tx, pool).obstacle) is not None:
        troubles.see(tx, pool, obstacle, wish.now)
        choice = choose(replace(asked, trouble=obstacle.sentence))
    kept: dict[str, Any] = {
        "user_id": wish.user_id, "pool_id": pool.id, "reasons": choice.reasons, "counts": counts, "now": wish.now,
        "access": told(wish.access, wish.whence) if wish.access else None,
    }  # fmt: skip
    if choice.outcome == "refused":
        decisions.keep(tx, outcome="refused", sentence=choice.sentence, **kept)
        _tell(tx, pool, None, choice.sentence, wish)
        return Answer("refused", choice.sentence, refusal=Impossible(choice.code, choice.sentence, pool=pool.name))
    lease = leases.ask(tx, pool, wish.user_id, choice.sentence, wish.now, priority, booking.id if booking else None)
    member = leases.take_member(tx, pool.id, [c.member_id for c in choice.order], for_lease=lease, from_queue=own_one)
    if member is None:
        if choice.outcome != "queued":
            lease.why = "Somebody was faster; you wait for the next one."
        decisions.keep(tx, outcome="queued", sentence=lease.why, lease=lease, **kept)
        _tell(tx, pool, lease, lease.why, wish)
        touch(tx, "lease", lease.id, user_id=wish.user_id, pool_id=pool.id)
        lease.told_s = facts.wait_s(tx, pool, facts.position(tx, lease), wish.now)
        return _of_lease(tx, pool, lease, until, wish)
    up, how = member.state == "spare", becoming(member.state)
    words = facts.words(tx, lease, member.vm_id)
    sentence = f"Desktop {words['vm']} is {how} for you."
    leases.assign(tx, lease, member, wish.now, words)
    decisions.keep(tx, outcome="given" if up else "starting", sentence=sentence, lease=lease, member=member, **kept)
    return _of_lease(tx, pool, lease, until, wish, words)


def _must_start(asked: Asked, choice: Choice, counts: dict[str, int], size: int) -> bool:
    """Whether a desktop would have to be started for this person, which needs room on a host."""
    if asked.trouble or asked.queued or asked.paused or asked.booked or choice.outcome not in ("starting", "queued"):
        return False
    return choice.order[0].state in OFF if choice.order else startable(counts, size) > 0


def _candidates(tx: Tx, pool: Pool, counts: dict[str, int], trouble: str, user_id: UUID) -> list[Candidate]:
    """The best members are enough to choose from; all of them only where none of those can be had and others may be."""
    best = facts.candidates(tx, pool.id, best=SHOWN, user_id=user_id)
    if len(best) < SHOWN or free(best, trouble, user_id) or not any(counts.get(state) for state in FREE):
        return best
    return facts.candidates(tx, pool.id)


def _tell(tx: Tx, pool: Pool, lease: Lease | None, why: str, wish: _Wish) -> None:
    user = facts.person(tx, wish.user_id)
    record(tx, "lease.asked", lease, user_id=wish.user_id, pool_id=pool.id, user=user, pool=pool.name, why=why)


# -- the answer ------------------------------------------------------------------------------------
def _of_lease(
    tx: Tx, pool: Pool, lease: Lease, until: datetime | None, wish: _Wish, words: dict[str, Any] | None = None
) -> Answer:
    """How it stands with this lease; what only waits to be noticed (its VM is up) is noticed here, not a second later."""
    if lease.state == "queued":
        return waiting(tx, pool, lease, wish.now)
    vm = get(tx, Vm, lease.vm_id)
    if lease.state == "starting" and vm.state == "up":
        if words is None:  # not made just now, so the pools' loop may be noticing the same at this moment
            lease = get(tx, Lease, lease.id, lock=True)
        if lease.state == "starting":
            leases.ready(tx, lease, pool, until, wish.now, words, wish.bookings)
    if lease.state in ("active", "expiring", "grace"):
        if vm.state in ("up", "migrating"):
            protocol = _protocol(wish.over([p for p in pool.protocols if p in vm.protocols]), wish)
            return _ready(tx, vm, lease, protocol, wish, words)
        if vm.state in ("down", "suspended") and lease.state != "grace":
            if (obstacle := in_the_way(tx, vm)) is not None:
                return no_room(vm, lease, obstacle)
            lease.off_wanted = False
            member = tx.scalars(sa.select(PoolMember).where(PoolMember.vm_id == vm.id)).one()
            members.start(tx, member, wish.now)
        elif vm.state == "unknown" and (swapped := _swap(tx, pool, lease, vm, until, wish)) is not None:
            return swapped
    wakes = vm.state in ("suspended", "restoring_state")
    return starting(tx, vm, lease, (facts.resume_s if wakes else facts.boot_s)(tx, pool.id), wish.now)


def _swap(tx: Tx, pool: Pool, lease: Lease, vm: Vm, until: datetime | None, wish: _Wish) -> Answer | None:
    """The desktop's host does not answer: another desktop if one is free, else they wait for the host."""
    if pool.type == "dedicated":
        return None  # what is on it is theirs, and nobody else has it
    kept = 0 if lease.booking_id else booked.reserved(tx, pool, wish.now)
    order = [c.member_id for c in choose(Asked(pool.name, facts.candidates(tx, pool.id), reserved=kept)).order]
    member = leases.take_member(tx, pool.id, order)
    if member is None:
        return None
    lost = tx.scalars(sa.select(PoolMember).where(PoolMember.vm_id == vm.id)).one()
    leases.requeue(tx, lease, f"Desktop {vm.name} cannot be reached: its host does not answer.", wish.now, counts=False)
    members.lost_sight(tx, lost)
    leases.assign(tx, lease, member, wish.now, facts.words(tx, lease, member.vm_id))
    return _of_lease(tx, pool, lease, until, wish)


def _own_vm(tx: Tx, vm: Vm, wish: _Wish) -> Answer:
    """A VM of the person's own: started if it is down, and its console."""
    wish = _reached(tx, vm.name, None, vm.protocols, wish)
    if wish.access is not None and not wish.access.allowed:
        raise Denied("not_from_here", wish.access.sentence)
    protocol = _protocol(wish.over(vm.protocols), wish)
    if vm.state in ("up", "paused", "migrating"):
        return _ready(tx, vm, None, protocol, wish)
    if vm.state in ("down", "suspended"):
        if (obstacle := in_the_way(tx, vm)) is not None:
            return no_room(vm, None, obstacle)
        submit_for(tx, StartVm(vm.id), vm, wish.user_id, wish.now)
    return starting(tx, vm, None, facts.BOOT_S, wish.now)


def _move_here(tx: Tx, vm: Vm, wish: _Wish) -> None:
    """A console of their own in another place moves here, when the person wants it to."""
    others = consoles.elsewhere(tx, wish.user_id, vm.id, wish.session_id) if wish.move is not None else []
    if others and not wish.move:
        device = f"at {others[0].address}" if others[0].address else "elsewhere"
        since = times.spoken(others[0].started_at, times.zone_of(tx, vm.pool_id) if vm.pool_id else "", wish.now)
        sentence = f"Desktop {vm.name} is open on another of your devices ({device}, since {since})."
        raise Impossible("console_elsewhere", sentence, address=others[0].address, since=others[0].started_at.isoformat())
    if others:
        ids = [console.ticket_id for console in others]
        consoles.want_end(tx, sa.select(Ticket.id).where(Ticket.id.in_(ids)), "You moved this console to another device.")


def _ready(
    tx: Tx, vm: Vm, lease: Lease | None, protocol: str, wish: _Wish, words: dict[str, Any] | None = None
) -> Answer:
    _move_here(tx, vm, wish)
    ticket = tickets.mint(
        tx,
        user_id=wish.user_id,
        session_id=wish.session_id,
        vm_id=vm.id,
        lease_id=lease.id if lease else None,
        protocol=protocol,
        client=wish.client,
        now=wish.now,
        user=words["user"] if words else None,
        address=wish.whence.address,
    )
    sentence = (lease.why if lease else "") or f"Desktop {vm.name} is ready."
    return Answer("ready", sentence, lease, vm.id, vm.name, ticket, protocol, progress=100, task_id=ticket.task_id)


def _protocol(offered: list[str], wish: _Wish) -> str:
    """The protocol to show it by: the one wished for, else VNC in a browser, else the first that is offered."""
    if wish.protocol is None and offered:
        return "vnc" if wish.client == "browser" and "vnc" in offered else offered[0]
    if wish.protocol is None or wish.protocol not in offered:
        wanted = f", not {wish.protocol.upper()}" if wish.protocol else ""
        names = " and ".join(p.upper() for p in offered) or "no console"
        raise Invalid("bad_protocol", f"This desktop offers {names}{wanted}.", fields=["protocol"])
    return wish.protocol
