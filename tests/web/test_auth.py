"""Sign in and out: tokens, cookies, forged forms, sessions that end."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.directory import sessions as signed_in
from backend.directory import throttle
from backend.directory.commands import EditUser
from backend.directory.models import Throttle
from backend.events import Event
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from backend.vms.models import Vm
from portal.auth import COOKIE
from tests.conftest import ToldClock
from tests.web.place import BASE, PASSWORD, Place, form_secret


def test_sign_in_answers_a_token_that_works_until_it_is_ended(place: Place) -> None:
    nobody = place.as_(None)
    said = nobody.post("/api/v1/session", {"user": "alice", "password": PASSWORD})
    assert said.status_code == 201
    told = said.get_json()
    assert set(told) == {"token", "expires_at", "user", "auto_launch"}
    assert told["user"] == {"id": str(place.people["alice"]), "name": "alice", "display_name": "Alice"}
    assert told["auto_launch"] is None
    assert "Set-Cookie" not in said.headers
    bearer = {"Authorization": f"Bearer {told['token']}"}
    assert nobody.get("/api/v1/me", headers=bearer).get_json()["name"] == "alice"
    assert nobody.delete("/api/v1/session", headers=bearer).status_code == 204
    over = nobody.get("/api/v1/me", headers=bearer)
    assert (over.status_code, over.get_json()["error"]["code"]) == (401, "not_signed_in")
    assert over.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_wrong_password_and_an_unknown_name_are_told_alike_and_throttled(place: Place) -> None:
    nobody = place.as_(None)
    told = {name: nobody.post("/api/v1/session", {"user": name, "password": "wrong"}) for name in ("alice", "nobody")}
    assert {r.status_code for r in told.values()} == {401}
    assert told["alice"].get_json()["error"] == told["nobody"].get_json()["error"]
    for _ in range(5):
        last = nobody.post("/api/v1/session", {"user": "alice", "password": "wrong"})
    assert last.status_code == 429
    assert int(last.headers["Retry-After"]) >= 1
    right = nobody.post("/api/v1/session", {"user": "alice", "password": PASSWORD})
    assert right.status_code == 429, "who knows the password by now waits like everybody"


@pytest.mark.parametrize("trusted, addresses", [("", {"127.0.0.1"}), ("127.0.0.1", {"203.0.113.5", "203.0.113.6"})])
def test_throttling_and_events_see_the_persons_address(
    sessions: Sessions, clock: ToldClock, trusted: str, addresses: set[str]
) -> None:
    """Behind a proxy that is named, everybody for himself; a header from anybody else is not even looked at."""
    place = Place(sessions, clock, trusted_proxies=trusted)
    nobody = place.as_(None)
    for last in (5, 6):
        said = nobody.post("/api/v1/session", {"user": "nobody", "password": "wrong"},
                           headers={"X-Forwarded-For": f"198.51.100.1, 203.0.113.{last}"})
        assert said.status_code == 401
    with place.sessions() as tx:
        counted = set(tx.scalars(sa.select(Throttle.key)))
        told = tx.scalars(sa.select(Event.sentence).where(Event.code == "user.sign_in_failed")).all()
    assert {throttle.address_key(address) for address in addresses} <= counted
    assert "198.51.100.1" not in str(told) and all(address in str(told) for address in addresses)


def test_auto_launch_is_told_once_a_session_to_who_has_one_desktop(place: Place) -> None:
    with place.sessions.begin() as tx:
        tx.delete(tx.get_one(Vm, place.ids["own_vm"]))
        submit(tx, EditUser(place.people["alice"], auto_launch=True), SYSTEM, place.clock.now())
    told = place.as_(None).post("/api/v1/session", {"user": "alice", "password": PASSWORD}).get_json()
    assert told["auto_launch"] == {"desktop": str(place.ids["pool"])}


def test_the_cookie_is_kept_from_scripts_and_other_sites(place: Place) -> None:
    client = place.app.test_client()
    secret = form_secret(client)
    said = client.post("/sign-in", base_url=BASE, data={"user": "alice", "password": PASSWORD, "csrf_token": secret})
    assert said.status_code == 303
    cookie = next(c for c in said.headers.getlist("Set-Cookie") if c.startswith(COOKIE + "="))
    for word in ("Secure", "HttpOnly", "Path=/", "SameSite=Lax"):
        assert word in cookie
    assert "Domain" not in cookie
    assert client.get("/api/v1/me", base_url=BASE).get_json()["name"] == "alice"


def test_signing_in_needs_our_own_form(place: Place) -> None:
    said = place.app.test_client().post("/sign-in", base_url=BASE, data={"user": "alice", "password": PASSWORD})
    assert said.status_code == 403
    assert f"{COOKIE}=" not in str(said.headers.getlist("Set-Cookie"))


def test_the_form_secret_changes_with_the_sign_in(place: Place) -> None:
    client = place.app.test_client()
    before = form_secret(client)
    client.post("/sign-in", base_url=BASE, data={"user": "alice", "password": PASSWORD, "csrf_token": before})
    old = client.post("/sign-out", base_url=BASE, data={"csrf_token": before})
    assert old.status_code == 403


def change(place: Place) -> str:
    return f"/api/v1/leases/{place.ids['lease']}/extend"


def test_a_change_by_cookie_needs_the_form_secret(place: Place) -> None:
    alice = place.browser("alice")
    secret = alice.headers.pop("X-CSRFToken")
    for headers in ({}, {"X-CSRFToken": "wrong"}, {"X-CSRFToken": secret, "Sec-Fetch-Site": "cross-site"}):
        said = alice.post(change(place), headers=headers)
        assert (said.status_code, said.get_json()["error"]["code"]) in ((403, "csrf"), (403, "cross_site"))
    assert alice.get("/api/v1/me").status_code == 200, "reading needs none"
    assert alice.post(change(place), headers={"X-CSRFToken": secret}).status_code == 200


def test_another_sessions_form_secret_is_worth_nothing(place: Place) -> None:
    alice, bob = place.browser("alice"), place.browser("bob")
    said = alice.post(change(place), headers={"X-CSRFToken": bob.headers["X-CSRFToken"]})
    assert (said.status_code, said.get_json()["error"]["code"]) == (403, "csrf")


def test_a_bearer_needs_no_form_secret_even_beside_a_cookie(place: Place) -> None:
    bob = place.browser("bob")
    del bob.headers["X-CSRFToken"]
    bob.token = place.tokens["alice"]
    assert bob.post(change(place)).status_code == 200


def test_a_bad_bearer_is_not_saved_by_a_good_cookie(place: Place) -> None:
    alice = place.browser("alice")
    assert alice.get("/api/v1/me", headers={"Authorization": "Bearer nonsense"}).status_code == 401


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "Bearer \x7f", "bearer é"])
def test_odd_authorization_is_nobody(place: Place, header: str) -> None:
    assert place.as_(None).get("/api/v1/me", headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize("how", ["ended by root", "everywhere", "disabled", "expired"])
def test_a_session_that_is_taken_away_ends_at_once(place: Place, how: str) -> None:
    alice, root = place.as_("alice"), place.as_("root")
    assert alice.get("/api/v1/me").status_code == 200
    if how == "ended by root":
        assert root.post(f"/api/v1/sessions/{place.session_ids['alice']}/end").status_code == 204
    elif how == "everywhere":
        assert root.post(f"/api/v1/users/{place.people['alice']}/sign_out").status_code == 202
    elif how == "disabled":
        assert root.post(f"/api/v1/users/{place.people['alice']}/edit", {"enabled": False}).status_code == 202
    else:
        place.clock.time += signed_in.LASTS["api"] + timedelta(seconds=1)
    assert alice.get("/api/v1/me").status_code == 401


def test_who_asks_for_a_page_is_led_to_the_sign_in_page_and_back(place: Place) -> None:
    said = place.as_(None).get("/account?x=1")
    assert said.status_code == 303
    assert said.headers["Location"] == "/sign-in?next=/account?x%3D1"
