"""Requests that nobody with good intentions sends: each is told in a sentence, none is a bug, none gets in."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import sqlalchemy as sa

from backend.directory.models import WebSession
from sim import make
from tests.web.place import BASE, PASSWORD, Place, form_secret

WHERE = ["/\t/evil.example", "/\n/evil.example", "/\r/evil.example", "//evil.example", "/\\evil.example", "/\t\\evil.example",
         "https://evil.example", "\t//evil.example", "/%09/evil.example"]


def leads_away(location: str) -> bool:
    # browsers drop tabs and line ends, and read a backslash as a slash
    plain = "".join(c for c in location if c not in "\t\r\n").replace("\\", "/").strip()
    return not plain.startswith("/") or plain.startswith("//")


@pytest.mark.parametrize("where", WHERE)
def test_nobody_is_led_away_after_the_sign_in(undone_place: Place, where: str) -> None:
    client = undone_place.app.test_client()
    secret = form_secret(client)
    said = client.post("/sign-in", base_url=BASE, data={
        "user": "alice", "password": PASSWORD, "csrf_token": secret, "next": where})
    assert said.status_code == 303
    assert not leads_away(said.headers["Location"])


@pytest.mark.parametrize("where", WHERE)
def test_nobody_is_led_away_after_a_button(undone_place: Place, where: str) -> None:
    root = undone_place.browser("root")
    said = root.ask("POST", "/admin/do/session.end", data={"id": str(undone_place.ids["session"]), "back": where})
    assert said.status_code == 303
    assert not leads_away(said.headers["Location"])


@pytest.mark.parametrize("header", ["Basic YTpi", "Digest x", "x", ""])
def test_a_cookie_beside_another_authorization_still_needs_the_form_secret(undone_place: Place, header: str) -> None:
    alice = undone_place.browser("alice")
    alice.headers = {"Authorization": header}
    said = alice.delete("/api/v1/session")
    assert said.status_code in (401, 403)
    with undone_place.sessions() as tx:
        live = sa.select(WebSession.id).where(WebSession.user_id == undone_place.people["alice"], WebSession.client == "browser",
                                              WebSession.ended_at.is_(None))
        assert tx.scalars(live).all()


DATES = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]


@pytest.mark.parametrize("field", ["valid_from", "valid_until"])
@pytest.mark.parametrize("date", DATES)
def test_no_date_makes_a_person_unreadable(undone_place: Place, field: str, date: str) -> None:
    keeper, root = undone_place.as_("keeper"), undone_place.people["root"]
    said = keeper.post(f"/api/v1/pools/{undone_place.ids['pool']}/entitlements", {"user_id": str(root), field: date})
    assert said.status_code == 422, said.text
    assert undone_place.as_("root").get("/api/v1/me").status_code == 200
    assert undone_place.as_("root").get("/api/v1/permissions").status_code == 200


def test_a_period_without_a_time_zone_is_told(undone_place: Place) -> None:
    said = undone_place.as_("keeper").post(f"/api/v1/pools/{undone_place.ids['pool']}/entitlements", {
        "user_id": str(undone_place.people["bob"]), "valid_from": "2026-01-01T00:00:00", "valid_until": "2027-01-01T00:00:00Z"})
    assert said.status_code == 422, said.text


def bodies() -> list[tuple[str, str, Any]]:
    """(who, path, body): every one is wrong in a way that a database or a library would stumble over."""
    return [
        ("root", "/api/v1/pools", {"name": "Big", "template_id": "{template}", "size": 1, "extensions": 0, "extend_s": 10**12}),
        ("root", "/api/v1/pools", {"name": "Big", "template_id": "{template}", "size": 10**30}),
        ("root", "/api/v1/pools", {"name": "\ud800", "template_id": "{template}", "size": 1}),
        ("root", "/api/v1/pools", {"name": "Odd", "template_id": "{template}", "size": 1, "description": "\ud800"}),
        ("root", "/api/v1/session", {"user": "\ud800", "password": "\ud800"}),
        ("root", "/api/v1/users", {"name": "x" * 70, "password": PASSWORD}),
        ("root", "/api/v1/users",
         {"name": "carol", "email": "e" * 500_000, "password": PASSWORD, "display_name": "\ud800"}),
        ("root", "/api/v1/leases/{lease}/extend", {"seconds": 10**30}),
        ("root", "/api/v1/leases/{lease}/reclaim", {"message": "\udfff"}),
        ("root", "/api/v1/vms", {"name": "vm", "template_id": "{template}", "memory_mib": 10**12}),
        ("root", "/api/v1/vms", {"name": "vm", "template_id": "{template}", "vcpus": 2**40}),
        ("root", "/api/v1/directories", {"name": "corp.example", "servers": ["ldaps://dc:99999"], "bind_user": "a",
            "bind_password": "b",
                                         "ca_pem": "x"}),
        ("root", "/api/v1/directories", {"name": "corp.example", "servers": ["ldaps://[::1"], "bind_user": "a",
            "bind_password": "b",
                                         "ca_pem": "x"}),
        ("root", "/api/v1/directories", {"name": "corp.example", "servers": ["ldaps://dc"], "bind_user": "a",
            "bind_password": "\ud800",
                                         "ca_pem": "\ud800"}),
        ("root", "/api/v1/permissions", {"role": "user", "object_type": "lease", "object_id": "{lease}", "user_id": "{user}"}),
        ("root", "/api/v1/permissions", {"role": "user", "object_type": "nonsense", "object_id": "{lease}", "user_id": "{user}"}),
        ("root", "/api/v1/permissions", {"role": "user", "object_type": "pool", "user_id": "{user}"}),
        ("root", "/api/v1/permissions", {"role": "user", "object_type": "pool", "object_id": "{pool}", "user_id": "{pool}"}),
        ("root", "/api/v1/enroll", {"token": "\ud800", "csr": "", "address": "", "port": 1, "console_port": 1}),
        ("root", "/api/v1/storagedomains", {"name": "d", "host_id": "{host}", "path": "/srv/../etc"}),
        ("root", "/api/v1/storagedomains", {"name": "d", "host_id": "{host}", "path": "/\ud800"}),
    ]


@pytest.mark.parametrize("number", range(len(bodies())))
def test_wrong_values_are_told(undone_place: Place, number: int) -> None:
    who, path, body = bodies()[number]
    ids = {name: str(id) for name, id in undone_place.ids.items()}

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        return value.format(**ids) if isinstance(value, str) and value.startswith("{") else value

    said = undone_place.as_(who).ask("POST", path.format(**ids), data=json.dumps(fill(body)), content_type="application/json")
    assert 400 <= said.status_code < 500, (body, said.text)
    assert said.get_json()["error"]["message"]


def test_no_depth_of_nesting_is_a_bug(undone_place: Place) -> None:
    root = undone_place.as_("root")
    for depth in (*range(10, 1100, 20), *range(860, 1000), 100_000):
        raw = b'{"name": ' + b"[" * depth + b"]" * depth + b"}"
        said = root.ask("POST", "/api/v1/pools", data=raw, content_type="application/json")
        assert said.status_code in (400, 422), (depth, said.text)


@pytest.mark.parametrize("search", ["\0", "name = \0", "name = *\0*", "name = \ud800", "lease_s > 1e999",
                        "lease_s > 99999999999999999999",
                                    "lease_s = -0", "size > " + "9" * 400])
def test_odd_searches_are_told(undone_place: Place, search: str) -> None:
    said = undone_place.as_("root").get("/api/v1/pools", query_string={"search": search.encode("utf-8",
        "surrogatepass").decode("utf-8", "replace")})
    assert said.status_code in (200, 422), said.text


@pytest.mark.parametrize("search", ["ends_at > 9999-12-31", "ends_at > 0001-01-01", "ends_at < 99999-01-01", "ends_at > -1"])
def test_odd_times_are_told(undone_place: Place, search: str) -> None:
    said = undone_place.as_("root").get("/api/v1/leases", query_string={"search": search})
    assert said.status_code in (200, 422), said.text


@pytest.mark.parametrize("plain", [[None], ["x", "not an id"], [1e999, 1], [[], {}], "text", {"a": 1}])
def test_odd_cursors_are_told(undone_place: Place, plain: Any) -> None:
    after = base64.urlsafe_b64encode(json.dumps(plain).encode()).decode()
    assert undone_place.as_("root").get("/api/v1/leases", query_string={"after": after}).status_code == 422


FORMS = [
    ("/admin/do/console.end", {"id": "no id"}),
    ("/admin/do/session.end", {"id": "no id"}),
    ("/admin/do/session.end", {}),
    ("/admin/do/task.cancel", {"id": "no id"}),
    ("/admin/do/lease.extend", {"lease_id": "{lease}", "seconds": "inf"}),
    ("/admin/do/lease.extend", {"lease_id": "{lease}", "seconds": "nan"}),
    ("/admin/do/lease.extend", {"lease_id": "{lease}", "seconds": "1e300"}),
    ("/admin/do/lease.reclaim", {"lease_id": "{lease}", "message": "a\0b"}),
    ("/admin/do/lease.reclaim", {"lease_id": "no id"}),
    ("/admin/do/pool.edit", {"asked": "1", "pool_id": "{pool}", "pool_name": "a\0b", "size": "1"}),
    ("/admin/do/pool.edit", {"asked": "1", "pool_id": "no id"}),
    ("/admin/do/pool.edit", {"asked": "1", "pool_id": "{pool}", "description": "a\0b", "size": "3"}),
    ("/admin/do/permission.grant", {"on": "pool:no id", "who": "user:{user}", "directory": "{directory}", "role": "user"}),
    ("/admin/do/permission.grant", {"on": "pool:{pool}", "who": "user:no id", "directory": "{directory}", "role": "user"}),
    ("/admin/do/permission.grant", {"on": "pool:{pool}", "who": "user:{user}", "directory": "no id", "role": "user"}),
    ("/admin/pools/{pool}/entitle", {"who": "user:{user}", "directory": "{directory}", "valid_from": "0000-00-00"}),
    ("/admin/pools/{pool}/entitle", {"who": "nonsense:{user}", "directory": "{directory}"}),
    ("/admin/do/user.create", {"user_name": "a\0b", "password": PASSWORD}),
    ("/admin/do/user.create", {"user_name": "carol", "display_name": "a\0b", "password": PASSWORD}),
    ("/admin/do/directory.add", {"directory_name": "corp.example", "servers": "ldaps://dc:99999", "bind_user": "a",
        "bind_password": "b",
                                 "ca_pem": "x"}),
    ("/admin/do/host.create", {"host_name": "a\0b", "cluster_id": "{cluster}"}),
    ("/account/password", {"old": "a\0b", "new": "c\0d", "again": "c\0d"}),
    ("/sign-in", {"user": "a\0b", "password": "c\0d", "directory": "a\0b"}),
    ("/sign-in", {"user": "a" * 100_000, "password": "c" * 100_000}),
]


@pytest.mark.parametrize(("path", "form"), FORMS)
def test_odd_forms_are_told(undone_place: Place, path: str, form: dict[str, str]) -> None:
    ids = {name: str(id) for name, id in undone_place.ids.items()}
    data = {key: value.format(**ids) for key, value in form.items()}
    said = undone_place.browser("root").ask("POST", path.format(**ids), data=data)
    assert said.status_code < 500, said.text


def test_a_key_of_a_request_that_was_refused_may_be_used_again(place: Place) -> None:
    root, key = place.as_("root"), {"Idempotency-Key": "once"}
    for _ in range(2):
        said = root.post("/api/v1/users", {"name": "carol", "password": "short"}, headers=key)
        assert (said.status_code, said.get_json()["error"]["code"]) == (422, "password_too_short")
    made = root.post("/api/v1/users", {"name": "carol", "password": "another good password"}, headers=key)
    assert made.status_code in (202, 422), made.text


def test_a_person_may_look_at_the_task_that_starts_their_own_vm(place: Place) -> None:
    alice = place.as_("alice")
    said = alice.post(f"/api/v1/me/desktops/{place.ids['own_vm']}/connect")
    assert said.status_code == 202, said.text
    assert alice.get(said.get_json()["href"]).status_code == 200
    assert place.as_("bob").get(said.get_json()["href"]).status_code == 404


def test_a_sid_that_is_none_is_told(place: Place) -> None:
    with place.sessions.begin() as tx:
        domain = make.a_directory(tx, "corp.example", "ad", config={
            "servers": ["ldaps://127.0.0.1:1"], "bind_user": "a", "bind_password_sealed": place.keyring.seal("b"),
                "ca_pem": "x"}).id
    for sid in ("S-300-5-21", "S-1-5-" + "4294967296", "S-1-281474976710656-1", "S-1", "x"):
        said = place.as_("root").post("/api/v1/permissions", {
            "role": "user", "object_type": "pool", "object_id": str(place.ids["pool"]), "directory_id": str(domain),
                "external_id": sid})
        assert said.status_code == 404, (sid, said.text)




def test_nobody_watches_a_pools_desktop_by_a_role_on_its_vm(place: Place) -> None:
    said = place.as_("keeper").post("/api/v1/permissions", {
        "role": "user", "object_type": "vm", "object_id": str(place.ids["vm"]), "user_id": str(place.people["bob"])})
    assert said.status_code == 202, said.text
    assert place.as_("bob").get(f"/api/v1/vms/{place.ids['vm']}/screen").get_json()["error"]["code"] == "not_found"
    assert place.as_("alice").get(f"/api/v1/vms/{place.ids['vm']}/screen").get_json()["error"]["code"] == "no_picture"


@pytest.mark.parametrize("path", ["/", "/sign-in", "/account", "/admin/", "/nothing"])
def test_pages_say_that_the_database_is_silent(place: Place, path: str) -> None:
    alice, silent = place.browser("alice"), sa.create_engine("postgresql+psycopg2://nobody@127.0.0.1:1/none")
    object.__setattr__(place.parts, "sessions", sa.orm.sessionmaker(silent))
    said = alice.get(path)
    assert said.status_code == (404 if path == "/nothing" else 503)
    assert "database" in said.text or path == "/nothing"
