"""A person's desktops as their pages show them: cards, how far a desktop is, and what its buttons do."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx, get
from backend.errors import Impossible, NotFound, Refused
from broker import connect as broker
from broker import tickets
from broker.connect import Desktop
from broker.standing import standing
from pools.models import Lease, Pool
from portal.api_desktops import face
from portal.devices import whence
from portal.parts import parts
from portal.transaction import commit, rollback
from portal.transaction import tx as transaction

IDLE = {
    "available": "Ready for you to take",
    "closed": "Not at this hour",
    "paused": "Paused",
    "queued": "Waiting for a free desktop",
    "called": "Waiting for you",
    "starting": "Starting …",
    "running": "Fetching its screen …",
    "ending": "Shutting down …",
    "off": "Switched off",
    "unreachable": "Its host does not answer at the moment",
}

CONNECT = {
    "off": "Start and connect",
    "called": "Open it now",
    "paused": "Wait for one",
    "queued": "Show progress",
    "starting": "Show progress",
}


@dataclass(frozen=True)
class Card:
    """A desktop and everything its card needs beyond what the broker says."""

    desktop: Desktop
    stateless: bool = False
    estimate_s: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.desktop, name)

    @property
    def id(self) -> UUID:
        return self.desktop.id

    @property
    def look(self) -> str:
        """The state its label shows."""
        lease = self.desktop.lease
        if lease is not None and lease.state == "grace":
            return "grace"
        if lease is not None and lease.state == "expiring" and self.desktop.state == "running":
            return "soon"
        return self.desktop.state

    @property
    def idle(self) -> str:
        """What stands where the picture of the screen would be."""
        if self.desktop.blocked:
            return "Cannot be reached from here"
        return IDLE.get(self.desktop.state, "")

    @property
    def about(self) -> str:
        """One line below the name."""
        d = self.desktop
        if d.kind == "vm":
            return d.description or "Your own desktop"
        return (
            f"{d.vm_name} · {d.description}"
            if d.vm_name and d.description
            else d.vm_name or d.description or "Desktops of a pool"
        )

    @property
    def screen(self) -> str | None:
        """Where the picture of its screen is fetched from, while it has one."""
        running = self.desktop.state in ("running", "ending") and self.desktop.vm_id and not self.desktop.blocked
        return f"/screens/{self.desktop.vm_id}" if running else None

    @property
    def connect_word(self) -> str:
        """What the first button says."""
        return CONNECT.get(self.desktop.state, "Connect")

    @property
    def viewer(self) -> bool:
        """Whether remote-viewer can open it now."""
        return "spice" in self.desktop.protocols and self.desktop.state == "running"

    @property
    def either(self) -> bool:
        """Whether the browser can show it by VNC or by SPICE, as the person likes."""
        return {"vnc", "spice"} <= set(self.desktop.protocols)

    @property
    def more(self) -> bool:
        """Whether there is anything for the menu."""
        return self.viewer or self.either or bool(set(self.desktop.actions) - {"connect", "extend"})


@dataclass(frozen=True)
class Stage:
    """One line of the progress: done, now or later."""

    title: str
    state: str
    text: str = ""
    percent: int | None = None


@dataclass(frozen=True)
class Waiting:
    """How far a desktop is: queued, starting, ready, or none, when nothing happens unless the person asks."""

    state: str
    title: str
    text: str = ""
    position: int | None = None
    estimate_s: int | None = None
    steps: tuple[Stage, ...] = field(default_factory=tuple)
    lease_id: UUID | None = None  # whose story tells why


def cards(tx: Tx, user_id: UUID, now: datetime) -> list[Card]:
    """Everything the person may connect to, and what cannot be reached from here with its reason."""
    return [_card(tx, user_id, desktop, now) for desktop in broker.desktops(tx, user_id, now, whence())]


def _card(tx: Tx, user_id: UUID, desktop: Desktop, now: datetime) -> Card:
    pool = get(tx, Pool, desktop.lease.pool_id) if desktop.lease else None
    estimate = None
    if desktop.state == "queued" and (answer := standing(tx, user_id=user_id, desktop_id=desktop.id, now=now)):
        estimate = answer.estimate_s
    return Card(desktop, stateless=bool(pool and pool.stateless), estimate_s=estimate)


def card(tx: Tx, user_id: UUID, id: UUID, now: datetime) -> Card:
    """One of them; `NotFound` when it is not, or no longer, the person's."""
    for desktop in broker.desktops(tx, user_id, now, whence()):
        if desktop.id == id:
            return _card(tx, user_id, desktop, now)
    raise NotFound("not_found", "This desktop is not yours, or not yours any more.", kind="desktop", id=str(id))


def take(tx: Tx, who: Any, id: UUID, now: datetime, protocol: str | None = None) -> broker.Answer:
    """The person clicked Connect: the desktop is theirs now, or a place in its queue, or it starts."""
    return _connect(tx, who, id, now, protocol=protocol, client="browser")


def _connect(tx: Tx, who: Any, id: UUID, now: datetime, **how: Any) -> broker.Answer:
    return broker.connect(tx, user_id=who.user_id, session_id=who.id, desktop_id=id, now=now, from_=whence(who), **how)


def waiting(tx: Tx, who: Any, card: Card, now: datetime) -> Waiting:
    """How far this desktop is, for its page. Changes nothing."""
    answer = standing(tx, user_id=who.user_id, desktop_id=card.id, now=now)
    if answer is None:
        last = _last_lease(tx, who.user_id, card.id)
        text = f"{last.why} " if last is not None and last.why and last.end_reason != "returned" else ""
        lease_id = last.id if last is not None else None
        return Waiting("none", "You have no desktop here now", f"{text}Connect gives you one.", lease_id=lease_id)
    if answer.state == "off":
        return Waiting("none", "The desktop is switched off", "Connect starts it.")
    lease_id = card.desktop.lease.id if card.desktop.lease is not None else None
    if answer.state == "queued":
        steps = (Stage("Waiting for a desktop", "now"), Stage("Starting", "later"), Stage("Ready", "later"))
        return Waiting("queued", "You wait for a desktop", answer.sentence, answer.position, answer.estimate_s, steps, lease_id)
    found = Stage("A desktop is yours", "done", answer.vm_name)
    if answer.state == "ready":
        return Waiting(
            "ready", "Opening the desktop", "", steps=(found, Stage("Started", "done"), Stage("Opening its screen", "now"))
        )
    left = f"about {answer.estimate_s} s left" if answer.estimate_s else ""
    text = " · ".join(part for part in (answer.message, left) if part)
    steps = (found, Stage("Starting", "now", text, answer.progress), Stage("Ready", "later"))
    return Waiting("starting", "Your desktop is starting", answer.sentence, steps=steps, lease_id=lease_id)


def _last_lease(tx: Tx, user_id: UUID, pool_id: UUID) -> Lease | None:
    return tx.scalars(
        sa.select(Lease).where(Lease.user_id == user_id, Lease.pool_id == pool_id).order_by(Lease.queue_place.desc()).limit(1)
    ).first()


def act(tx: Tx, who: Any, card: Card, verb: str, now: datetime, name: str = "", snapshot_id: UUID | None = None) -> str:
    """Do what a button says; answers the sentence for the person."""
    lease = card.desktop.lease
    if verb not in ("extend", "leave", "give_back"):
        of = {"user_id": who.user_id, "desktop_id": card.id}
        done = broker.act(tx, verb=verb, now=now, name=name, snapshot_id=snapshot_id, **of)
        if done.refusal is not None:
            commit()
            raise done.refusal
        return done.sentence
    if lease is None:
        raise Impossible("no_lease", "You hold no desktop here, so there is nothing to give back or to extend.")
    if verb == "extend":
        _extend(tx, who.user_id, lease.id, now)
        return "You have the desktop for longer now."
    if verb == "leave":
        broker.leave_queue(tx, user_id=who.user_id, lease_id=lease.id, now=now)
        return "You left the queue."
    broker.give_back(tx, user_id=who.user_id, lease_id=lease.id, now=now)
    return f"{card.desktop.name} is given back."


def _extend(tx: Tx, user_id: UUID, lease_id: UUID, now: datetime) -> None:
    """A refusal is a decision too, and is kept."""
    try:
        broker.extend(tx, user_id=user_id, lease_id=lease_id, now=now)
    except Refused as no:
        rollback()
        broker.extension_refused(transaction(), user_id=user_id, lease_id=lease_id, why=no.message, now=now)
        commit()
        raise


def viewer_file(tx: Tx, who: Any, id: UUID, now: datetime) -> str | None:
    """The text of a file that opens the desktop once in remote-viewer; None while the desktop is not ready."""
    now_is = standing(tx, user_id=who.user_id, desktop_id=id, now=now)
    if now_is is None or now_is.state != "ready":
        return None
    answer = _connect(tx, who, id, now, protocol="spice", client="native")
    if answer.refusal is not None:
        raise answer.refusal
    if answer.ticket is None:
        return None
    settings = parts().settings
    seen = face(settings.gateway_public, settings.ca_file, settings.tls_cert_file)
    return tickets.take_viewer_file(tx, answer.ticket.id, session_id=who.id, keyring=parts().keyring, face=seen, now=now)
