"""Thin clients: announced, enrolled once, revoked; who may sign in there."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.db import Tx
from backend.devices import enrolling
from backend.devices.commands import CreateDevice, EditDevice, RemoveDevice, RenewDevice, RevokeDevice
from backend.devices.models import Device
from backend.devices.rules import digest, new_code, read_code
from backend.directory import signin
from backend.directory.facts import Proof
from backend.directory.models import User, WebSession
from backend.directory.names import Login
from backend.errors import Denied, Impossible, Invalid, NotFound
from backend.events import Event
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from sim import make
from sim.make import NOW

ADDRESS = "192.0.2.7"


def create(tx: Tx, name: str = "Ward 3", **fields: object) -> tuple[UUID, str]:
    code = new_code()
    task = submit(tx, CreateDevice(name, digest(read_code(code)).hex(), **fields), SYSTEM, NOW)  # type: ignore[arg-type]
    return UUID(task.result["id"]), code


def ends(tx: Tx, user: User, device: Device | None, *, client: str = "browser") -> signin.SignedIn | signin.Turned:
    """What becomes of a right password at this device."""
    facts = enrolling.facts_of(device) if device else None
    attempt = signin.Attempt(Login(user.name), "internal", ADDRESS, user.id, user.password_hash)
    return signin.finish(tx, attempt, Proof(), client=client, address=ADDRESS, now=NOW, device=facts)


def test_a_code_is_good_once_and_only_hashes_are_kept(tx: Tx) -> None:
    id, code = create(tx)
    facts, token = enrolling.enroll(tx, code.lower().replace("-", " "), address=ADDRESS, now=NOW)
    assert (facts.id, facts.name) == (id, "Ward 3")
    device = tx.get_one(Device, id)
    assert (device.state, device.code_hash, device.token_hash) == ("enrolled", None, digest(token))
    with pytest.raises(Denied):
        enrolling.enroll(tx, code, address=ADDRESS, now=NOW)
    assert enrolling.find(tx, token, address=ADDRESS, now=NOW) == facts
    assert enrolling.find(tx, token + "x", address=ADDRESS, now=NOW) is None
    said = str(tx.execute(sa.select(Task.args, Task.result, Task.title)).all() + tx.scalars(sa.select(Event.sentence)).all())
    assert code not in said and read_code(code) not in said and token not in said


def test_a_code_runs_out(tx: Tx) -> None:
    _, code = create(tx)
    with pytest.raises(Denied, match="run out"):
        enrolling.enroll(tx, code, address=ADDRESS, now=NOW + timedelta(hours=24))


def test_seen_is_written_once_a_minute_or_from_a_new_address(tx: Tx) -> None:
    device = make.a_device(tx, token="t", address=ADDRESS)
    for after_s, address, seen_s in ((30, ADDRESS, 0), (60, ADDRESS, 60), (61, "192.0.2.8", 61)):
        enrolling.find(tx, "t", address=address, now=NOW + timedelta(seconds=after_s))
        tx.refresh(device)
        assert (device.seen_at, device.address) == (NOW + timedelta(seconds=seen_s), address)


@pytest.mark.parametrize("command", ["revoke", "renew", "remove"])
def test_a_device_that_is_trusted_no_more_is_known_no_more_and_its_person_is_signed_out(tx: Tx, command: str) -> None:
    device = make.a_device(tx, token="t")
    session = make.a_session(tx, make.a_user(tx), device_id=device.id)
    wanted = {"revoke": RevokeDevice(device.id), "renew": RenewDevice(device.id, "00" * 32), "remove": RemoveDevice(device.id)}
    submit(tx, wanted[command], SYSTEM, NOW)
    assert enrolling.find(tx, "t", address=ADDRESS, now=NOW) is None
    assert tx.scalar(sa.select(WebSession.ended_at).where(WebSession.id == session.id)) == NOW
    assert enrolling.of_session(tx, session.id) is None


def test_a_revoked_device_comes_back_by_a_new_code_alone(tx: Tx) -> None:
    device = make.a_device(tx, token="t")
    submit(tx, RevokeDevice(device.id), SYSTEM, NOW)
    with pytest.raises(Impossible):
        submit(tx, RevokeDevice(device.id), SYSTEM, NOW)
    submit(tx, RenewDevice(device.id, digest("0" * 16).hex()), SYSTEM, NOW)
    _, token = enrolling.enroll(tx, "0000-0000-0000-0000", address=ADDRESS, now=NOW)
    assert enrolling.find(tx, token, address=ADDRESS, now=NOW) is not None


def test_edit_changes_what_is_said_and_null_takes_away(tx: Tx) -> None:
    pool, group = make.a_pool(tx), make.a_group(tx)
    id, _ = create(tx, pool_id=pool.id, group_id=group.id, protocols=("spice",))
    submit(tx, EditDevice(id, description="by the window"), SYSTEM, NOW)
    device = tx.get_one(Device, id)
    assert (device.pool_id, device.group_id, device.protocols) == (pool.id, group.id, ["spice"])
    submit(tx, EditDevice(id, pool_id=None, group_id=None, protocols=(), auto_launch=False), SYSTEM, NOW)
    tx.refresh(device)
    assert (device.pool_id, device.group_id, device.protocols, device.auto_launch) == (None, None, [], False)
    said = tx.scalars(sa.select(Event.sentence).where(Event.code == "device.edited").order_by(Event.id)).all()
    assert said[-1] == "Leasehold changed the device Ward 3: group, pool, auto launch, protocols."


@pytest.mark.parametrize(
    "fields, refusal",
    [
        ({"name": " "}, Invalid),
        ({"name": "Ward 3"}, Invalid),
        ({"protocols": ("telnet",)}, Invalid),
        ({"pool_id": UUID(int=7)}, NotFound),
        ({"group_id": UUID(int=7)}, NotFound),
    ],
)
def test_what_makes_no_sense_is_refused(tx: Tx, fields: dict, refusal: type[Exception]) -> None:
    create(tx)
    with pytest.raises(refusal):
        create(tx, **{"name": "Another", **fields})


def test_a_groups_device_takes_its_people_alone_and_that_is_no_wrong_password(tx: Tx) -> None:
    nurses = make.a_group(tx, "Nurses")
    device = make.a_device(tx, "Ward 3", token="t", group_id=nurses.id)
    nina, otto = make.a_user(tx, "nina", groups=[nurses]), make.a_user(tx, "otto")
    signed = ends(tx, nina, device)
    assert isinstance(signed, signin.SignedIn) and signed.facts.device_id == device.id
    assert enrolling.of_session(tx, signed.session_id).id == device.id
    turned = ends(tx, otto, device)
    assert isinstance(turned, signin.Turned) and turned.refusal.code == "not_your_device"
    assert "for the people of Nurses" in turned.refusal.message
    assert isinstance(ends(tx, otto, None), signin.SignedIn)  # elsewhere they may


def test_who_signs_in_at_a_device_finds_nobody_signed_in_there(tx: Tx) -> None:
    device = make.a_device(tx, token="t")
    first, second = make.a_user(tx), make.a_user(tx)
    before, program = ends(tx, first, device), ends(tx, first, device, client="api")
    ends(tx, second, device)
    ended = {row.id: row.ended_at for row in tx.execute(sa.select(WebSession.id, WebSession.ended_at))}
    assert ended[before.session_id] == NOW and ended[program.session_id] is None
