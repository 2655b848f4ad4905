"""What people do to their desktops, each as one request to the portal would."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.errors import Refused
from backend.vms.models import Vm
from broker import bookings, consoles, holding
from broker import connect as broker
from broker.access import Whence
from broker.models import ConsoleSession
from pools.booking_rules import Wish
from pools.models import Lease, Pool
from pools.policy import RIGHTS
from pools.rules import WANTING
from sim import watching
from sim.story import Story, Wrong
from sim.telling import answered

HERE = Whence(watching.ADDRESS)


def connect(story: Story, name: str, desktop: str, *, another: bool, protocol: str | None) -> str:
    """The person clicks Connect; what they are told."""
    try:
        with story.place.tx() as tx:
            answer = broker.connect(
                tx, user_id=story.people[name], session_id=story.session_of(tx, name), desktop_id=_desktop(tx, desktop),
                protocol=protocol, client="native" if protocol == "spice" else "browser", now=story.clock.now(), another=another,
                from_=HERE,
            )  # fmt: skip
            told = answered(answer)
    except Refused as no:
        return f"no. {no.message}"
    story.looked(name)
    return told


def watch(story: Story, name: str) -> str:
    """The person opens the desktop that they have; what they are told when it cannot be shown."""
    with story.place.tx() as tx:
        if (lease := story.lease_of(tx, name)) is None:
            raise Wrong(f"cannot be: {name} has no desktop.")
        answer = broker.connect(
            tx, user_id=story.people[name], session_id=story.session_of(tx, name), desktop_id=lease.pool_id, protocol=None,
            client="browser", now=story.clock.now(), from_=HERE,
        )  # fmt: skip
        if answer.ticket is None:
            return answered(answer)
        watching.open(tx, answer.ticket, story.clock.now())
    return ""


def at_console(story: Story, name: str, *, close: bool) -> None:
    """The person presses a key in the consoles that they have open, or closes them."""
    now = story.clock.now()
    with story.place.tx() as tx:
        mine = [id for id in watching.living(tx) if tx.get_one(ConsoleSession, id).user_id == story.people[name]]
        if not mine:
            raise Wrong(f"cannot be: {name} has no console open.")
        consoles.seen(tx, {id: (0, 0) for id in mine}, () if close else mine, now)
        for id in mine if close else ():
            consoles.end(tx, id, why="The viewer was closed.", now=now)


def book(story: Story, name: str, pool: str, desktops: int, start: datetime, end: datetime, group: str) -> None:
    """The person books desktops of a pool, for themselves or for a group of theirs."""
    with story.place.tx() as tx:
        wish = Wish(desktops, start, end, not group, "")
        bookings.book(
            tx, user_id=story.people[name], pool_id=_desktop(tx, pool), wish=wish, rule="", timezone="UTC",
            group_id=story.groups[group] if group else None, now=story.clock.now(),
        )  # fmt: skip


def do(story: Story, name: str, deed: str, desktop: str, more: Mapping[str, str]) -> str:
    """The person does this to their desktop (the latest, or the one they name); what they are told, if anything."""
    try:
        with story.place.tx() as tx:
            return _do(tx, story, name, deed, desktop, more)
    except Refused as no:
        return f"no. {no.message}"


def _do(tx: Tx, story: Story, name: str, deed: str, desktop: str, more: Mapping[str, str]) -> str:
    call = getattr(broker, deed, None) or getattr(holding, deed, None)
    lease = _lease(tx, story, name, desktop)
    known: dict[str, Any] = {
        "user_id": story.people[name], "session_id": story.session_of(tx, name), "now": story.clock.now(), "client": "browser",
        "lease_id": lease.id if lease else None, "desktop_id": _desktop(tx, desktop) if desktop else lease and lease.pool_id,
        "protocol": None, **more,
    }  # fmt: skip
    if not callable(call) and (deed in RIGHTS or deed in ("start", "shutdown", "stop", "reset")):
        call, known["verb"] = broker.act, deed
    if not callable(call):
        raise Wrong(f"cannot be: nobody can {deed}; possible: {', '.join([*RIGHTS, 'extend', 'give_back', 'leave_queue'])}.")
    wanted = [p for p in inspect.signature(call).parameters if p != "tx"]
    if ("lease_id" in wanted and lease is None) or known["desktop_id"] is None:
        raise Wrong(f"cannot be: {name} has no desktop, and waits for none.")
    done = call(tx, **{key: known[key] for key in wanted if key in known})
    sentence = getattr(done, "sentence", "")
    return sentence if isinstance(sentence, str) else ""


def _lease(tx: Tx, story: Story, name: str, desktop: str) -> Lease | None:
    if not desktop:
        return story.lease_of(tx, name)
    mine = sa.select(Lease).join(Pool, Pool.id == Lease.pool_id).outerjoin(Vm, Vm.id == Lease.vm_id).where(
        Lease.user_id == story.people[name], Lease.state.in_(WANTING), sa.or_(Pool.name == desktop, Vm.name == desktop)
    )  # fmt: skip
    return tx.scalars(mine.order_by(Lease.queue_place.desc())).first()


def _desktop(tx: Tx, name: str) -> UUID:
    """The id that connect takes: a pool's, or a VM's."""
    found = tx.scalar(sa.select(Pool.id).where(Pool.name == name)) or tx.scalar(sa.select(Vm.id).where(Vm.name == name))
    if found is None:
        pools = ", ".join(tx.scalars(sa.select(Pool.name).order_by(Pool.name)))
        raise Wrong(f"cannot be: there is no pool and no VM called {name}. Pools: {pools}.")
    return found
