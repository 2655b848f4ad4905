"""Pages of the administration about access: add a device and show its code once, and try who would be let in from where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, make_response, render_template, request
from werkzeug.wrappers import Response as Answer

from backend.db import get
from backend.devices.commands import CreateDevice
from backend.devices.models import Device
from backend.directory.rights import require
from backend.errors import Invalid, Refused
from backend.search.query import MOST, page
from portal import api_devices, forms, views
from portal.auth import actor
from portal.collections import COLLECTIONS, found, listed, viewer
from portal.routes import convert
from portal.things import THINGS
from portal.transaction import rollback, tx
from portal.views import may_anywhere, now

pages = Blueprint("access", __name__, url_prefix="/admin")


@pages.route("/do/device.create", methods=["GET", "POST"])
def add_device() -> Answer | str:
    """Announce a thin client; the answer shows, once, the code it enrolls with."""
    require(tx(), actor(), CreateDevice.permission, "system", None, now())
    form = forms.form_of("device.create", CreateDevice, _options)
    if request.method == "POST":
        values = forms.read(form, request.form)
        if not forms.wrong(form):
            try:
                command = convert({**values, "code_sha256": ""}, CreateDevice)
                given = {name: getattr(command, name) for name in values if name != "device_name"}
                return _code_page(command.device_name, api_devices.announce(command.device_name, given))
            except Refused as no:
                rollback()
                form.blame(no.message, no.facts.get("fields"))
    shown = render_template(
        "admin/form.html", thing=THINGS["devices"], form=form, about={}, row=None, title="Add device",
        explain="Name it here; then type one code at it. It is known from then on, by a token of its own.",
        length=forms.as_length, units=forms.UNITS,
    )  # fmt: skip
    return make_response(shown, 422 if request.method == "POST" else 200)


@pages.post("/devices/<uuid:id>/renew")
def renew_device(id: UUID) -> Answer | str:
    """A new code, shown once; the device's token is worth nothing from now on."""
    return _code_page(get(tx(), Device, id).name, api_devices.renew(id))


@pages.get("/accessrules/test")
def test_rules() -> Answer | str:
    """Would this person be let in from there? Asked by the form, answered on the same page."""
    if not may_anywhere("accessrule.see"):
        require(tx(), actor(), "accessrule.see", "system", None, now())
    given, wrong, said = request.args, dict[str, str](), None
    if "address" in given:
        try:
            said = _asked(given)
        except Refused as no:
            rollback()
            wrong = dict.fromkeys(no.facts.get("fields") or ["form"], no.message)
    pools = [(row["id"], row["name"]) for row in listed(tx(), "pools", max=MOST).items]
    devices = [(row["id"], row["name"]) for row in listed(tx(), "devices", max=MOST).items]
    shown = render_template(
        "admin/access_test.html", thing=THINGS["accessrules"], given=given, wrong=wrong, said=said, pools=pools, devices=devices
    )
    return make_response(shown, 422 if wrong else 200)


def _asked(given: Any) -> dict[str, Any]:
    name = given.get("user", "").strip()
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    # who runs a pool may ask about anybody, as they may entitle anybody
    everybody = replace(COLLECTIONS["users"], visible=lambda _: sa.true())
    people = page(tx(), everybody, viewer(tx()), search=f'full_name = "{quoted}"', max=2).items if name else []
    if len(people) != 1:
        raise Invalid("no_such_user", f"Nobody is known here as “{name[:60]}”: write alice or alice@corp.example.",
                      fields=["user"])
    pool = found(tx(), "pools", given.get("pool_id", ""))
    device = found(tx(), "devices", given["device_id"]) if given.get("device_id") else None
    require(tx(), actor(), "accessrule.see", "pool", UUID(pool["id"]), now())
    return api_devices.question(
        UUID(people[0]["id"]), UUID(pool["id"]), given.get("address", ""), UUID(device["id"]) if device else None
    )


def beside(kind: str) -> dict[str, Any]:
    """What a detail page of this kind shows besides facts and parts."""
    return {"may_renew": kind == "device" and views.may_anywhere("device.edit")}


def _options(plural: str, search: str) -> tuple[tuple[str, str], ...]:
    return tuple((row["id"], row["name"]) for row in listed(tx(), plural, search=search, max=MOST).items)


def _code_page(name: str, told: dict[str, Any]) -> str:
    return render_template("admin/code.html", name=name, told=told, thing=THINGS["devices"])
