"""A device redeems its code for a token once, and is known by the token from then on."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx
from backend.devices.models import Device
from backend.devices.rules import digest, read_code
from backend.directory.models import WebSession
from backend.errors import Denied
from backend.events import move

SEEN_EVERY = timedelta(minutes=1)  # `seen_at` is written no oftener
TOKEN_BYTES = 32


@dataclass(frozen=True)
class DeviceFacts:
    """An enrolled device as sign-in, the kiosk and the broker want to know it."""

    id: UUID
    name: str
    group_id: UUID | None
    pool_id: UUID | None
    auto_launch: bool
    protocols: tuple[str, ...]


def enroll(tx: Tx, code: str, *, address: str, now: datetime) -> tuple[DeviceFacts, str]:
    """Redeem a one-time code: the device and its token, 256 random bits that are told only here. `Denied` otherwise."""
    device = tx.scalars(sa.select(Device).where(Device.code_hash == digest(read_code(code))).with_for_update()).first()
    if device is None or device.code_until is None or device.code_until <= now:
        raise Denied("bad_token", "This code is unknown, was used already, or has run out. Ask your administrator for a new one.")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    move(tx, device, "enroll", token_hash=digest(token), code_hash=None, code_until=None, enrolled_at=now, seen_at=now,
         address=address)
    return facts_of(device), token


def find(tx: Tx, token: str, *, address: str, now: datetime) -> DeviceFacts | None:
    """The enrolled device of this token, seen now from this address; None for any other token."""
    device = tx.scalars(sa.select(Device).where(Device.token_hash == digest(token), Device.state == "enrolled")).first()
    if device is None:
        return None
    if device.address != address or device.seen_at is None or now - device.seen_at >= SEEN_EVERY:
        tx.execute(sa.update(Device).where(Device.id == device.id).values(seen_at=now, address=address)
                   .execution_options(synchronize_session=False))
        touch(tx, "device", device.id)
    return facts_of(device)


def of_session(tx: Tx, session_id: UUID) -> DeviceFacts | None:
    """The enrolled device at which this session was begun."""
    here = sa.select(Device).join(WebSession, WebSession.device_id == Device.id)
    device = tx.scalars(here.where(WebSession.id == session_id, Device.state == "enrolled")).first()
    return facts_of(device) if device else None


def facts_of(device: Device) -> DeviceFacts:
    """The row as plain data."""
    return DeviceFacts(device.id, device.name, device.group_id, device.pool_id, device.auto_launch, tuple(device.protocols))
