"""API tokens: made, used, held to less, revoked; never more than their owner may at that moment."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from backend.directory.commands import EditUser
from backend.directory.models import Permission, User, WebSession
from backend.events import Event
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from portal.auth import COOKIE
from sim import make
from tests.web.place import Asker, Place


def made(place: Place, owner: str, **given: Any) -> tuple[Asker, dict[str, Any]]:
    """Who asks by a new token of this person, and what was told of it."""
    said = place.as_(owner).post("/api/v1/me/tokens", {"name": "backup", **given})
    assert said.status_code == 201, said.get_json()
    return Asker(place.app.test_client(), said.get_json()["token"]), said.get_json()


def code(said: Any) -> tuple[int, str]:
    return said.status_code, said.get_json()["error"]["code"]


def test_a_token_is_told_once_kept_as_a_hash_and_says_when_it_was_used(place: Place) -> None:
    robot, told = made(place, "alice", days=10)
    assert set(told) == {"id", "name", "token", "expires_at"} and told["token"].startswith("leasehold_")
    with place.sessions() as tx:
        row = tx.get_one(WebSession, told["id"])
        columns = {c.name: getattr(row, c.key) for c in sa.inspect(WebSession).columns}
        events = " ".join(tx.scalars(sa.select(Event.sentence)))
    assert told["token"] not in str(columns) and told["token"] not in events
    assert "alice made the API token backup, which is good until" in events
    listed = place.as_("alice").get("/api/v1/me/tokens").get_json()["items"]
    assert [(t["name"], t["used_at"], t["read_only"], t["roles"]) for t in listed] == [("backup", None, False, None)]
    place.clock.time += timedelta(seconds=5)
    assert robot.get("/api/v1/me").get_json()["name"] == "alice"
    listed = place.as_("alice").get("/api/v1/me/tokens").get_json()["items"]
    assert listed[0]["used_at"] is not None
    assert place.as_("alice").get("/api/v1/sessions").get_json()["total"] == 1, "it is no sign-in"
    assert place.as_("bob").get("/api/v1/tokens").get_json()["total"] == 0
    assert sorted(t["user"] for t in place.as_("root").get("/api/v1/tokens").get_json()["items"]) == ["alice", "keeper"]


def test_it_ends_by_its_date(place: Place) -> None:
    robot, _ = made(place, "alice", days=1)
    assert robot.get("/api/v1/me").status_code == 200
    place.clock.time += timedelta(days=1, seconds=1)
    assert robot.get("/api/v1/me").status_code == 401


@pytest.mark.parametrize("by", ["alice", "root"])
def test_it_is_revoked_by_its_owner_and_by_administrators(place: Place, by: str) -> None:
    robot, told = made(place, "alice")
    assert code(place.as_("bob").post(f"/api/v1/tokens/{told['id']}/revoke"))[0] in (403, 404)
    assert place.as_(by).post(f"/api/v1/tokens/{told['id']}/revoke").status_code == 204
    assert robot.get("/api/v1/me").status_code == 401
    assert place.as_(by).post(f"/api/v1/tokens/{told['id']}/revoke").status_code == 204
    with place.sessions() as tx:
        said = tx.scalars(sa.select(Event.sentence).where(Event.code == "token.revoked")).all()
    assert said == [f"{by} revoked the API token backup of alice."]


def test_it_may_never_do_more_than_its_owner_may_at_that_moment(place: Place) -> None:
    robot, _ = made(place, "root")
    assert robot.get("/api/v1/hosts").get_json()["total"] > 0
    with place.sessions.begin() as tx:
        make.a_permission(tx, tx.get_one(User, place.people["alice"]), role="system_admin")
        tx.execute(sa.delete(Permission).where(Permission.user_id == place.people["root"]))
    assert robot.get("/api/v1/hosts").get_json()["total"] == 0
    with place.sessions.begin() as tx:
        submit(tx, EditUser(place.people["root"], enabled=False), SYSTEM, place.clock.now())
    assert robot.get("/api/v1/me").status_code == 401


def test_one_that_only_reads_changes_nothing(place: Place) -> None:
    robot, _ = made(place, "root", read_only=True)
    assert robot.get("/api/v1/vms").get_json()["total"] > 0
    for path in (f"/api/v1/vms/{place.ids['vm']}/start", f"/api/v1/pools/{place.ids['pool']}/edit", "/api/v1/hosts",
                 f"/api/v1/me/desktops/{place.ids['pool']}/connect", "/api/v1/me/tokens"):
        assert code(robot.post(path)) == (403, "read_only_token"), path
    assert code(robot.delete("/api/v1/session")) == (403, "read_only_token")


def test_one_held_to_a_role_gives_that_and_no_more(place: Place) -> None:
    watcher, _ = made(place, "root", name="watcher", roles=["auditor"])
    assert watcher.get("/api/v1/hosts").get_json()["total"] > 0
    assert code(watcher.post(f"/api/v1/vms/{place.ids['vm']}/start")) == (403, "denied")
    assert code(watcher.get("/api/v1/me/desktops")) == (403, "token_limited")
    assert code(watcher.post(f"/api/v1/me/desktops/{place.ids['pool']}/connect")) == (403, "token_limited")
    permits = watcher.get("/api/v1/me").get_json()["permits"]
    assert permits and all("*" not in p["permits"] and "vm.operate" not in p["permits"] for p in permits)

    keeper, _ = made(place, "keeper", name="none", roles=["auditor"])  # a role that the owner has not gives nothing of itself
    assert keeper.get("/api/v1/hosts").get_json()["total"] == 0
    assert code(keeper.post(f"/api/v1/pools/{place.ids['pool']}/edit", {"size": 3})) == (403, "denied")

    user, _ = made(place, "alice", name="thin", roles=["user"])
    assert user.get("/api/v1/me/desktops").get_json()["items"]
    nobody, _ = made(place, "root", name="no admin", roles=["user"])
    assert nobody.get("/api/v1/hosts").get_json()["total"] == 0 and nobody.get("/api/v1/vms").get_json()["total"] == 0


@pytest.mark.parametrize("roles", [None, ["system_admin"]])
def test_a_token_begets_no_other_and_touches_no_password_nor_session(place: Place, roles: list[str] | None) -> None:
    robot, told = made(place, "root", roles=roles)
    for path, given in (
        ("/api/v1/me/tokens", {"name": "child"}), (f"/api/v1/tokens/{told['id']}/revoke", {}),
        (f"/api/v1/users/{place.people['root']}/password", {"password": "a long new password", "old_password": "x"}),
        (f"/api/v1/sessions/{place.session_ids['root']}/end", {}),
    ):
        assert code(robot.post(path, given)) == (403, "not_by_token"), path
    assert code(robot.delete("/api/v1/session")) == (403, "not_by_token")


def test_a_token_opens_no_page_and_is_no_cookie(place: Place) -> None:
    robot, told = made(place, "root")
    assert robot.get("/admin/vms").status_code == 303
    browser = place.app.test_client()
    browser.set_cookie(COOKIE, told["token"], domain="leasehold.test", secure=True, path="/")
    assert Asker(browser, None).get("/api/v1/me").status_code == 401
    assert Asker(browser, None).get("/account").status_code == 303


def test_signing_out_everywhere_ends_tokens_too(place: Place) -> None:
    robot, _ = made(place, "alice")
    assert place.as_("root").post(f"/api/v1/users/{place.people['alice']}/sign_out").status_code == 202
    assert robot.get("/api/v1/me").status_code == 401


@pytest.mark.parametrize(("given", "wrong"), [
    ({"name": ""}, "bad_name"), ({"name": "x" * 61}, "bad_name"), ({"name": "a\nb"}, "bad_name"), ({"days": 0}, "bad_end"),
    ({"days": 367}, "bad_end"), ({"expires_at": "2020-01-01T00:00:00Z"}, "bad_end"), ({"roles": []}, "bad_role"),
    ({"roles": ["king"]}, "bad_role"), ({"days": 3, "expires_at": "2026-12-01T00:00:00Z"}, "two_ends"),
    ({"name": "taken"}, "name_taken"), ({"days": 10**12}, "bad_end"),
])
def test_a_wrong_wish_is_told(place: Place, given: dict[str, Any], wrong: str) -> None:
    made(place, "alice", name="taken")
    said = place.as_("alice").post("/api/v1/me/tokens", {"name": "backup", **given})
    assert code(said) == (422, wrong) and said.get_json()["error"]["message"].endswith(".")


def test_the_page_shows_it_once(place: Place) -> None:
    alice = place.browser("alice")
    said = alice.ask("POST", "/account/tokens", data={"token_name": "nightly", "may": "user", "days": "30"})
    text = re.search(r"leasehold_[\w-]{43}", said.get_data(as_text=True))
    assert said.status_code == 200 and text and said.headers["Cache-Control"] == "no-store"
    robot = Asker(place.app.test_client(), text[0])
    assert robot.get("/api/v1/me/desktops").status_code == 200
    page = alice.get("/account").get_data(as_text=True)
    assert text[0] not in page and "nightly" in page and "Use my desktops" in page
    again = alice.ask("POST", "/account/tokens", data={"token_name": "nightly", "may": "all", "days": "30"})
    assert again.status_code == 422 and "You have a token named nightly already" in again.get_data(as_text=True)
    id = re.search(r"/account/tokens/([0-9a-f-]{36})/revoke", page)
    assert id and alice.ask("POST", f"/account/tokens/{id[1]}/revoke").status_code == 303
    assert robot.get("/api/v1/me").status_code == 401


def test_administrators_see_and_revoke_them_on_their_pages(place: Place) -> None:
    robot, told = made(place, "alice")
    root = place.browser("root")
    page = root.get("/admin/tokens").get_data(as_text=True)
    assert "backup" in page and told["token"] not in page
    assert root.ask("POST", "/admin/do/token.revoke", data={"id": told["id"]}).status_code in (302, 303)
    assert robot.get("/api/v1/me").status_code == 401
