"""Pages and REST of rollouts, of why, and of what holders may do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from backend.db import new_sessions
from backend.hosts.models import Host
from backend.vms.models import VmSnapshot
from pools.models import Decision, Pool, Rollout
from sim.postgres import Cluster
from tests.conftest import ToldClock
from tests.web.place import Place


@pytest.fixture
def place(cluster: Cluster) -> Iterator[Place]:
    name = cluster.new_database()
    sessions = new_sessions(cluster.url(name))
    yield Place(sessions, ToldClock())
    sessions.kw["bind"].dispose()
    cluster.drop(name)


def test_a_pools_page_shows_how_far_a_rollout_is_and_its_buttons(place: Place) -> None:
    pool_id, rollout_id = place.ids["pool"], place.ids["rollout"]
    with place.sessions.begin() as tx:
        tx.execute(sa.update(Rollout).values(done=3, total=8, failures=1, proved=True))
    page = place.browser("keeper").get(f"/admin/pools/{pool_id}").text
    assert "New version: Small, version 1" in page and "3 of 8 desktops, 37 % · 1 failed" in page
    assert "rollout.halt" in page and "rollout.roll_back" in page
    assert place.as_("keeper").get(f"/api/v1/rollouts/{rollout_id}").get_json()["progress"] == 37
    assert place.as_("keeper").post(f"/api/v1/rollouts/{rollout_id}/halt").status_code == 202
    page = place.browser("keeper").get(f"/admin/pools/{pool_id}").text
    assert "keeper halted it." in page and "rollout.resume" in page
    assert "rollout.resume" not in place.browser("auditor").get(f"/admin/pools/{pool_id}").text


def test_a_leases_story_is_in_full_for_who_runs_the_pool_and_without_names_for_its_holder(place: Place) -> None:
    lease = place.ids["lease"]
    full = place.browser("keeper").get(f"/admin/leases/{lease}").text
    assert "Desktop desktops-1 is ready for you." in full and "leased to carol" in full
    own = place.browser("alice").get(f"/leases/{lease}/why").text
    assert "Desktop desktops-1 is ready for you." in own and "carol" not in own
    told = place.as_("alice").get(f"/api/v1/leases/{lease}/explain").get_json()
    assert told["sentence"] == "It runs." and "carol" not in str(told)
    assert place.as_("bob").get(f"/api/v1/leases/{lease}/explain").status_code == 404
    assert f"/leases/{lease}/why" in place.browser("alice").get("/").text


def test_a_refused_extension_is_kept_and_told(place: Place) -> None:
    with place.sessions.begin() as tx:
        tx.execute(sa.update(Pool).values(extensions=0))
    lease = place.ids["lease"]
    said = place.as_("alice").post(f"/api/v1/leases/{lease}/extend")
    assert said.status_code == 409 and said.get_json()["error"]["message"] == "Leases of this pool cannot be extended."
    with place.sessions() as tx:
        kept = tx.scalars(sa.select(Decision).where(Decision.outcome == "not_extended")).one()
    assert kept.sentence == "Leases of this pool cannot be extended."
    assert kept.sentence in place.browser("alice").get(f"/leases/{lease}/why").text


def test_what_the_pool_allows_is_on_the_card_and_over_rest(place: Place) -> None:
    pool_id = place.ids["pool"]
    page = place.browser("alice").get("/").text
    assert "Another desktop …" not in page and "Snapshots …" not in page
    with place.sessions.begin() as tx:
        tx.execute(sa.update(Pool).values(rights=["swap", "snapshot", "reboot"]))
        tx.add(VmSnapshot(vm_id=place.ids["vm"], name="Before Monday", state="ok", created_at=place.clock.now()))
    page = place.browser("alice").get("/").text
    assert all(word in page for word in ("Another desktop …", "Snapshots …", "Reboot …", "Before Monday"))
    (item,) = [d for d in place.as_("alice").get("/api/v1/me/desktops").get_json()["items"] if d["id"] == str(pool_id)]
    assert {"swap", "snapshot", "reboot", "remove_snapshot"} <= set(item["actions"]) and "go_back" not in item["actions"]
    assert item["snapshots"][-1]["name"] == "Before Monday"
    missing = place.as_("alice").post(f"/api/v1/me/desktops/{pool_id}/snapshot")
    assert missing.status_code == 422 and missing.get_json()["error"]["facts"]["fields"] == ["name"]
    taken = place.as_("alice").post(f"/api/v1/me/desktops/{pool_id}/snapshot", {"name": "Now"})
    assert taken.status_code == 202 and taken.get_json()["task"]["id"]


def test_a_pool_says_what_keeps_it_from_starting_desktops_and_every_hosts_reason(place: Place) -> None:
    pool_id, href = place.ids["pool"], f"/api/v1/pools/{place.ids['pool']}"
    assert place.as_("root").get(href).get_json()["obstacle"] is None
    sentence, since = "No host that is up has enough free memory for another desktop.", place.clock.now()
    with place.sessions.begin() as tx:
        tx.execute(sa.update(Host).values(memory_mib=300))
        tx.execute(sa.update(Pool).values(trouble=sentence, trouble_code="memory", trouble_since=since))
    told = place.as_("root").get(href).get_json()
    assert (told["trouble"], told["trouble_code"]) == (sentence, "memory")
    obstacle = told["obstacle"]
    assert (obstacle["code"], obstacle["sentence"], obstacle["retry_at"]) == ("memory", sentence, None) and obstacle["since"]
    assert [host["host"] for host in obstacle["hosts"]] == ["alpha"]
    assert obstacle["hosts"][0]["why"].startswith("Host alpha cannot take a desktop: 256 MiB wanted,")
    page = place.browser("root").get(f"/admin/pools/{pool_id}").text
    assert sentence in page and "Host alpha cannot take a desktop" in page and "It goes on by itself" in page
    assert not place.as_("keeper").get(href).get_json()["obstacle"]["hosts"]  # hosts are none of their business
    assert sentence in place.browser("keeper").get(f"/admin/pools/{pool_id}").text
