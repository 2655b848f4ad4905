"""Mint tickets, derive their secrets, hand out their viewer file, redeem them once, revoke them."""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx, get
from backend.directory.models import Directory, User, WebSession
from backend.directory.names import full_name
from backend.errors import Denied, Impossible, NotFound, Refused
from backend.events import move, record
from backend.hosts.models import Host
from backend.secrets import Keyring
from backend.tasks.command import SYSTEM, Actor, Call, Job, Later, Plain
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.models import Vm
from broker import consoles, recheck
from broker.models import Ticket
from broker.viewer import Face, vv
from hostapi.types import Failure, Secret, TicketSpec
from pools.models import Lease

VALID = timedelta(seconds=30)  # how long a ticket may be redeemed
JOIN = timedelta(seconds=60)  # how long after that its display password is good: a viewer's later channels use it too
HELD = ("starting", "active", "expiring", "grace")  # leases whose holder may look at the desktop
WITH_SCREEN = ("powering_up", "up", "paused", "powering_down", "reboot_in_progress", "migrating",
               "not_responding")  # VMs that have a display  # fmt: skip


_MINTED = (
    sa.select(Ticket).where(Ticket.state == "minted").order_by(Ticket.id).limit(500).execution_options(populate_existing=True)
)
_OLDER = _MINTED.where(
    Ticket.user_id == sa.bindparam("user_id"), Ticket.vm_id == sa.bindparam("vm_id"), Ticket.protocol == sa.bindparam("protocol")
).with_for_update()


# -- minting ---------------------------------------------------------------------------------------
def mint(
    tx: Tx, *, user_id: UUID, session_id: UUID, vm_id: UUID, lease_id: UUID | None, protocol: str, client: str, now: datetime,
    user: str | None = None, address: str = "",
) -> Ticket:
    """A ticket for this person's console of this VM, valid for 30 s, and the task that arms the display for it. `user` is
    the person's full name where it is known, `address` where they ask from.

    Older unused tickets of the same person, VM and protocol are revoked. Refuses when the VM has no screen.
    """
    for older in tx.scalars(_OLDER, {"user_id": user_id, "vm_id": vm_id, "protocol": protocol}).all():
        move(tx, older, "revoke", why="You opened this console again: a newer ticket took its place.")
    ticket = Ticket(
        user_id=user_id, session_id=session_id, vm_id=vm_id, lease_id=lease_id, protocol=protocol, client=client,
        address=address, state="minted", created_at=now, expires_at=now + VALID,
    )
    tx.add(ticket)
    tx.flush()
    actor = Actor(SYSTEM.user_id, SYSTEM.name, f"Console for {user or user_name(tx, user_id)}")
    ticket.task_id = submit(tx, SetTicket(ticket.id), actor, now).id
    return ticket


@dataclass(frozen=True)
class SetTicket(Plain):
    """Give a VM's display the password of a ticket, so that the gateway can open it."""

    ticket_id: UUID
    name: ClassVar[str] = "ticket.set"
    permission: ClassVar[str] = "console.open"  # only the broker submits it, as the system
    steps: ClassVar[tuple[str, ...]] = ("set_ticket",)

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "vm", get(tx, Ticket, self.ticket_id).vm_id

    def title(self, tx: Tx) -> str:
        ticket = get(tx, Ticket, self.ticket_id)
        return f"Open a {ticket.protocol.upper()} console of VM {get(tx, Vm, ticket.vm_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return []  # the host keeps the newest of a display's tickets: nothing to wait for

    def check(self, tx: Tx) -> None:
        require_screen(get(tx, Vm, get(tx, Ticket, self.ticket_id).vm_id))

    def set_ticket(self, tx: Tx, job: Job) -> Call | None:
        """Ask the VM's host; nothing is asked for a ticket that is no longer wanted."""
        ticket = get(tx, Ticket, self.ticket_id)
        if ticket.state not in ("minted", "redeemed") or ticket.expires_at + JOIN <= job.now:
            return None
        vm = get(tx, Vm, ticket.vm_id)
        require_screen(vm)
        if vm.state == "migrating":
            raise Later("Waits until the VM has arrived at its other host.")  # a display takes no password on its way
        assert vm.host_id is not None
        spec = TicketSpec(
            ticket_id=ticket.id, protocol=ticket.protocol,  # type: ignore[arg-type]
            password=Secret(f"display:{ticket.id}"),
            valid_s=int((ticket.expires_at + JOIN - job.now).total_seconds()),
            issued_ms=int(ticket.created_at.timestamp() * 1000),
        )
        return Call(vm.host_id, "set_ticket", {"vm_id": vm.id, "ticket": spec})

    def set_ticket_done(self, tx: Tx, job: Job, result: None) -> None:
        get(tx, Ticket, self.ticket_id, lock=True).armed_at = job.now

    def set_ticket_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        ticket = get(tx, Ticket, self.ticket_id, lock=True)
        if ticket.state == "minted":
            move(tx, ticket, "revoke", why=failure.message)


def require_screen(vm: Vm) -> None:
    """Refuse when the VM has no display now."""
    if vm.host_id is None or vm.state not in WITH_SCREEN:
        raise Impossible(
            "no_screen", f"Desktop {vm.name} has no screen now: it is {vm.state.replace('_', ' ')}. Start it first.",
            vm=vm.name, state=vm.state,
        )


# -- secrets: derived, never stored ------------------------------------------------------------------
def token(keyring: Keyring, ticket: Ticket) -> str:
    """What the browser shows to the gateway: the ticket's id and a MAC of it; 64 characters of base64url."""
    return _text(ticket.id.bytes + _mac(keyring, ticket.id))


def ticket_of(keyring: Keyring, token: str) -> UUID | None:
    """The id in a genuine token; None for anything that we did not make."""
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
    except ValueError:
        return None
    if len(raw) != 48:
        return None
    id = UUID(bytes=raw[:16])
    return id if hmac.compare_digest(_mac(keyring, id), raw[16:]) else None


def spice_name(ticket_id: UUID) -> str:
    """The one-time host name a viewer file asks the gateway for; worthless without the password."""
    return f"ticket-{ticket_id.hex}"


def ticket_named(name: str) -> UUID | None:
    """The ticket's id in a one-time host name."""
    head, _, digits = name.partition("-")
    try:
        return UUID(hex=digits) if head == "ticket" and len(digits) == 32 else None
    except ValueError:
        return None


def spice_password(keyring: Keyring, ticket_id: UUID) -> str:
    """The password in a viewer file: the token's MAC, 43 characters (SPICE takes 60 at most)."""
    return _text(_mac(keyring, ticket_id))


def _mac(keyring: Keyring, ticket_id: UUID) -> bytes:
    return keyring.mac("ticket", ticket_id.bytes)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


# -- the viewer file: once -------------------------------------------------------------------------
def take_viewer_file(
    tx: Tx, ticket_id: UUID, *, session_id: UUID, keyring: Keyring, face: Face, now: datetime, full_screen: bool = False,
) -> str:
    """The .vv text of a native client's ticket, to the session it was minted for, and only once."""
    ticket = get(tx, Ticket, ticket_id, lock=True)
    if ticket.session_id != session_id:
        raise NotFound("not_found", f"There is no ticket with the id {ticket_id}.", kind="ticket", id=str(ticket_id))
    if ticket.client != "native" or ticket.protocol != "spice":
        raise Impossible("no_viewer_file", "This ticket is for the browser and has no viewer file.")
    if ticket.fetched_at is not None:
        raise Impossible("viewer_file_taken", "This viewer file was fetched already; connect again for a new one.")
    require_usable(ticket, now)
    ticket.fetched_at = now
    return vv(
        face, name=spice_name(ticket.id), password=spice_password(keyring, ticket.id),
        title=get(tx, Vm, ticket.vm_id).name, full_screen=full_screen,
    )


# -- redeeming -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Redeemed:
    """What the gateway may open now: whose console of which VM, and at which host."""

    console_id: UUID
    ticket_id: UUID
    user_name: str
    vm_id: UUID
    vm_name: str
    protocol: str
    address: str
    port: int


def redeem(
    tx: Tx, ticket_id: UUID, *, console_id: UUID, protocols: tuple[str, ...], client: str, session_id: UUID | None,
    address: str, gateway: str, now: datetime,
) -> Redeemed:
    """Use the ticket up and open its console session's row. `session_id` is the browser's login session;
    None for a native client, which has shown the ticket's password instead. `Denied` in words otherwise."""
    ticket = tx.get(Ticket, ticket_id, with_for_update=True, populate_existing=True)
    vm = examine(tx, ticket, protocols=protocols, client=client, session_id=session_id, address=address, now=now)
    assert ticket is not None
    host = get(tx, Host, vm.host_id)
    move(tx, ticket, "redeem")
    name = user_name(tx, ticket.user_id)
    consoles.open(tx, ticket, console_id, vm_name=vm.name, user_name=name, address=address, gateway=gateway, now=now)
    return Redeemed(console_id, ticket.id, name, vm.id, vm.name, ticket.protocol, host.address, host.console_port)


def examine(
    tx: Tx, ticket: Ticket | None, *, protocols: tuple[str, ...], client: str, session_id: UUID | None, address: str,
    now: datetime,
) -> Vm:
    """The VM that the ticket opens now at this address; `Denied` in words when it opens none, `Impossible` without a screen."""
    ticket = require_usable(ticket, now)
    if ticket.client != client or ticket.protocol not in protocols:
        raise _no("wrong_client", "This console ticket is for another kind of viewer. Open the console again from the portal.")
    if session_id is not None and ticket.session_id != session_id:
        raise _no("wrong_session", "This console ticket belongs to another sign-in. Open the console from your own portal.")
    session, user = get(tx, WebSession, ticket.session_id), get(tx, User, ticket.user_id)
    if recheck.left_device(tx, session):
        raise _no("device_not_enrolled", consoles.NOT_ENROLLED)
    if session.ended_at is not None or session.expires_at <= now or not user.enabled:
        raise _no("signed_out", "You are signed out. Sign in and open the console again.")
    lease = tx.get(Lease, ticket.lease_id) if ticket.lease_id else None
    if lease is not None and (lease.state not in HELD or lease.vm_id != ticket.vm_id or lease.user_id != ticket.user_id):
        raise _no("lease_over", "Your lease on this desktop is over. Connect again to get another one.")
    vm = get(tx, Vm, ticket.vm_id)
    why, rule = recheck.barred(tx, ticket, vm, address)
    if why:
        raise _no("not_from_here", why, rule=rule)
    require_screen(vm)
    return vm


def refused(tx: Tx, ticket_id: UUID, why: Refused, *, address: str) -> None:
    """Record that a genuine ticket was refused: somebody tried a used, late, revoked or foreign one."""
    ticket = tx.get(Ticket, ticket_id)
    if ticket is not None:
        record(tx, "ticket.refused", ticket, address=address, why=why.message, reason=why.facts.get("reason", why.code),
               rule=why.facts.get("rule", ""))


def armed(tx: Tx, ticket_id: UUID) -> bool:
    """Whether the display has the ticket's password by now; `Impossible` when it will never have it."""
    row = tx.execute(
        sa.select(Ticket.armed_at, Task.state, Task.error).outerjoin(Task, Task.id == Ticket.task_id)
        .where(Ticket.id == ticket_id)
    ).one()
    if row.armed_at is not None:
        return True
    if row.state in ("failed", "cancelled"):
        why = (row.error or {}).get("message", "the task was cancelled.")
        raise Impossible("not_armed", f"The screen could not be opened: {why}")
    return False


# -- revoking --------------------------------------------------------------------------------------
def revoke_for(
    tx: Tx, *, vm_id: UUID | None = None, lease_id: UUID | None = None, user_id: UUID | None = None,
    session_id: UUID | None = None, why: str, now: datetime,
) -> None:
    """Revoke unused tickets and have live consoles closed within seconds; `why` is the sentence people read.

    All given ids must match; with none given nothing is revoked.
    """
    wanted = {"vm_id": vm_id, "lease_id": lease_id, "user_id": user_id, "session_id": session_id}
    clauses = [getattr(Ticket, column) == value for column, value in wanted.items() if value is not None]
    if not clauses:
        return
    for ticket in minted(tx, *clauses):
        move(tx, ticket, "revoke", why=why)
    consoles.want_end(tx, sa.select(Ticket.id).where(*clauses), why)


# -- shared ----------------------------------------------------------------------------------------
def user_name(tx: Tx, user_id: UUID) -> str:
    """alice, or alice@corp.example."""
    row = tx.execute(
        sa.select(User.name, Directory.name.label("directory")).join(Directory, Directory.id == User.directory_id)
        .where(User.id == user_id)
    ).one()
    return full_name(row.name, row.directory)


def minted(tx: Tx, *clauses: Any, skip_locked: bool = False) -> list[Ticket]:
    """Unused tickets, locked."""
    return list(tx.scalars(_MINTED.where(*clauses).with_for_update(skip_locked=skip_locked)))


_OVER = {
    "redeemed": "This console ticket was used already. Open the console again from the portal.",
    "expired": "This console ticket has expired. Open the console again from the portal.",
}


def require_usable(ticket: Ticket | None, now: datetime) -> Ticket:
    """The ticket, if it could be redeemed now; `Denied` in words otherwise."""
    if ticket is None:
        raise _no("unknown", "This console ticket does not exist any more. Open the console again from the portal.")
    state = "expired" if ticket.state == "minted" and ticket.expires_at <= now else ticket.state
    if state != "minted":
        raise _no(state, _OVER.get(state) or f"This console ticket was revoked. {ticket.why}".strip())
    return ticket


def _no(reason: str, sentence: str, **facts: str) -> Denied:
    return Denied("ticket_refused", sentence, reason=reason, **facts)
