"""Announce, edit, renew, revoke and remove thin clients."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from backend.changes import touch
from backend.db import Tx, get
from backend.devices.machine import DEVICE
from backend.devices.models import Device
from backend.devices.rules import CODE_LASTS
from backend.directory import sessions
from backend.directory.models import Group
from backend.errors import Invalid, NotFound
from backend.events import move, record
from backend.tasks.command import Actor, Plain
from hostapi.types import Protocol

SHOWN: tuple[str, ...] = get_args(Protocol)  # what a device may be held to


@dataclass(frozen=True)
class CreateDevice(Plain):
    """Announce a thin client: it may enroll within a day with the one-time code whose SHA-256 is given."""

    device_name: str
    code_sha256: str
    description: str = ""
    group_id: UUID | None = None
    pool_id: UUID | None = None
    auto_launch: bool = True
    protocols: tuple[str, ...] = ()
    name, permission = "device.create", "device.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "system", None

    def title(self, tx: Tx) -> str:
        return f"Add device {self.device_name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"device-name:{self.device_name}"]

    def check(self, tx: Tx) -> None:
        _require_name(tx, self.device_name, None)
        _require(tx, self.group_id, self.pool_id, self.protocols)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        device = Device(
            name=self.device_name.strip(), description=self.description, group_id=self.group_id, pool_id=self.pool_id,
            auto_launch=self.auto_launch, protocols=list(self.protocols), state=DEVICE.initial,
            code_hash=bytes.fromhex(self.code_sha256), code_until=now + CODE_LASTS, created_at=now,
        )
        tx.add(device)
        tx.flush()
        record(tx, "device.created", device, actor=actor.name, until=f"{device.code_until:%Y-%m-%d %H:%M} UTC")
        touch(tx, "device", device.id)
        return {"id": str(device.id)}


class _OnDevice(Plain):
    device_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "device", self.device_id

    def title(self, tx: Tx) -> str:
        return f"{self.verb} device {get(tx, Device, self.device_id).name}"


@dataclass(frozen=True)
class EditDevice(_OnDevice):
    """Change a device; what is left out stays, and null takes a group or pool away."""

    device_id: UUID
    device_name: str | None = None
    description: str | None = None
    group_id: UUID | None | UnsetType = UNSET
    pool_id: UUID | None | UnsetType = UNSET
    auto_launch: bool | None = None
    protocols: tuple[str, ...] | None = None
    name, permission, verb = "device.edit", "device.edit", "Edit"

    def check(self, tx: Tx) -> None:
        device = get(tx, Device, self.device_id)
        if self.device_name is not None:
            _require_name(tx, self.device_name, device.id)
        _require(tx, self.group_id, self.pool_id, self.protocols or ())

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        device = get(tx, Device, self.device_id, lock=True)
        before = device.group_id
        changed = []
        for field in ("device_name", "description", "group_id", "pool_id", "auto_launch", "protocols"):
            value = getattr(self, field)
            if value is UNSET or (value is None and not field.endswith("_id")):
                continue
            value = list(value) if isinstance(value, tuple) else value.strip() if isinstance(value, str) else value
            column = field.removeprefix("device_")
            if getattr(device, column) != value:
                setattr(device, column, value)
                changed.append(column.removesuffix("_id").replace("_", " "))
        if changed:
            record(tx, "device.edited", device, actor=actor.name, what=", ".join(changed))
            touch(tx, "device", device.id)
        if device.group_id != before:  # who is signed in there may not belong there any more
            sessions.end_of_device(tx, device.id, now)


@dataclass(frozen=True)
class RenewDevice(_OnDevice):
    """Give a device a new one-time code, whose SHA-256 is given; its token is worth nothing from now on."""

    device_id: UUID
    code_sha256: str
    name, permission, verb = "device.renew", "device.edit", "Renew"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        device = get(tx, Device, self.device_id, lock=True)
        until = now + CODE_LASTS
        move(tx, device, "renew", token_hash=None, code_hash=bytes.fromhex(self.code_sha256), code_until=until,
             words={"actor": actor.name, "until": f"{until:%Y-%m-%d %H:%M} UTC"})
        sessions.end_of_device(tx, device.id, now)
        return {"id": str(device.id)}


@dataclass(frozen=True)
class RevokeDevice(_OnDevice):
    """Trust a device no more: its token and code are worth nothing, and who is signed in there is signed out."""

    device_id: UUID
    name, permission, verb = "device.revoke", "device.edit", "Revoke"

    def check(self, tx: Tx) -> None:
        device = get(tx, Device, self.device_id)
        DEVICE.next(device.state, "revoke", device.name)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        device = get(tx, Device, self.device_id, lock=True)
        move(tx, device, "revoke", token_hash=None, code_hash=None, code_until=None, words={"actor": actor.name})
        sessions.end_of_device(tx, device.id, now)


@dataclass(frozen=True)
class RemoveDevice(_OnDevice):
    """Forget a device, the sessions at it and the access rules about it."""

    device_id: UUID
    name, permission, verb = "device.remove", "device.edit", "Remove"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        device = get(tx, Device, self.device_id, lock=True)
        sessions.end_of_device(tx, device.id, now)
        record(tx, "device.removed", device, actor=actor.name)
        touch(tx, "device", device.id)
        tx.delete(device)
        tx.flush()


def _require_name(tx: Tx, name: str, but: UUID | None) -> None:
    if not 1 <= len(name.strip()) <= 60 or not name.isprintable():
        raise Invalid("bad_name", "A device's name has between 1 and 60 characters.", fields=["device_name"])
    other = tx.scalar(sa.select(Device.id).where(Device.name == name.strip()))
    if other is not None and other != but:
        raise Invalid("name_taken", f"There is already a device named {name.strip()}; choose another name.",
                      fields=["device_name"])


def _require(tx: Tx, group_id: Any, pool_id: Any, protocols: tuple[str, ...]) -> None:
    """`Invalid` or `NotFound` unless group, pool and protocols exist. Pools are of a higher floor: known by table name."""
    if group_id:
        get(tx, Group, group_id)
    pool = sa.table("pool", sa.column("id"))
    if pool_id and tx.scalar(sa.select(pool.c.id).where(pool.c.id == pool_id)) is None:
        raise NotFound("not_found", f"There is no pool with the id {pool_id}.", kind="pool", id=str(pool_id))
    if unknown := [p for p in protocols if p not in SHOWN]:
        raise Invalid("bad_protocol", f"“{unknown[0][:40]}” is no protocol of a desktop: {', '.join(SHOWN)}.",
                      fields=["protocols"])
