"""Whether a console may be shown where it is asked for, or still where it is open: the access rules, looked at again."""

from __future__ import annotations

import sqlalchemy as sa

from backend.db import Tx
from backend.devices import enrolling
from backend.devices.enrolling import DeviceFacts
from backend.devices.models import Device
from backend.directory.models import WebSession
from backend.vms.models import Vm
from broker import access, consoles, reach
from broker.access import Rule
from broker.models import ConsoleSession, Ticket
from pools.models import Pool


def barred(tx: Tx, ticket: Ticket, vm: Vm, address: str) -> tuple[str, str]:
    """Why the console of this ticket cannot be shown at this address, and the rule that says so; "" when it can."""
    device = enrolling.of_session(tx, ticket.session_id)
    pool = tx.get(Pool, vm.pool_id) if vm.pool_id else None
    return _barred(reach.rules(tx), ticket, vm, pool, address, device)


def left_device(tx: Tx, session: WebSession) -> bool:
    """Whether the session was begun at a device that has been revoked or is being set up anew."""
    return session.device_id is not None and enrolling.of_session(tx, session.id) is None


def end_barred(tx: Tx) -> None:
    """Have open consoles closed that cannot be where they are any more: the rules changed, or what their device may show."""
    rules = reach.rules(tx)
    for ticket, vm, pool, address, device in _living(tx, all=bool(rules)):
        why, _ = _barred(rules, ticket, vm, pool, address, enrolling.facts_of(device) if device else None)
        if why:
            consoles.want_end(tx, sa.select(Ticket.id).where(Ticket.id == ticket.id), why)


def _living(tx: Tx, *, all: bool) -> list[tuple[Ticket, Vm, Pool | None, str, Device | None]]:
    """Open consoles with where they are; without any rules those at devices alone."""
    found = (
        sa.select(Ticket, Vm, Pool, ConsoleSession.address, Device)
        .join(ConsoleSession, ConsoleSession.ticket_id == Ticket.id)
        .join(WebSession, WebSession.id == Ticket.session_id)
        .join(Vm, Vm.id == ConsoleSession.vm_id)
        .outerjoin(Pool, Pool.id == Vm.pool_id)
        .outerjoin(Device, sa.and_(Device.id == WebSession.device_id, Device.state == "enrolled"))
        .where(ConsoleSession.ended_at.is_(None), ConsoleSession.end_wanted.is_(None))
        .order_by(Ticket.id)
    )
    return [tuple(row) for row in tx.execute(found if all else found.where(Device.id.is_not(None)))]  # type: ignore[misc]


def _barred(
    rules: list[Rule], ticket: Ticket, vm: Vm, pool: Pool | None, address: str, device: DeviceFacts | None
) -> tuple[str, str]:
    """A browser has shown the cookie of its sign-in; a native viewer has shown no more than a file that can be carried
    away, so it stands before the device only as long as it comes from where the file was asked for."""
    carried = device is not None and ticket.client == "native" and ticket.address not in ("", address)
    why, rule = access.barred(
        rules, name=pool.name if pool else vm.name, pool_id=vm.pool_id, offered=pool.protocols if pool else vm.protocols,
        protocol=ticket.protocol, whence=reach.at(address, None if carried else device),
    )  # fmt: skip
    if why and carried and device is not None:
        return f"This viewer file was made at {device.name} and can be used there alone. Connect anew from here.", rule
    return why, rule
