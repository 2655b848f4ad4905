"""The page of thin clients: enroll, sign in, straight to a desktop, and nothing left behind."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from backend.devices.models import Device
from backend.devices.rules import digest
from backend.directory.models import Group, Membership, WebSession
from portal.auth import COOKIE as SESSION
from portal.devices import COOKIE
from sim import make
from tests.web.place import BASE, PASSWORD, Place

place = pytest.fixture(lambda undone_place: undone_place)


class Terminal:
    """A browser on a thin client: sends forms as their page gave them."""

    def __init__(self, place: Place, token: str | None = "the token of Ward 3") -> None:
        self.client = place.app.test_client()
        if token:
            self.client.set_cookie(COOKIE, token, domain="leasehold.test", secure=True, path="/")

    def get(self, path: str, **known: Any) -> TestResponse:
        return self.client.get(path, base_url=BASE, **known)

    def send(self, path: str, **form: str) -> TestResponse:
        page = self.get("/kiosk", follow_redirects=True).text
        secret = re.search(r'name="csrf-token" content="([^"]+)"', page)
        assert secret, page[:300]
        return self.client.post(path, base_url=BASE, data={"csrf_token": secret[1], **form})

    def sign_in(self, name: str = "alice") -> TestResponse:
        return self.send("/kiosk/sign-in", user=name, password=PASSWORD)


def device(place: Place, **fields: Any) -> None:
    with place.parts.sessions.begin() as tx:
        tx.execute(sa.update(Device).where(Device.id == place.ids["device"]).values(**fields))


def test_a_browser_becomes_the_device_by_its_code_once(place: Place) -> None:
    device(place, state="announced", token_hash=None, code_hash=digest("K7QF2M9XAAAA0000"),
           code_until=place.clock.now().replace(year=2099))
    browser = Terminal(place, token=None)
    assert browser.get("/kiosk").location == "/kiosk/enroll"
    wrong = browser.send("/kiosk/enroll", code="nonsense")
    assert wrong.status_code == 403 and "Ask your administrator for a new one" in wrong.text and 'value="nonsense"' in wrong.text
    right = browser.send("/kiosk/enroll", code="k7qf 2m9x aaaa oooo")
    assert (right.status_code, right.location) == (303, "/kiosk")
    [cookie] = [c for c in right.headers.getlist("Set-Cookie") if c.startswith(COOKIE)]
    assert all(mark in cookie for mark in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"))
    assert "Ward 3" in browser.get("/kiosk").text
    assert Terminal(place, token=None).send("/kiosk/enroll", code="K7QF2M9XAAAA0000").status_code == 403


def test_straight_to_the_devices_pool_and_back_with_nothing_left(place: Place) -> None:
    device(place, pool_id=place.ids["pool"])
    browser = Terminal(place)
    inside = browser.sign_in()
    assert inside.location == f"/kiosk/desktops/{place.ids['pool']}"
    page = browser.get(inside.location)
    assert page.status_code == 200 and page.headers["Cache-Control"] == "no-store" and "data-endless" in page.text
    assert "'unsafe" not in page.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?! src)| style=| on\w+=", page.text)
    token = browser.client.get_cookie(SESSION, domain="leasehold.test").value
    gone = browser.send("/kiosk/sign-out")
    assert gone.location == "/kiosk" and gone.headers["Clear-Site-Data"] == '"storage"'
    browser.client.set_cookie(SESSION, token, domain="leasehold.test", secure=True, path="/")  # as if it had been kept
    assert browser.get(inside.location).location == "/kiosk"
    prompt = browser.get("/kiosk")
    assert prompt.status_code == 200 and "alice" not in prompt.text and "You are signed out" in prompt.text


def test_without_a_pool_of_its_own_the_few_desktops_are_shown_with_reasons(place: Place) -> None:
    with place.parts.sessions.begin() as tx:
        make.an_access_rule(tx, "deny", pool_id=place.ids["pool"], position=0, sentence="Only in the office.")
    browser = Terminal(place)
    assert browser.sign_in().location == "/kiosk/desktops"
    page = browser.get("/kiosk/desktops").text
    assert "Only in the office." in page and f"/kiosk/desktops/{place.ids['own_vm']}/connect" in page
    assert f"/kiosk/desktops/{place.ids['pool']}/connect" not in page
    refused = browser.send(f"/kiosk/desktops/{place.ids['pool']}/connect")
    assert refused.location == "/kiosk/desktops" and "Only in the office." in browser.get("/kiosk/desktops").text


def test_giving_back_signs_out(place: Place) -> None:
    browser = Terminal(place)
    browser.sign_in()
    back = browser.send(f"/kiosk/desktops/{place.ids['pool']}/give-back")
    part = browser.get(f"/kiosk/desktops/{place.ids['pool']}/progress", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["HX-Refresh"]) == (204, "true")  # a page still open eats no sentence
    assert back.location == "/kiosk" and "given back, and you are signed out" in browser.get("/kiosk").text
    with place.parts.sessions() as tx:
        assert tx.scalar(sa.text("SELECT state FROM lease WHERE id = :id"), {"id": place.ids["lease"]}) == "returning"


def test_who_comes_next_ends_the_session_that_was_left(place: Place) -> None:
    first, second = Terminal(place), Terminal(place)
    first.sign_in()
    second.sign_in("root")
    assert first.get("/kiosk/desktops").location == "/kiosk"
    with place.parts.sessions() as tx:
        live = tx.scalars(sa.select(WebSession.user_id).where(
            WebSession.device_id == place.ids["device"], WebSession.ended_at.is_(None), WebSession.client == "browser")).all()
    assert live == [place.people["root"]]


def test_a_groups_device_tells_others_why_and_keeps_their_name(place: Place) -> None:
    device(place, group_id=place.ids["group"])
    browser = Terminal(place)
    said = browser.sign_in()
    assert said.status_code == 403 and "Ward 3 is for the people of Staff" in said.text and 'value="alice"' in said.text
    with place.parts.sessions.begin() as tx:
        tx.add(Membership(user_id=place.people["alice"], group_id=tx.get_one(Group, place.ids["group"]).id))
    assert browser.sign_in().status_code == 303


def test_a_revoked_device_is_a_browser_like_any_other(place: Place) -> None:
    browser = Terminal(place)
    browser.sign_in()
    place.as_("root").post(f"/api/v1/devices/{place.ids['device']}/revoke")
    assert browser.get("/kiosk/pulse").status_code == 403
    assert browser.get("/kiosk/desktops").location == "/kiosk/enroll"
    assert browser.get("/").location.startswith("/sign-in")


def test_a_session_of_another_place_is_none_at_the_device(place: Place) -> None:
    browser = place.browser("alice")
    browser.client.set_cookie(COOKIE, "the token of Ward 3", domain="leasehold.test", secure=True, path="/")
    assert browser.get("/kiosk/desktops").location == "/kiosk"
    assert browser.get("/kiosk").status_code == 200


def test_forms_from_elsewhere_count_for_nothing(place: Place) -> None:
    browser = Terminal(place)
    said = browser.client.post("/kiosk/sign-in", base_url=BASE, data={"user": "alice", "password": PASSWORD})
    assert said.status_code == 403 and f"{SESSION}=" not in str(said.headers)
