"""REST: lists, one thing, actions from the registry, bodies that are wrong, once and only once, tasks."""

from __future__ import annotations

import hashlib
import ssl
import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.directory.models import Permission, User
from backend.errors import Unavailable
from backend.hosts.models import Host
from backend.tasks.models import Idempotency, Step, Task
from backend.vms.models import VmScreen
from pools.models import Lease, Pool
from portal.collections import COLLECTIONS
from portal.errors import of_database
from sim import make
from tests.conftest import ToldClock
from tests.pki import Pki, a_request
from tests.web.place import PASSWORD, Asker, Place


def error(said: Any) -> dict[str, Any]:
    told = said.get_json()
    assert set(told) == {"error"}
    assert set(told["error"]) == {"code", "message", "facts"}
    assert told["error"]["message"].rstrip("”’)")[-1] in ".…"
    return told["error"]  # type: ignore[no-any-return]


# -- lists -----------------------------------------------------------------------------------------
def test_lists_search_and_page(place: Place) -> None:
    root = place.as_("root")
    told = root.get("/api/v1/vms?search=pool = Desktops sortby name desc&max=1").get_json()
    assert (told["total"], [vm["name"] for vm in told["items"]]) == (2, ["desktops-2"])
    more = root.get("/api/v1/vms", query_string={
        "search": "pool = Desktops sortby name desc", "max": 1, "after": told["next"]}).get_json()
    assert ([vm["name"] for vm in more["items"]], more["next"]) == (["desktops-1"], None)
    assert root.get("/api/v1/vms?search=user = alice").get_json()["items"][0]["id"] == str(place.ids["vm"])


@pytest.mark.parametrize("query", ["search=status = sideways", "max=0", "max=many", "max=9999999", "after=x", "search=%00"])
def test_a_wrong_list_is_told_in_a_sentence(place: Place, query: str) -> None:
    said = place.as_("root").get(f"/api/v1/vms?{query}")
    assert said.status_code == 422
    assert error(said)["facts"]["fields"] == [query.split("=")[0]]


def test_ids_are_text_and_times_end_in_z(place: Place) -> None:
    root = place.as_("root")
    task = root.get(f"/api/v1/tasks/{place.ids['task']}").get_json()
    assert task["id"] == str(place.ids["task"])
    assert task["created_at"] == "2026-03-02T08:00:00.000Z"
    lease = root.get(f"/api/v1/leases/{place.ids['lease']}").get_json()
    assert (lease["user"], lease["pool"], lease["vm"], lease["state"]) == ("alice", "Desktops", "desktops-1", "active")


def test_no_secret_is_in_any_list(place: Place) -> None:
    with place.sessions.begin() as tx:
        host = tx.get_one(Host, place.ids["host"])
        host.enroll_hash, host.enroll_csr = b"\x01" * 32, "CSR-IN-ROW"
        make.a_directory(tx, "corp.example", "ad", config={
            "servers": ["ldaps://dc1.corp.example"], "bind_user": "svc", "bind_password_sealed": "SEALED", "ca_pem": "PEM"})
    root = place.as_("root")
    paths = [f"/api/v1/{name}" for name in COLLECTIONS] + ["/api/v1/me", "/api/v1/me/desktops"]
    for path in paths:
        text = root.get(path).text
        for secret in ("SEALED", "CSR-IN-ROW", "password_hash", "token_hash", "enroll_hash", "argon2"):
            assert secret not in text, path


def test_a_task_has_its_steps(place: Place) -> None:
    with place.sessions.begin() as tx:
        tx.add(Step(uid=place.ids["vm"], task_id=place.ids["task"], ordinal=1, name="launch", verb="start_vm",
                    host_id=place.ids["host"], asked_at=place.clock.now(), progress=40, message="Booting"))
    told = place.as_("alice").get(f"/api/v1/tasks/{place.ids['task']}").get_json()
    assert [(s["name"], s["host"], s["state"], s["progress"]) for s in told["steps"]] == [("launch", "alpha", "asked", 40)]
    assert "args" not in told["steps"][0]


def test_the_candidates_of_a_decision_are_not_for_who_asked(place: Place) -> None:
    path = f"/api/v1/decisions/{place.ids['decision']}"
    assert place.as_("alice").get(path).get_json()["candidates"] is None
    assert "carol" in str(place.as_("keeper").get(path).get_json()["candidates"])


def test_completions(place: Place) -> None:
    assert "status = up" in place.as_("root").get("/api/v1/completions/vms?text=status = ").get_json()["items"]
    assert place.as_("root").get("/api/v1/completions/nothing").status_code == 404


# -- actions -----------------------------------------------------------------------------------------
def test_an_action_is_a_task(place: Place) -> None:
    root = place.as_("root")
    said = root.post(f"/api/v1/vms/{place.ids['own_vm']}/start")
    assert said.status_code == 202
    told = said.get_json()["task"]
    assert told == {"id": told["id"], "href": f"/api/v1/tasks/{told['id']}", "state": "queued"}
    task = root.get(told["href"]).get_json()
    assert (task["command"], task["actor"], task["object_id"]) == ("vm.start", "root", str(place.ids["own_vm"]))
    busy = root.post(f"/api/v1/vms/{place.ids['own_vm']}/start")
    assert (busy.status_code, error(busy)["code"]) == (409, "busy")
    cancelled = root.post(f"{told['href']}/cancel").get_json()["task"]
    assert cancelled["state"] == "cancelled"


def test_a_thing_made_at_once_has_its_id_in_the_answer(place: Place) -> None:
    root = place.as_("root")
    body = {"name": "Fresh", "template_id": str(place.ids["template"]), "size": 2}
    told = root.post("/api/v1/pools", body).get_json()["task"]
    assert told["state"] == "succeeded"
    assert root.get(f"/api/v1/pools/{told['result']['id']}").get_json()["name"] == "Fresh"


WRONG = [
    ({"name": "P", "size": 2}, ["template_id"], "missing"),
    ({"name": "P", "size": "two", "template_id": "T"}, ["size"], "whole number"),
    ({"name": "P", "size": 2.5, "template_id": "T"}, ["size"], "whole number"),
    ({"name": "P", "size": 2, "template_id": "no"}, ["template_id"], "template_id"),
    ({"name": "P", "size": 2, "template_id": "T", "colour": 1, "shape": 2}, ["colour", "shape"], "no field “colour”, “shape”"),
    ({"pool_name": "P", "size": 2, "template_id": "T"}, ["pool_name"], "no field “pool_name”"),
    ({"name": "P\0", "size": 2, "template_id": "T"}, ["name"], "zero character"),
    ({"name": "P", "size": 10**30, "template_id": "T"}, None, ""),
    ({"name": "", "size": 2, "template_id": "T"}, ["name"], "between 1 and 60"),
]


@pytest.mark.parametrize(("body", "fields", "words"), WRONG)
def test_a_wrong_body_names_its_fields(place: Place, body: dict[str, Any], fields: list[str] | None, words: str) -> None:
    body = {k: str(place.ids["template"]) if v == "T" else v for k, v in body.items()}
    said = place.as_("root").post("/api/v1/pools", body)
    assert said.status_code == 422
    told = error(said)
    assert words in told["message"]
    if fields is not None:
        assert told["facts"]["fields"] == fields
    with place.sessions() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(Pool)) == 1


def test_the_path_names_the_thing_not_the_body(place: Place) -> None:
    said = place.as_("root").post(f"/api/v1/vms/{place.ids['own_vm']}/start", {"vm_id": str(place.ids["vm"])})
    assert (said.status_code, error(said)["code"]) == (422, "unknown_field")


@pytest.mark.parametrize(("data", "kind", "status"), [
    ("{", "application/json", 400), ("[]", "application/json", 422), ("null", "application/json", 422),
    ("{}", "text/plain", 415), ("a=b", "application/x-www-form-urlencoded", 415), ("[" * 5000, "application/json", 400),
    ('{"name": "\\ud800"}', "application/json", 400), (b"\xff\xfe", "application/json", 400),
])
def test_a_body_that_is_no_json_object(place: Place, data: Any, kind: str, status: int) -> None:
    said = place.as_("root").ask("POST", "/api/v1/pools", data=data, content_type=kind)
    assert said.status_code == status
    error(said)


def test_ids_of_nothing_are_not_found(place: Place) -> None:
    root = place.as_("root")
    for id in ("nothing", "00000000-0000-0000-0000-000000000000", "1", "'--"):
        for said in (root.get(f"/api/v1/vms/{id}"), root.post(f"/api/v1/vms/{id}/start"), root.get(f"/api/v1/events/{id}x")):
            assert said.status_code == 404
            error(said)
    assert root.get("/api/v1/tasks/99999999999999999999999").status_code == 404


def test_entitlements(place: Place) -> None:
    keeper, bob = place.as_("keeper"), place.as_("bob")
    path = f"/api/v1/pools/{place.ids['pool']}/entitlements"
    assert bob.get("/api/v1/me/desktops").get_json()["items"] == []
    assert keeper.post(path, {"user_id": str(place.people["bob"])}).status_code == 202
    told = keeper.get(path).get_json()
    assert {item["user"] for item in told["items"]} == {"alice", "bob"}
    assert [d["name"] for d in bob.get("/api/v1/me/desktops").get_json()["items"]] == ["Desktops"]
    mine = next(item["id"] for item in told["items"] if item["user"] == "bob")
    assert keeper.delete(f"{path}/{mine}").status_code == 202
    assert bob.get("/api/v1/me/desktops").get_json()["items"] == []
    admin = next(p["id"] for p in place.as_("root").get("/api/v1/permissions?search=role = pool_admin").get_json()["items"])
    assert keeper.delete(f"{path}/{admin}").status_code == 404, "an administrator's role is no entitlement"


def test_whoever_runs_a_pool_cannot_make_administrators(place: Place) -> None:
    keeper = place.as_("keeper")
    for object_type, object_id in (("system", None), ("pool", str(place.ids["pool"]))):
        body = {"role": "system_admin", "object_type": object_type, "object_id": object_id, "user_id": str(place.people["bob"])}
        assert keeper.post("/api/v1/permissions", body).status_code == 403
    with place.sessions() as tx:
        assert tx.scalar(sa.select(sa.func.count()).where(Permission.user_id == place.people["bob"])) == 0


def test_users_and_passwords(place: Place) -> None:
    root, nobody = place.as_("root"), place.as_(None)
    made = root.post("/api/v1/users", {"name": "carol", "password": "another good password"})
    assert made.status_code == 202
    signed = nobody.post("/api/v1/session", {"user": "carol", "password": "another good password"})
    assert signed.status_code == 201
    carol = Asker(nobody.client, signed.get_json()["token"])
    id = made.get_json()["task"]["result"]["id"]
    wrong = carol.post(f"/api/v1/users/{id}/password", {"password": "a third good password", "old_password": "wrong"})
    assert (wrong.status_code, error(wrong)["code"]) == (409, "wrong_password")
    right = {"password": "a third good password", "old_password": "another good password"}
    assert carol.post(f"/api/v1/users/{id}/password", right).status_code == 204
    assert carol.get("/api/v1/me").status_code == 200, "the session that changed it goes on"
    short = root.post("/api/v1/users", {"name": "dave", "password": "short"})
    assert (short.status_code, error(short)["facts"]["fields"]) == (422, ["password"])
    with place.sessions() as tx:
        assert "good password" not in str(tx.execute(sa.select(Task.args, Task.result)).all())
        assert tx.scalar(sa.select(User.id).where(User.name == "dave")) is None


def test_the_internal_directory_is_searched(place: Place) -> None:
    keeper, id = place.as_("keeper"), place.ids["directory"]
    told = keeper.get(f"/api/v1/directories/{id}/search?text=Ali").get_json()["items"]
    assert [(f["kind"], f["name"]) for f in told] == [("user", "alice")]
    assert keeper.get(f"/api/v1/directories/{id}/search?text=%25").get_json()["items"] == []


# -- once and only once ------------------------------------------------------------------------------
def test_the_same_key_and_body_have_one_effect(place: Place) -> None:
    root, body = place.as_("root"), {"name": "Once", "template_id": str(place.ids["template"]), "size": 1}
    first, again = (root.post("/api/v1/pools", body, headers={"Idempotency-Key": "k1"}) for _ in range(2))
    assert first.status_code == again.status_code == 202
    assert first.get_json() == again.get_json()
    assert again.headers["Idempotent-Replay"] == "true"
    other = root.post("/api/v1/pools", {**body, "size": 2}, headers={"Idempotency-Key": "k1"})
    assert (other.status_code, error(other)["code"]) == (422, "key_reused")
    theirs = place.as_("keeper").post("/api/v1/pools", body, headers={"Idempotency-Key": "k1"})
    assert theirs.status_code == 404, "a key is of one person"
    with place.sessions() as tx:
        assert tx.scalar(sa.select(sa.func.count()).where(Pool.name == "Once")) == 1


def test_a_refusal_can_be_tried_again_with_the_same_key(place: Place) -> None:
    root, body = place.as_("root"), {"name": "Desktops", "template_id": str(place.ids["template"]), "size": 1}
    assert root.post("/api/v1/pools", body, headers={"Idempotency-Key": "k2"}).status_code == 422
    with place.sessions.begin() as tx:
        tx.get_one(Pool, place.ids["pool"]).name = "Renamed"
    assert root.post("/api/v1/pools", body, headers={"Idempotency-Key": "k2"}).status_code == 202


def test_twenty_at_once_with_one_key_have_one_effect(place: Place) -> None:
    body = {"name": "Race", "template_id": str(place.ids["template"]), "size": 1}
    told: list[Any] = []

    def ask() -> None:
        said = place.as_("root").post("/api/v1/pools", body, headers={"Idempotency-Key": "race"})
        told.append((said.status_code, said.get_json()))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 20
    assert all(t == told[0] for t in told)
    assert told[0][0] == 202


def test_no_token_is_kept_in_clear_for_a_key(place: Place) -> None:
    body = {"name": "beta", "cluster_id": str(place.ids["cluster"])}
    token = place.as_("root").post("/api/v1/hosts", body, headers={"Idempotency-Key": "h"}).get_json()["token"]
    again = place.as_("root").post("/api/v1/hosts", body, headers={"Idempotency-Key": "h"}).get_json()
    assert again["token"] == token
    with place.sessions() as tx:
        assert token not in str(tx.execute(sa.select(Idempotency.answer)).all())
        assert token not in str(tx.execute(sa.select(Task.args, Task.result)).all())


# -- hosts and screens ---------------------------------------------------------------------------------
def enrollment(token: str, **other: Any) -> dict[str, Any]:
    return {"token": token, "csr": a_request(), "address": "10.0.0.7", "port": 8445, "console_port": 8446, **other}


def test_a_host_enrolls_with_its_token(place: Place, pki: Pki) -> None:
    nobody = place.as_(None)
    made = place.as_("root").post("/api/v1/hosts", {"name": "beta", "cluster_id": str(place.ids["cluster"])})
    assert made.status_code == 201
    token, id = made.get_json()["token"], made.get_json()["id"]
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pki.ca_file.read_text())).hexdigest()
    assert made.get_json()["enroll"] == (
        f"leasehold-agent enroll --manager https://leasehold.test:8443 --token {token} --ca-sha256 {digest}")
    assert nobody.get("/api/v1/ca").get_json() == {"ca": pki.ca_file.read_text()}
    asked = nobody.post("/api/v1/enroll", enrollment(token, hostname="beta"))
    assert (asked.status_code, asked.get_json()) == (202, {"id": id})
    show = {"Authorization": f"Bearer {token}"}
    assert nobody.get(f"/api/v1/enroll/{id}", headers=show).status_code == 202
    with place.sessions.begin() as tx:
        tx.get_one(Host, made.get_json()["id"]).certificate = "CERTIFICATE"
    told = nobody.get(f"/api/v1/enroll/{id}", headers=show)
    assert (told.status_code, told.get_json()) == (200, {"certificate": "CERTIFICATE", "ca": pki.ca_file.read_text()})
    assert nobody.get(f"/api/v1/enroll/{id}").status_code == 403
    other = nobody.post("/api/v1/enroll", enrollment(token, csr="ANOTHER"))
    assert (other.status_code, error(other)["code"]) == (403, "token_used")


def test_guessed_enrollment_tokens_are_throttled(place: Place) -> None:
    nobody = place.as_(None)
    last = [nobody.post("/api/v1/enroll", enrollment(f"guess{n}")).status_code for n in range(25)]
    assert last[0] == 403
    assert last[-1] == 429
    place.clock.time += timedelta(minutes=10)
    assert nobody.post("/api/v1/enroll", enrollment("guess")).status_code == 403


def test_a_screen_is_for_its_holder_and_counts_as_looked_at(place: Place) -> None:
    path = f"/api/v1/vms/{place.ids['vm']}/screen"
    alice = place.as_("alice")
    assert alice.get(path).status_code == 404
    with place.sessions.begin() as tx:
        row = tx.get_one(VmScreen, place.ids["vm"])
        assert row.wanted_at == place.clock.now()
        row.webp, row.taken_at = b"RIFFpicture", place.clock.now()
    said = alice.get(path)
    assert (said.status_code, said.content_type, said.data) == (200, "image/webp", b"RIFFpicture")
    assert said.headers["Cache-Control"] == "private, no-cache"
    place.clock.time += timedelta(seconds=5)
    same = alice.get(path, headers={"If-None-Match": said.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")
    with place.sessions() as tx:
        assert tx.get_one(VmScreen, place.ids["vm"]).wanted_at == place.clock.now()
    assert place.as_("bob").get(path).status_code == 404


@pytest.mark.parametrize(("setting", "lookers"), [("", {"root"}), ("pool_admin", {"root", "keeper"}),
                                                  ("pool_admin, auditor", {"root", "keeper", "auditor"})])
def test_other_peoples_screens_are_for_who_may_look(
    sessions: Sessions, clock: ToldClock, setting: str, lookers: set[str]
) -> None:
    """A right of its own: who runs a pool or audits the place sees its VMs, and screens only where a setting says so."""
    place = Place(sessions, clock, screens_seen_by=setting)
    with place.sessions.begin() as tx:
        tx.add(VmScreen(vm_id=place.ids["vm"], wanted_at=clock.now(), webp=b"RIFFpicture", taken_at=clock.now()))
    for name in ("root", "keeper", "auditor"):
        said = place.as_(name).get(f"/api/v1/vms/{place.ids['vm']}/screen")
        assert said.status_code == (200 if name in lookers else 403), name
        page = place.browser(name).get(f"/admin/vms/{place.ids['vm']}")
        assert page.status_code == 200 and ("data-screen" in page.get_data(as_text=True)) == (name in lookers), name


# -- a person's desktops ---------------------------------------------------------------------------------
def test_my_desktops(place: Place) -> None:
    items = place.as_("alice").get("/api/v1/me/desktops").get_json()["items"]
    pool = next(d for d in items if d["kind"] == "pool")
    assert (pool["id"], pool["name"], pool["state"]) == (str(place.ids["pool"]), "Desktops", "running")
    assert pool["lease"] == {"id": str(place.ids["lease"]), "state": "active", "ends_at": "2026-03-02T09:00:00Z",
                             "called_until": None, "extensions_left": 2}
    assert "connect" in pool["actions"]
    assert [d["name"] for d in items if d["kind"] == "vm"] == ["alices-own"]


def test_connect_in_the_browser(place: Place) -> None:
    said = place.as_("alice").post(f"/api/v1/me/desktops/{place.ids['pool']}/connect", {"protocol": "vnc"})
    assert said.status_code == 201
    told = said.get_json()
    assert told["state"] == "ready"
    assert told["viewer"]["type"] == "novnc"
    assert told["viewer"]["url"] == "wss://leasehold.test:8444/console"
    assert any(p.startswith("leasehold.") for p in told["viewer"]["protocols"])


def test_connect_in_the_browser_with_spice(place: Place) -> None:
    wanted = {"protocol": "spice", "client": "browser"}
    said = place.as_("alice").post(f"/api/v1/me/desktops/{place.ids['pool']}/connect", wanted)
    assert said.status_code == 201
    told = said.get_json()
    assert told["protocol"] == "spice"
    assert (told["viewer"]["type"], told["viewer"]["url"]) == ("spice", "wss://leasehold.test:8444/console/spice")
    assert told["viewer"]["protocols"][0] == "binary" and told["viewer"]["protocols"][1].startswith("leasehold.")


@pytest.mark.parametrize(
    ("offered", "shown"), [(["vnc", "spice"], "novnc"), (["spice", "vnc"], "novnc"), (["spice"], "spice"), (["vnc"], "novnc")]
)
def test_a_browser_gets_vnc_unless_there_is_none(place: Place, offered: list[str], shown: str) -> None:
    with place.sessions.begin() as tx:
        tx.get_one(Pool, place.ids["pool"]).protocols = offered
    told = place.as_("alice").post(f"/api/v1/me/desktops/{place.ids['pool']}/connect", {"client": "browser"}).get_json()
    assert told["viewer"]["type"] == shown


def test_connect_with_a_viewer_gives_a_file_once(place: Place) -> None:
    alice = place.as_("alice")
    told = alice.post(f"/api/v1/me/desktops/{place.ids['pool']}/connect", {"client": "native"}).get_json()
    assert told["viewer"]["type"] == "vv"
    path = told["viewer"]["url"].removeprefix("https://leasehold.test:8443")
    assert place.as_("bob").get(path).status_code == 404
    assert place.as_("root").get(path).status_code == 404, "a ticket is its person's alone"
    said = alice.get(path)
    assert said.content_type == "application/x-virt-viewer"
    assert said.headers["Cache-Control"] == "no-store"
    for line in ("[virt-viewer]", "type=spice", "delete-this-file=1", "proxy=http://leasehold.test:8444", "tls-port=8444",
                 "host-subject=OU=gateway,CN=gateway"):
        assert line in said.text
    again = alice.get(path)
    assert (again.status_code, error(again)["code"]) == (409, "viewer_file_taken")


def test_extend_and_return(place: Place) -> None:
    alice, path = place.as_("alice"), f"/api/v1/leases/{place.ids['lease']}"
    assert alice.post(f"{path}/extend").get_json()["lease"]["ends_at"] == "2026-03-02T09:30:00Z"
    assert alice.post(f"{path}/extend", {"seconds": 600}).status_code == 403, "only the pool's administrator says how long"
    assert place.as_("keeper").post(f"{path}/extend", {"seconds": 600}).status_code == 202
    assert alice.post(f"{path}/return").get_json()["lease"]["state"] == "returning"
    with place.sessions() as tx:
        assert tx.get_one(Lease, place.ids["lease"]).state == "returning"


def test_a_refused_connect_keeps_its_decision(place: Place) -> None:
    bob = place.as_("bob")
    path = f"/api/v1/pools/{place.ids['pool']}"
    place.as_("keeper").post(f"{path}/entitlements", {"user_id": str(place.people["bob"])})
    with place.sessions.begin() as tx:
        tx.get_one(Pool, place.ids["pool"]).per_user = 0
    said = bob.post(f"/api/v1/me/desktops/{place.ids['pool']}/connect")
    assert said.status_code == 409
    kept = bob.get("/api/v1/decisions").get_json()["items"]
    assert [d["sentence"] for d in kept] == [error(said)["message"]]


# -- the rest ------------------------------------------------------------------------------------------
def test_sessions_and_consoles_are_ended_by_their_owner_or_an_administrator(place: Place) -> None:
    alice = place.as_("alice")
    assert place.as_("bob").post(f"/api/v1/consoles/{place.ids['console']}/end").status_code == 404
    assert alice.post(f"/api/v1/consoles/{place.ids['console']}/end").status_code == 204
    assert alice.post(f"/api/v1/sessions/{place.session_ids['bob']}/end").status_code in (403, 404)
    assert place.as_("bob").get("/api/v1/me").status_code == 200
    assert [s["user"] for s in alice.get("/api/v1/sessions").get_json()["items"]] == ["alice"]


def test_health(place: Place) -> None:
    nobody = place.as_(None)
    assert nobody.client.get("/healthz", base_url="https://10.0.0.9").status_code == 200, "asked under any name"
    ready = nobody.get("/readyz")
    assert (ready.status_code, ready.get_json()) == (503, {"ok": False, "database": True, "manager": False, "gateway": False})
    text = nobody.get("/metrics").text
    assert 'leasehold_leases{state="active"} 1.0' in text
    assert 'leasehold_hosts{state="up"} 1.0' in text
    assert 'leasehold_tasks{state="queued"} 1.0' in text
    assert 'leasehold_requests_total{endpoint="readyz",method="GET",status="503"} 1.0' in text
    assert "alice" not in text


def test_a_silent_database_is_told_and_not_a_bug(place: Place) -> None:
    place.sessions.kw["bind"].dispose()
    no = of_database(sa.exc.OperationalError("select", {}, Exception("gone")))
    assert isinstance(no, Unavailable)
    assert PASSWORD not in str(no)


def test_calendars_and_entitlements_in_their_hours(place: Place) -> None:
    root = place.as_("root")
    wrong = root.post("/api/v1/calendars", {"name": "Odd", "windows": ["whenever 08:00-18:00"]})
    assert wrong.status_code == 422 and wrong.get_json()["error"]["facts"]["fields"] == ["windows"]
    made = root.post("/api/v1/calendars", {"name": "Nights", "windows": ["daily 22:00-06:00"], "timezone": "Europe/Berlin"})
    id = made.get_json()["task"]["result"]["id"]
    assert root.get(f"/api/v1/calendars/{id}").get_json()["windows"] == ["daily 22:00-06:00"]
    given = {"user_id": str(place.people["bob"]), "calendar_id": id, "priority": 5}
    assert root.post(f"/api/v1/pools/{place.ids['pool']}/entitlements", given).status_code == 202
    (pool,) = place.as_("bob").get("/api/v1/me/desktops").get_json()["items"]
    assert (pool["state"], pool["actions"]) == ("closed", [])
    refused = place.as_("bob").post(f"/api/v1/me/desktops/{place.ids['pool']}/connect")
    assert refused.status_code == 403 and "again from" in refused.get_json()["error"]["message"]
    used = root.post(f"/api/v1/calendars/{id}/remove")
    assert used.status_code == 409 and "used by 1 entitlement" in used.get_json()["error"]["message"]
    admin = given | {"calendar_id": id, "role": "auditor", "object_type": "system"}
    assert root.post("/api/v1/permissions", admin).status_code == 422
