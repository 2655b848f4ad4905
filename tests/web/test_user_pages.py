"""Pages for people: sign-in, desktops as cards, connect, what the buttons do, account."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from backend.directory.models import User, WebSession
from backend.vms.models import Vm, VmScreen
from pools.models import Lease, Pool
from sim import make
from tests.web.place import BASE, PASSWORD, Asker, Place, form_secret


@pytest.fixture
def place(undone_place: Place) -> Place:
    return undone_place


def submit(browser: Asker, path: str, **fields: str) -> TestResponse:
    """Send a form as a page does."""
    return browser.ask("POST", path, data=fields)


def sign_in(client: FlaskClient, name: str, password: str = PASSWORD, **more: str) -> TestResponse:
    fields = {"user": name, "password": password, "csrf_token": form_secret(client), **more}
    return client.post("/sign-in", base_url=BASE, data=fields)


def follow(client: FlaskClient, said: TestResponse) -> str:
    assert said.status_code == 303, said.text[:300]
    return client.get(said.headers["Location"], base_url=BASE).text


def own_vm_gone(place: Place) -> None:
    with place.sessions.begin() as tx:
        tx.delete(tx.get_one(Vm, place.ids["own_vm"]))


def auto_launch_on(place: Place) -> None:
    own_vm_gone(place)
    with place.sessions.begin() as tx:
        tx.get_one(User, place.people["alice"]).auto_launch = True


class TestSignIn:
    def test_leads_to_the_desktops(self, place: Place) -> None:
        client = place.app.test_client()
        said = sign_in(client, "alice")
        assert said.headers["Location"] == "/"
        assert "My desktops" in follow(client, said)

    def test_a_wrong_password_is_an_alert_that_keeps_the_name(self, place: Place) -> None:
        said = sign_in(place.app.test_client(), "alice", "wrong")
        assert said.status_code == 401
        assert re.search(r'role="alert".*?Check', said.text, re.S) or 'role="alert"' in said.text
        assert 'value="alice"' in said.text and "wrong" not in re.findall(r'value="([^"]*)"', said.text)

    def test_several_directories_are_offered(self, place: Place) -> None:
        client = place.app.test_client()
        assert 'name="directory"' not in client.get("/sign-in", base_url=BASE).text
        with place.sessions.begin() as tx:
            make.a_directory(tx, "corp.example", "ad", config={"servers": []}, trouble="No domain controller answers.")
        page = client.get("/sign-in", base_url=BASE).text
        assert '<option value="corp.example"' in page and "No domain controller answers." in page
        assert sign_in(client, "alice", directory="internal").status_code == 303

    def test_goes_on_to_where_one_wanted_to_go_but_never_elsewhere(self, place: Place) -> None:
        client = place.app.test_client()
        asked = client.get("/admin/pools?search=x", base_url=BASE)
        assert asked.headers["Location"] == "/sign-in?next=/admin/pools?search%3Dx"
        assert sign_in(client, "root", next="/admin/pools?search=x").headers["Location"] == "/admin/pools?search=x"
        for elsewhere in ("https://evil.example/", "//evil.example/", "/\\evil.example"):
            assert sign_in(place.app.test_client(), "root", next=elsewhere).headers["Location"] == "/"

    def test_who_is_signed_in_is_led_on_and_launches_nothing(self, place: Place) -> None:
        auto_launch_on(place)
        said = place.browser("alice").get("/sign-in")
        assert (said.status_code, said.headers["Location"]) == (303, "/")


class TestAutoLaunch:
    def test_leads_into_the_only_desktop_once_a_session(self, place: Place) -> None:
        auto_launch_on(place)
        client = place.app.test_client()
        assert sign_in(client, "alice").headers["Location"] == f"/desktops/{place.ids['pool']}"
        with place.sessions() as tx:
            newest = tx.scalars(sa.select(WebSession).where(WebSession.client == "browser")).one()
            assert newest.launched
        assert "My desktops" in client.get("/", base_url=BASE).text

    def test_takes_a_desktop_for_who_has_none(self, place: Place) -> None:
        with place.sessions.begin() as tx:
            bob = tx.get_one(User, place.people["bob"])
            bob.auto_launch = True
            pool = tx.get_one(Pool, place.ids["pool"])
            pool.size = 2
            make.a_permission(tx, bob, pool)
        client = place.app.test_client()
        sign_in(client, "bob")
        with place.sessions() as tx:
            assert tx.scalars(sa.select(Lease.state).where(Lease.user_id == place.people["bob"])).all() == ["starting"]


class TestDesktops:
    def test_are_cards_with_state_time_and_only_the_possible_buttons(self, place: Place) -> None:
        page = place.browser("alice").get("/").text
        assert page.count("<article") == 2
        assert "1 h 0 min left" in page and "Running" in page and "Start and connect" in page
        assert f"/screens/{place.ids['vm']}" in page and f"/screens/{place.ids['own_vm']}" not in page
        assert f"/desktops/{place.ids['pool']}/give_back" in page and f"/desktops/{place.ids['own_vm']}/give_back" not in page

    def test_asked_by_the_page_itself_are_the_cards_alone(self, place: Place) -> None:
        cards = place.browser("alice").get("/", headers={"HX-Request": "true"}).text
        assert "<html" not in cards and cards.count("<article") == 2

    def test_who_has_none_is_told_what_to_do(self, place: Place) -> None:
        page = place.browser("bob").get("/").text
        assert "No desktop has been given to you yet" in page and "Ask them for access" in page

    def test_the_administration_is_offered_to_administrators_alone(self, place: Place) -> None:
        assert "/admin/" in place.browser("keeper").get("/").text
        assert "/admin/" not in place.browser("alice").get("/").text

    def test_a_picture_that_is_not_there_yet_is_no_error(self, place: Place) -> None:
        alice = place.browser("alice")
        assert alice.get(f"/screens/{place.ids['vm']}").status_code == 204
        with place.sessions.begin() as tx:
            row = tx.get_one(VmScreen, place.ids["vm"])
            row.webp, row.taken_at = b"RIFFxxxxWEBP", place.clock.now()
        got = alice.get(f"/screens/{place.ids['vm']}")
        assert (got.status_code, got.content_type, got.data) == (200, "image/webp", b"RIFFxxxxWEBP")


class TestConnect:
    def test_leads_to_the_desktops_page_which_takes_nothing_by_itself(self, place: Place) -> None:
        alice, path = place.browser("alice"), f"/desktops/{place.ids['pool']}"
        said = submit(alice, f"{path}/connect")
        assert (said.status_code, said.headers["Location"]) == (303, path)
        assert 'data-live="yes"' in alice.get(path).text
        submit(alice, f"{path}/give_back")
        with place.sessions() as tx:
            before = tx.scalar(sa.select(sa.func.count()).select_from(Lease))
        page = alice.get(path).text
        assert 'data-live="no"' in page and "You have no desktop here now" in page
        with place.sessions() as tx:
            assert tx.scalar(sa.select(sa.func.count()).select_from(Lease)) == before, "reload and Back take no desktop"

    def test_progress_tells_the_place_in_the_queue(self, place: Place) -> None:
        with place.sessions.begin() as tx:
            pool = tx.get_one(Pool, place.ids["pool"])
            pool.size = 1
            for who in ("bob", "auditor"):
                make.a_permission(tx, tx.get_one(User, place.people[who]), pool)
                make.a_lease(tx, pool, place.people[who], "queued", now=place.clock.now())
        page = place.browser("auditor").get(f"/desktops/{place.ids['pool']}/progress").text
        assert 'data-state="queued"' in page and "<strong>2</strong>" in page and "Leave the queue" in page
        submit(place.browser("bob"), f"/desktops/{place.ids['pool']}/leave")
        assert "<strong>1</strong>" in place.browser("auditor").get(f"/desktops/{place.ids['pool']}/progress").text

    def test_progress_tells_how_far_the_start_is(self, place: Place) -> None:
        alice, path = place.browser("alice"), f"/desktops/{place.ids['own_vm']}"
        assert "switched off" in alice.get(f"{path}/progress").text
        submit(alice, f"{path}/connect")
        page = alice.get(f"{path}/progress").text
        assert 'data-state="starting"' in page and '<progress class="lh-progress" max="100" value="0"' in page

    def test_a_refusal_is_a_sentence_on_the_desktops_page(self, place: Place) -> None:
        client_of_bob = place.browser("bob")
        said = submit(client_of_bob, f"/desktops/{place.ids['pool']}/connect")
        assert "You have no such desktop" in follow(client_of_bob.client, said)

    def test_the_console_page_offers_what_the_desktop_offers(self, place: Place) -> None:
        page = place.browser("alice").get(f"/desktops/{place.ids['pool']}").text
        assert f'data-connect="/api/v1/me/desktops/{place.ids["pool"]}/connect"' in page
        assert "Open in remote-viewer" in page and "Give back" in page
        own = place.browser("alice").get(f"/desktops/{place.ids['own_vm']}").text
        assert "Give back" not in own

    def test_the_person_may_choose_spice_where_both_are_offered(self, place: Place) -> None:
        alice, pool = place.browser("alice"), place.ids["pool"]
        assert "Connect with SPICE" in alice.get("/").text
        page = alice.get(f"/desktops/{pool}").text
        assert 'data-protocols="vnc spice"' in page and "Show with SPICE" in page
        said = submit(alice, f"/desktops/{pool}/connect", protocol="spice")
        assert said.location == f"/desktops/{pool}?protocol=spice"
        with place.sessions.begin() as tx:
            tx.get_one(Pool, pool).protocols = ["spice"]
        page = alice.get(f"/desktops/{pool}").text
        assert 'data-protocols="spice"' in page and "Show with" not in page
        assert "This desktop offers SPICE, not VNC." in follow(
            alice.client, submit(alice, f"/desktops/{pool}/connect", protocol="vnc"))

    def test_somebody_elses_desktop_is_not_there(self, place: Place) -> None:
        assert place.browser("bob").get(f"/desktops/{place.ids['pool']}").status_code == 404


class TestButtons:
    def test_extend_tells_the_new_time_in_the_consoles_bar(self, place: Place) -> None:
        bar = place.browser("alice").ask("POST", f"/desktops/{place.ids['pool']}/extend", headers={"HX-Request": "true"}).text
        assert "1 h 30 min left" in bar and "<html" not in bar

    def test_what_is_not_allowed_is_said_where_it_was_asked(self, place: Place) -> None:
        alice = place.browser("alice")
        for _ in range(2):
            submit(alice, f"/desktops/{place.ids['pool']}/extend")
        bar = alice.ask("POST", f"/desktops/{place.ids['pool']}/extend", headers={"HX-Request": "true"})
        assert bar.status_code == 200 and "extend" in bar.text.lower()

    def test_give_back_ends_the_lease(self, place: Place) -> None:
        alice = place.browser("alice")
        assert "is given back" in follow(alice.client, submit(alice, f"/desktops/{place.ids['pool']}/give_back"))
        with place.sessions() as tx:
            assert tx.get_one(Lease, place.ids["lease"]).state == "returning"

    def test_the_viewer_file_opens_the_desktop_in_remote_viewer(self, place: Place) -> None:
        said = submit(place.browser("alice"), f"/desktops/{place.ids['pool']}/viewer")
        assert said.content_type == "application/x-virt-viewer" and "attachment" in said.headers["Content-Disposition"]
        assert said.text.startswith("[virt-viewer]\ntype=spice\n") and "delete-this-file=1" in said.text

    def test_no_viewer_file_while_the_desktop_is_off(self, place: Place) -> None:
        said = submit(place.browser("alice"), f"/desktops/{place.ids['own_vm']}/viewer")
        assert said.headers["Location"] == f"/desktops/{place.ids['own_vm']}"

    def test_a_form_without_its_secret_is_refused(self, place: Place) -> None:
        alice = place.browser("alice")
        alice.headers.clear()
        assert submit(alice, f"/desktops/{place.ids['pool']}/give_back").status_code == 403


class TestAccount:
    def test_lists_sessions_and_ends_one(self, place: Place) -> None:
        alice = place.browser("alice")
        page = alice.get("/account").text
        assert "this one" in page and "A program" in page
        said = submit(alice, f"/account/sessions/{place.session_ids['alice']}/end")
        assert "That session has ended." in follow(alice.client, said)
        assert place.as_("alice").get("/api/v1/me").status_code == 401

    def test_somebody_elses_session_is_not_there(self, place: Place) -> None:
        assert submit(place.browser("bob"), f"/account/sessions/{place.session_ids['alice']}/end").status_code == 404

    def test_sign_out_everywhere(self, place: Place) -> None:
        alice = place.browser("alice")
        assert "signed out everywhere" in follow(alice.client, submit(alice, "/sign-out-everywhere"))
        assert place.as_("alice").get("/api/v1/me").status_code == 401
        assert alice.get("/").status_code == 303

    @pytest.mark.parametrize(
        ("old", "new", "again", "sentence"),
        [
            ("wrong", "another good password", "another good password", "not your password"),
            (PASSWORD, "another good password", "another bad password", "not the same"),
            (PASSWORD, "short", "short", "too short"),
        ],
    )
    def test_a_bad_new_password_is_told_at_its_field(self, place: Place, old: str, new: str, again: str, sentence: str) -> None:
        said = submit(place.browser("alice"), "/account/password", old=old, new=new, again=again)
        assert said.status_code == 422
        assert re.search(rf'pf-m-error.*?aria-invalid="true".*?{sentence}', said.text, re.S)

    def test_a_good_new_password_ends_the_other_sessions(self, place: Place) -> None:
        alice = place.browser("alice")
        new = "another good password"
        assert "is changed" in follow(alice.client, submit(alice, "/account/password", old=PASSWORD, new=new, again=new))
        assert place.as_("alice").get("/api/v1/me").status_code == 401
        assert sign_in(place.app.test_client(), "alice", new).status_code == 303


def test_the_time_of_a_lease_that_ends_is_told_with_care(place: Place) -> None:
    place.clock.sleep(58 * 60)
    with place.sessions.begin() as tx:
        lease = tx.get_one(Lease, place.ids["lease"])
        lease.state, lease.ends_at = "expiring", place.clock.now() + timedelta(minutes=2)
    page = place.browser("alice").get("/").text
    assert "Ending soon" in page and "lh-lease--soon" in page and "2 min left" in page
