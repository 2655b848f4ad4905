"""REST: announce thin clients and let them enroll; the question whether somebody would be let in from somewhere."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from uuid import UUID

import msgspec
from flask import Response, request

from backend.db import get
from backend.devices import enrolling
from backend.devices.commands import CreateDevice, RenewDevice
from backend.devices.models import Device
from backend.devices.rules import CODE_LASTS, digest, new_code, read_code
from backend.directory import rights
from backend.tasks.submit import submit
from broker import asking
from portal.api_hosts import counted
from portal.auth import actor
from portal.parts import parts
from portal.routes import Routes, answer, body, now, plain, read_uuid
from portal.transaction import tx

routes = Routes("devices")


class NewDevice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A thin client that will enroll within a day."""

    name: str
    description: str = ""
    group_id: UUID | None = None
    pool_id: UUID | None = None
    auto_launch: bool = True
    protocols: tuple[str, ...] = ()


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No fields."""


class Code(msgspec.Struct, forbid_unknown_fields=True):
    """A one-time code, however it was typed."""

    code: str


class Question(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Would this person, from this address, perhaps at this device, be let in to this pool?"""

    user_id: UUID
    pool_id: UUID
    address: str
    device_id: UUID | None = None


CODE = {"type": "object", "required": ["id", "code", "expires_at", "enroll", "sentence"], "properties": {
    "id": {"type": "string"}, "code": {"type": "string"}, "expires_at": {"type": "string", "format": "date-time"},
    "page": {"type": "string", "description": "where the code is typed in a browser"},
    "enroll": {"type": "string", "description": "what to run on the device"}, "sentence": {"type": "string"}}}
ENROLLED = {"type": "object", "required": ["device", "token"], "properties": {
    "token": {"type": "string"}, "device": {"type": "object", "properties": {
        "id": {"type": "string"}, "name": {"type": "string"}, "auto_launch": {"type": "boolean"},
        "protocols": {"type": "array", "items": {"type": "string"}}}}}}
VERDICT = {"type": "object", "required": ["allowed", "sentence", "protocols"], "properties": {
    "allowed": {"type": "boolean"}, "sentence": {"type": "string"}, "protocols": {"type": "array", "items": {"type": "string"}},
    "rule": {"type": "string"}, "from": {"type": "string"}, "looked": {"type": "array", "items": {"type": "object"}}}}


@routes.route("POST", "/devices", "Announce a device: answers the one-time code it enrolls with, told only here.",
              body=NewDevice, answers={201: CODE})
def device_create() -> Response:
    """The code stands in no row: only its SHA-256 does."""
    given = body(NewDevice)
    return answer(announce(given.name, {f: getattr(given, f) for f in given.__struct_fields__ if f != "name"}), 201)


@routes.route("POST", "/devices/<id>/renew", "A new one-time code for a device; its token is worth nothing from now on.",
              body=Nothing, answers={200: CODE})
def device_renew(id: str) -> Response:
    """For a device that lost its token or its code."""
    body(Nothing)
    return answer(renew(read_uuid(id, "device")))


@routes.route("POST", "/devices/enroll", "A device redeems its one-time code: answers its token, told only here.",
              signed_in=False, body=Code, answers={201: ENROLLED})
def device_enroll() -> Response:
    """The code is the right. Wrong ones are counted per address."""
    device, token = redeem(body(Code).code)
    return answer({"token": token, "device": {
        "id": str(device.id), "name": device.name, "auto_launch": device.auto_launch, "protocols": list(device.protocols)}}, 201)


@routes.route("POST", "/accessrules/test", "Would this person be let in to this pool from there? Nothing is changed or kept.",
              tag="accessrules", body=Question, answers={200: VERDICT})
def accessrule_test() -> Response:
    """What entitlement and rules say, and of each rule that was looked at what came of it."""
    given = body(Question)
    rights.require(tx(), actor(), "accessrule.see", "pool", given.pool_id, now())
    return answer(question(given.user_id, given.pool_id, given.address, given.device_id))


def announce(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Make the device; the answer has its code, for the one time that it can be read."""
    code = new_code()
    known = {f.name for f in fields(CreateDevice)}
    command = CreateDevice(name, _kept(code), **{k: v for k, v in given.items() if k in known})
    task = submit(tx(), command, actor(), now())
    assert task.result is not None
    return _code(UUID(task.result["id"]), name, code)


def renew(device_id: UUID) -> dict[str, Any]:
    """A new code for the device."""
    code = new_code()
    submit(tx(), RenewDevice(device_id, _kept(code)), actor(), now())
    return _code(device_id, get(tx(), Device, device_id).name, code)


def redeem(code: str) -> tuple[enrolling.DeviceFacts, str]:
    """The device of this code and its token; too many wrong codes from one address have to wait."""
    address = request.remote_addr or ""
    return counted(lambda: enrolling.enroll(tx(), code, address=address, now=now()))


def question(user_id: UUID, pool_id: UUID, address: str, device_id: UUID | None) -> dict[str, Any]:
    """The answer to the question, as JSON and pages tell it."""
    return asking.would(tx(), user_id=user_id, pool_id=pool_id, address=address, device_id=device_id, now=now())


def _kept(code: str) -> str:
    return digest(read_code(code)).hex()


def _code(id: UUID, name: str, code: str) -> dict[str, Any]:
    public = parts().settings.public_url
    return {
        "id": str(id), "code": code, "expires_at": plain(now() + CODE_LASTS), "page": f"{public}/kiosk/enroll",
        "enroll": f"leasehold --url {public} device enroll {code}",
        "sentence": f"Run this on {name}, or type {code} at {public}/kiosk/enroll in its browser, within a day; the code works "
        "once and is told only here:",
    }
