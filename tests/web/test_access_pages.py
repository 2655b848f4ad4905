"""Pages about devices and access rules: a code is shown once, forms lose nothing, an emptied choice is taken away."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from backend.devices.models import Device
from backend.devices.rules import digest, read_code
from backend.tasks.models import Task
from broker.models import AccessRule
from pools.models import Decision
from sim import make
from tests.web.place import Place
from tests.web.test_admin_pages import follow, submit

place = pytest.fixture(lambda undone_place: undone_place)


def test_a_device_is_added_and_its_code_is_shown_once(place: Place) -> None:
    root = place.browser("root")
    form = root.get("/admin/do/device.create").text
    assert "Straight to a desktop of" in form and "code_sha256" not in form
    said = submit(root, "/admin/do/device.create", device_name="Lab 1", pool_id=str(place.ids["pool"]), protocols="spice")
    code = re.search(r'id="code">([0-9A-Z-]+)<', said.text)
    assert said.status_code == 200 and code and said.headers["Cache-Control"] == "no-store"
    with place.parts.sessions() as tx:
        made = tx.scalars(sa.select(Device).where(Device.name == "Lab 1")).one()
        assert (made.pool_id, made.protocols, made.auto_launch) == (place.ids["pool"], ["spice"], False)
        assert made.code_hash == digest(read_code(code[1]))
        assert code[1] not in str(tx.execute(sa.select(Task.args, Task.result)).all())
    assert code[1] not in root.get(f"/admin/devices/{made.id}").text
    wrong = submit(root, "/admin/do/device.create", device_name="Lab 1", description="kept")
    assert wrong.status_code == 422 and "already a device named Lab 1" in wrong.text and 'value="kept"' in wrong.text


def test_an_emptied_choice_takes_the_pool_away(place: Place) -> None:
    root, id = place.browser("root"), str(place.ids["device"])
    shown = {"asked": "1", "device_id": id, "device_name": "Ward 3", "auto_launch": "on"}
    submit(root, "/admin/do/device.edit", **shown, pool_id=str(place.ids["pool"]))
    assert f'<option value="{place.ids["pool"]}" selected' in root.get(f"/admin/do/device.edit?device_id={id}").text
    page = follow(root, submit(root, "/admin/do/device.edit", **shown, pool_id=""))
    with place.parts.sessions() as tx:
        assert tx.get_one(Device, place.ids["device"]).pool_id is None
    assert "Ward 3" in page or "done" in page


def test_a_new_code_by_its_button(place: Place) -> None:
    root, id = place.browser("root"), place.ids["device"]
    assert f"/admin/devices/{id}/renew" in root.get(f"/admin/devices/{id}").text
    assert 'id="code"' in submit(root, f"/admin/devices/{id}/renew").text
    assert f"/admin/devices/{id}/renew" not in place.browser("auditor").get(f"/admin/devices/{id}").text


def test_rules_by_forms_and_buttons(place: Place) -> None:
    root = place.browser("root")
    wrong = submit(root, "/admin/do/accessrule.create", asked="1", rule_name="Office", effect="allow", network="home")
    assert wrong.status_code == 422 and "“home” is no network" in wrong.text and 'value="Office"' in wrong.text
    page = follow(root, submit(root, "/admin/do/accessrule.create", asked="1", rule_name="Office", effect="deny",
                               network="10.1.2.3/16", sentence="No."))
    assert "10.1.0.0/16" in page and "What the person reads" in page
    with place.parts.sessions() as tx:
        id = str(tx.scalars(sa.select(AccessRule.id).where(AccessRule.name == "Office")).one())
    follow(root, submit(root, "/admin/do/accessrule.move", accessrule_id=id, by="-1"))
    names = re.findall(r'href="/admin/accessrules/[0-9a-f-]{36}">([^<]+)</a>', root.get("/admin/accessrules").text)
    assert names == ["Office", "From everywhere"]


def test_who_would_be_let_in(place: Place) -> None:
    with place.parts.sessions.begin() as tx:
        make.an_access_rule(tx, "deny", name="Not at home", network="203.0.113.0/24", position=0, sentence="Come in.")
    ask = f"/admin/accessrules/test?pool_id={place.ids['pool']}"
    keeper = place.browser("keeper")
    assert "Yes: alice from 10.1.2.3 would be let in" in keeper.get(f"{ask}&user=alice&address=10.1.2.3").text
    no = keeper.get(f"{ask}&user=alice&address=203.0.113.9").text
    assert "would not be let in: Come in." in no and "Not at home" in no
    assert "bob is not entitled to Desktops now" in keeper.get(f"{ask}&user=bob&address=10.1.2.3").text
    nobody = keeper.get(f"{ask}&user=nobody&address=10.1.2.3")
    assert nobody.status_code == 422 and "Nobody is known here as “nobody”" in nobody.text
    assert "is no address" in keeper.get(f"{ask}&user=alice&address=home").text


def test_a_blocked_card_a_refusal_and_its_decision(place: Place) -> None:
    with place.parts.sessions.begin() as tx:
        make.an_access_rule(tx, "deny", name="Shut", position=0, sentence="Not from here.")
    alice = place.browser("alice")
    page = alice.get("/").text
    assert "Not from here." in page and f"/desktops/{place.ids['pool']}/connect" not in page and "/screens/" not in page
    said = place.as_("alice").post(f"/api/v1/me/desktops/{place.ids['pool']}/connect")
    assert (said.status_code, said.get_json()["error"]["code"]) == (403, "not_from_here")
    assert place.as_("alice").get(f"/api/v1/vms/{place.ids['vm']}/screen").get_json()["error"]["code"] == "not_found"
    with place.parts.sessions() as tx:
        id = tx.scalars(sa.select(Decision.id).where(Decision.outcome == "refused")).one()
    assert "“Shut” denies it" in place.browser("keeper").get(f"/admin/decisions/{id}").text
