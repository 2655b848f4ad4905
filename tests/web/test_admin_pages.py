"""Pages of the administration: tables with search, details, forms that lose nothing, buttons, and what each role is shown."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from backend.calendars.models import Calendar
from backend.directory.models import Permission, User
from backend.hosts.models import Host
from backend.tasks.models import Step, Task
from backend.vms.models import Vm
from broker.models import ConsoleSession
from pools.models import Assignment, Lease, Pool, PoolMember, Rollout
from portal.admin_actions import FORMS, OFFERED
from portal.things import SIDE_BAR, THINGS
from sim import make
from tests.web.place import BASE, PASSWORD, Asker, Place

PLURALS = sorted(THINGS)


@pytest.fixture
def place(undone_place: Place) -> Place:
    return undone_place


def submit(browser: Asker, path: str, **fields: object) -> TestResponse:
    """Send a form as a page does."""
    return browser.ask("POST", path, data={k.replace("__", "."): v for k, v in fields.items()})


def follow(browser: Asker, said: TestResponse) -> str:
    assert said.status_code == 303, said.text[:500]
    return browser.get(said.headers["Location"]).text


def new_pool(place: Place, **more: object) -> dict[str, object]:
    fields = {
        "asked": "1",
        "pool_name": "Labs",
        "template_id": str(place.ids["template"]),
        "size": "3",
        "spares": "1",
        "lease_s": "2",
        "lease_s__unit": "h",
        "per_user": "1",
        "extensions": "2",
        "extend_s": "30",
        "extend_s__unit": "min",
        "warn_s": "5",
        "warn_s__unit": "min",
        "grace_s": "60",
        "grace_s__unit": "s",
        "shutdown_s": "60",
        "shutdown_s__unit": "s",
        "rights": ["start", "reset"],
        "protocols": ["vnc"],
    }
    return {**fields, **more}


class TestTables:
    @pytest.mark.parametrize("plural", PLURALS)
    def test_every_kind_of_thing_has_a_table_and_a_detail_page(self, place: Place, plural: str) -> None:
        root, thing = place.browser("root"), THINGS[plural]
        page = root.get(f"/admin/{plural}")
        assert page.status_code == 200 and f"<h1>{thing.title}</h1>" in page.text
        assert f'id="r-{thing.kind}-' in page.text
        rows = root.get(f"/admin/{plural}?rows=1").text
        assert "<html" not in rows and f'id="r-{thing.kind}-' in rows
        assert root.get(f"/admin/{plural}/{place.ids[thing.kind]}").status_code == 200

    def test_the_search_speaks_the_query_language_and_explains_it(self, place: Place) -> None:
        root = place.browser("root")
        assert "desktops-1" in root.get("/admin/vms?search=state = up").text
        assert "desktops-1" not in root.get("/admin/vms?search=state = down").text
        assert "Nothing matches" in root.get("/admin/vms?search=name = nobody").text
        wrong = root.get("/admin/vms?search=colour = red")
        assert (
            wrong.status_code == 422
            and "aria-invalid" in wrong.text
            and "memory_mib" in wrong.text
            and "but found “colour”" in wrong.text
        )

    def test_long_tables_come_in_pages(self, place: Place) -> None:
        with place.sessions.begin() as tx:
            for n in range(60):
                make.a_vm(tx, f"many-{n:02}")
        root = place.browser("root")
        first = root.get("/admin/vms?search=name like many-*").text
        assert first.count('id="r-vm-') == 50 and "60 rows" in first
        more = re.search(r'href="(/admin/vms\?[^"]*after=[^"]*)"', first)
        assert more
        assert root.get(more[1].replace("&amp;", "&")).text.count('id="r-vm-') == 10

    def test_what_is_written_in_names_is_text(self, place: Place) -> None:
        with place.sessions.begin() as tx:
            tx.get_one(Vm, place.ids["own_vm"]).description = "<script>alert(1)</script>"
            tx.get_one(Pool, place.ids["pool"]).name = "<b>Desktops</b>"
        root = place.browser("root")
        for path in ("/admin/pools", f"/admin/vms/{place.ids['own_vm']}", f"/admin/pools/{place.ids['pool']}", "/admin/"):
            page = root.get(path).text
            assert "<script>alert" not in page and "<b>Desktops" not in page

    def test_no_page_holds_inline_script_or_style(self, place: Place) -> None:
        root = place.browser("root")
        paths = [
            "/",
            "/account",
            "/admin/",
            *(f"/admin/{p}" for p in PLURALS),
            *(f"/admin/{THINGS[p].plural}/{place.ids[THINGS[p].kind]}" for p in PLURALS),
        ]
        for path in paths:
            page = root.get(path).text
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", page), path

    def test_every_icon_is_in_the_sprite(self, place: Place) -> None:
        sprite = Path(place.app.static_folder or "") / "vendor" / "icons.svg"
        if not sprite.exists():
            pytest.skip("the front-end files are not in place: npm ci, python -m standalone.frontend")
        known = set(re.findall(r'id="([a-z0-9-]+)"', sprite.read_text()))
        root = place.browser("root")
        used = {
            icon
            for path in ["/", "/account", "/admin/", *(f"/admin/{p}" for p in PLURALS), "/admin/do/pool.create"]
            for icon in re.findall(r"icons\.svg[^#\"]*#([a-z0-9-]+)", root.get(path).text)
        }
        assert used and used <= known, used - known


class TestWhatARoleIsShown:
    def test_the_side_bar_has_what_one_may_see(self, place: Place) -> None:
        everything = {"map"} | {name for _, names in SIDE_BAR for name in names}
        keepers = {"pools", "leases", "bookings", "vms", "consoles", "calendars", "devices", "accessrules", "directories",
                   "tasks", "events", "templates", "affinitygroups", "affinitylabels", "schedulingpolicies"}
        for who, wanted in (("root", everything), ("auditor", everything), ("keeper", keepers)):
            page = place.browser(who).get("/admin/").text
            assert set(re.findall(r'class="pf-v6-c-nav__link[^"]*" href="/admin/([a-z]+)"', page)) == wanted, who

    def test_a_plain_user_sees_no_administration(self, place: Place) -> None:
        alice = place.browser("alice")
        for path in ("/admin/", "/admin/vms", f"/admin/vms/{place.ids['own_vm']}", "/admin/do/pool.create"):
            assert alice.get(path).status_code == 403, path

    def test_an_auditor_sees_everything_and_no_button(self, place: Place) -> None:
        auditor = place.browser("auditor")
        for plural in ("pools", "leases", "vms", "hosts"):
            page = auditor.get(f"/admin/{plural}").text
            assert "data-ask=" not in page and "/admin/do/" not in page, plural
        assert auditor.get("/admin/do/host.create").status_code in (200, 403)
        assert submit(auditor, "/admin/do/vm.start", vm_id=place.ids["own_vm"]).status_code == 303
        with place.sessions() as tx:
            assert not tx.scalars(sa.select(Task).where(Task.actor_name == "auditor")).all()

    def test_who_runs_one_pool_sees_that_one(self, place: Place) -> None:
        with place.sessions.begin() as tx:
            other = make.a_pool(tx, "Secret")
        keeper = place.browser("keeper")
        assert "Secret" not in keeper.get("/admin/pools").text
        assert keeper.get(f"/admin/pools/{other.id}").status_code == 404
        page = keeper.get(f"/admin/pools/{place.ids['pool']}").text
        assert "Entitle people" in page and "Edit" in page and "alice" in page


class TestPools:
    def test_create(self, place: Place) -> None:
        root = place.browser("root")
        form = root.get("/admin/do/pool.create").text
        assert "What people see in their portal" in form and 'value="1"' in form
        page = follow(root, submit(root, "/admin/do/pool.create", **new_pool(place)))
        assert "<h1>Labs" in page
        with place.sessions() as tx:
            pool = tx.scalars(sa.select(Pool).where(Pool.name == "Labs")).one()
            assert (pool.size, pool.spares, pool.lease_s, pool.extend_s, pool.rights, pool.protocols) == (
                3,
                1,
                7200,
                1800,
                ["start", "reset"],
                ["vnc"],
            )

    @pytest.mark.parametrize(
        ("field", "value", "sentence"),
        [
            ("pool_name", "", "This is needed."),
            ("size", "many", "Write a number here"),
            ("pool_name", "Desktops", "already a pool named Desktops"),
            ("size", "0", ""),
            ("spares", "9", ""),
            ("template_id", "", "This is needed."),
        ],
    )
    def test_what_is_wrong_is_said_at_its_field_and_nothing_is_lost(
        self, place: Place, field: str, value: str, sentence: str
    ) -> None:
        root = place.browser("root")
        fields = new_pool(place, description="For the labs", **{field: value})
        said = submit(root, "/admin/do/pool.create", **fields)
        assert said.status_code == 422
        assert 'value="For the labs"' in said.text and 'value="2"' in said.text and re.search(r'value="h" selected', said.text)
        assert re.search(rf'id="{field}"[^>]*aria-invalid="true"', said.text), said.text[-3000:]
        assert sentence in said.text
        with place.sessions() as tx:
            assert tx.scalar(sa.select(sa.func.count()).select_from(Pool)) == 1

    def test_edit_begins_with_what_is_there(self, place: Place) -> None:
        keeper, id = place.browser("keeper"), place.ids["pool"]
        form = keeper.get(f"/admin/do/pool.edit?pool_id={id}").text
        assert 'value="Desktops"' in form
        with place.sessions() as tx:
            pool = tx.get_one(Pool, id)
        fields = new_pool(place, pool_id=id, pool_name="Office", size="7", lease_s="0", spares="0")
        del fields["template_id"]
        assert "<h1>Office" in follow(keeper, submit(keeper, "/admin/do/pool.edit", **fields, back=f"/admin/pools/{id}"))
        with place.sessions() as tx:
            pool = tx.get_one(Pool, id)
            assert (pool.name, pool.size, pool.lease_s) == ("Office", 7, None)

    def test_entitle_somebody_found_in_the_directory(self, place: Place) -> None:
        keeper, id = place.browser("keeper"), place.ids["pool"]
        found = keeper.get(f"/admin/find?text=bo&directory={place.ids['directory']}").text
        assert f'value="user:{place.people["bob"]}"' in found
        form = {"directory": place.ids["directory"], "who": f"user:{place.people['bob']}", "valid_until": "2026-12-31"}
        assert "bob" in follow(keeper, submit(keeper, f"/admin/pools/{id}/entitle", **form))
        with place.sessions() as tx:
            given = tx.scalars(sa.select(Permission).where(Permission.user_id == place.people["bob"])).one()
            assert given.valid_until and given.valid_until.date().isoformat() == "2026-12-31"
        said = submit(keeper, f"/admin/pools/{id}/entitlements/{given.id}/take")
        assert "taken back" in follow(keeper, said)

    def test_entitle_nobody_is_told(self, place: Place) -> None:
        said = submit(place.browser("keeper"), f"/admin/pools/{place.ids['pool']}/entitle", directory=place.ids["directory"])
        assert said.status_code == 422 and "choose one" in said.text

    def test_remove_asks_first_and_refuses_while_people_hold_desktops(self, place: Place) -> None:
        keeper, id = place.browser("keeper"), place.ids["pool"]
        ask = keeper.get(f"/admin/question?plural=pools&id={id}&command=pool.remove&word=Remove").text
        assert "<dialog" in ask and 'name="force"' in ask
        said = submit(keeper, "/admin/do/pool.remove", pool_id=id, back=f"/admin/pools/{id}")
        assert "still live" in follow(keeper, said)
        submit(keeper, "/admin/do/pool.remove", pool_id=id, force="on")
        with place.sessions() as tx:
            assert tx.get_one(Pool, id).state == "removing"


class TestButtons:
    def test_take_a_lease_back_with_a_message(self, place: Place) -> None:
        keeper, id = place.browser("keeper"), place.ids["lease"]
        assert (
            "Message for the person"
            in keeper.get(f"/admin/question?plural=leases&id={id}&command=lease.reclaim&word=Take back").text
        )
        submit(keeper, "/admin/do/lease.reclaim", lease_id=id, message="Maintenance at noon.")
        with place.sessions() as tx:
            lease = tx.get_one(Lease, id)
            assert (lease.state, lease.why) == ("returning", "Maintenance at noon.")

    def test_extend_a_lease(self, place: Place) -> None:
        keeper, id = place.browser("keeper"), place.ids["lease"]
        submit(keeper, "/admin/do/lease.extend", lease_id=id, seconds="2", seconds__unit="h")
        with place.sessions() as tx:
            assert tx.get_one(Lease, id).ends_at == place.clock.now() + timedelta(hours=3)

    def test_start_a_vm_and_come_back(self, place: Place) -> None:
        root = place.browser("root")
        said = submit(root, "/admin/do/vm.start", vm_id=place.ids["own_vm"], back="/admin/vms")
        assert said.headers["Location"] == "/admin/vms" and "Start VM alices-own: begun." in follow(root, said)

    def test_back_never_leads_elsewhere(self, place: Place) -> None:
        said = submit(place.browser("root"), "/admin/do/vm.start", vm_id=place.ids["own_vm"], back="//evil.example")
        assert said.headers["Location"] == "/admin/"

    def test_a_button_that_is_gone_meanwhile_says_so(self, place: Place) -> None:
        said = place.browser("root").get(
            f"/admin/question?plural=hosts&id={place.ids['host']}&command=host.activate&word=Activate"
        )
        assert said.status_code == 409

    def test_end_a_console_and_a_session(self, place: Place) -> None:
        root = place.browser("root")
        submit(root, "/admin/do/console.end", id=place.ids["console"], message="Time for a break.")
        submit(root, "/admin/do/session.end", id=place.ids["session"])
        with place.sessions() as tx:
            assert tx.get_one(ConsoleSession, place.ids["console"]).end_wanted == "Time for a break."
        assert place.as_("alice").get("/api/v1/me").status_code == 401

    def test_cancel_a_task(self, place: Place) -> None:
        submit(place.browser("root"), "/admin/do/task.cancel", id=place.ids["task"])
        with place.sessions() as tx:
            assert tx.get_one(Task, place.ids["task"]).state == "cancelled"

    def test_no_command_but_those_of_the_pages_can_be_asked_for(self, place: Place) -> None:
        root = place.browser("root")
        for command in ("ticket.set", "directory.edit", "nothing.at_all"):
            assert command not in OFFERED
            assert submit(root, f"/admin/do/{command}").status_code == 404
        assert set(place.parts.commands) >= FORMS and set(place.parts.commands) >= OFFERED

    def test_another_version_is_offered_in_place_of_the_one_that_is_rolled_out(self, place: Place) -> None:
        keeper, pool_id = place.browser("keeper"), place.ids["pool"]
        page = keeper.get(f"/admin/pools/{pool_id}").text
        assert "Another version instead" in page
        [about] = {link.replace("&amp;", "&") for link in re.findall(r'href="([^"]*/pool.roll_out[^"]*)"', page)}
        assert "supersede=true" in about
        assert re.search(r'name="supersede"[^>]*checked', keeper.get(about).text)
        with place.sessions.begin() as tx:
            tx.execute(sa.update(Rollout).values(state="succeeded"))
        assert "supersede" not in keeper.get(f"/admin/pools/{pool_id}").text

    def test_repair_is_offered_for_what_is_broken(self, place: Place) -> None:
        assert "Repair" not in place.browser("keeper").get("/admin/members").text
        with place.sessions.begin() as tx:
            tx.get_one(PoolMember, place.ids["member"]).state = "broken"
        assert "Repair" in place.browser("keeper").get("/admin/members").text


class TestSpecialPages:
    def test_a_new_hosts_command_is_shown_once(self, place: Place) -> None:
        root = place.browser("root")
        page = submit(root, "/admin/do/host.create", host_name="beta", cluster_id=place.ids["cluster"]).text
        command = re.search(r'<pre id="enroll"[^>]*>([^<]+)</pre>', page)
        assert command and f"--manager {BASE} --token " in command[1]
        with place.sessions() as tx:
            host = tx.scalars(sa.select(Host).where(Host.name == "beta")).one()
        token = re.search(r"--token (\S+)", command[1])
        assert (
            token
            and token[1]
            not in root.get(f"/admin/hosts/{host.id}").text + root.get("/admin/events").text + root.get("/admin/tasks").text
        )

    def test_a_new_user_can_sign_in(self, place: Place) -> None:
        root = place.browser("root")
        page = follow(
            root,
            submit(root, "/admin/do/user.create", user_name="erin", display_name="Erin", password=PASSWORD, auto_launch="on"),
        )
        assert "erin can sign in now." in page
        assert place.as_(None).post("/api/v1/session", {"user": "erin", "password": PASSWORD}).status_code == 201
        with place.sessions() as tx:
            assert tx.scalars(sa.select(User).where(User.name == "erin")).one().auto_launch

    def test_a_bad_new_user_loses_nothing(self, place: Place) -> None:
        said = submit(
            place.browser("root"), "/admin/do/user.create", user_name="Erin!", display_name="Erin E.", password=PASSWORD
        )
        assert (
            said.status_code == 422
            and 'value="Erin E."' in said.text
            and "cannot be a user" in said.text
            and PASSWORD not in said.text
        )

    def test_set_somebodys_password(self, place: Place) -> None:
        submit(place.browser("root"), f"/admin/users/{place.people['alice']}/password", password="another good password")
        assert place.as_(None).post("/api/v1/session", {"user": "alice", "password": "another good password"}).status_code == 201

    def test_give_a_role(self, place: Place) -> None:
        root = place.browser("root")
        form = {
            "on": f"pool:{place.ids['pool']}",
            "role": "pool_admin",
            "directory": place.ids["directory"],
            "who": f"user:{place.people['bob']}",
        }
        assert "Pool administrator" in follow(root, submit(root, "/admin/do/permission.grant", **form))
        assert place.browser("bob").get(f"/admin/pools/{place.ids['pool']}").status_code == 200

    def test_a_directory_that_cannot_be_reached_is_told_and_nothing_is_lost(self, place: Place) -> None:
        fields = {
            "directory_name": "corp.example",
            "servers": "ldap://dc1.corp.example",
            "bind_user": "svc",
            "bind_password": "a secret",
        }
        said = submit(place.browser("root"), "/admin/do/directory.add", **fields, test="1")
        assert said.status_code == 422 and "would send passwords unprotected" in said.text and 'value="corp.example"' in said.text

    def test_disable_and_enable_a_user(self, place: Place) -> None:
        root, bob = place.browser("root"), place.people["bob"]
        submit(root, "/admin/do/user.edit", user_id=bob, enabled="false")
        assert place.as_("bob").get("/api/v1/me").status_code == 401
        assert "Disabled" in root.get("/admin/users?search=enabled = false").text
        submit(root, "/admin/do/user.edit", user_id=bob, enabled="true")
        with place.sessions() as tx:
            assert tx.get_one(User, bob).enabled


class TestWhy:
    def test_a_lease_shows_what_the_broker_decided_and_why(self, place: Place) -> None:
        with place.sessions.begin() as tx:
            vm = tx.get_one(Vm, place.ids["vm"])
            from pools.models import Decision

            tx.get_one(Decision, place.ids["decision"]).candidates = {
                "members": [{"vm_id": str(vm.id), "name": "desktops-1", "state": "spare", "reason": "spare, free and up: chosen"}]
            }
        keeper = place.browser("keeper")
        assert "is ready for you" in keeper.get(f"/admin/leases/{place.ids['lease']}").text
        page = keeper.get(f"/admin/decisions/{place.ids['decision']}").text
        assert "spare, free and up: chosen" in page

    def test_a_task_shows_its_steps(self, place: Place) -> None:
        with place.sessions.begin() as tx:
            tx.add(
                Step(
                    uid=UUID(int=7),
                    task_id=place.ids["task"],
                    ordinal=0,
                    name="launch",
                    host_id=place.ids["host"],
                    verb="start_vm",
                    state="asked",
                    progress=40,
                    message="booting",
                    asked_at=place.clock.now(),
                )
            )
        page = place.browser("root").get(f"/admin/tasks/{place.ids['task']}", headers={"HX-Request": "true"}).text
        assert (
            "Launch" in page
            and "asked of host alpha" in page
            and "booting" in page
            and 'value="40"' in page
            and "<html" not in page
        )


class TestCalendars:
    def test_a_calendar_is_created_edited_and_given_with_an_entitlement(self, place: Place) -> None:
        root = place.browser("root")
        form = {"asked": "1", "calendar_name": "Course", "windows": "Tue 14:00-16:00\r\nThu 14:00-16:00"}
        form["timezone"] = "Mars/Olympus"
        page = root.ask("POST", "/admin/do/calendar.create", data=form)
        assert page.status_code == 422 and "is not a time zone" in page.text and "Thu 14:00-16:00" in page.text
        assert root.ask("POST", "/admin/do/calendar.create", data=form | {"timezone": "UTC"}).status_code == 303
        with place.sessions() as tx:
            calendar = tx.scalars(sa.select(Calendar).where(Calendar.name == "Course")).one()
        assert calendar.windows == ["Tue 14:00-16:00", "Thu 14:00-16:00"]
        page = root.get(f"/admin/do/calendar.edit?calendar_id={calendar.id}")
        assert "Tue 14:00-16:00\nThu 14:00-16:00</textarea>" in page.text
        form = {"who": f"user:{place.people['bob']}", "directory": str(place.ids["directory"]), "calendar_id": str(calendar.id)}
        path = f"/admin/pools/{place.ids['pool']}/entitle"
        assert "priority as a whole number" in root.ask("POST", path, data=form | {"priority": "high"}).text
        assert root.ask("POST", path, data=form | {"priority": "7"}).status_code == 303
        page = root.get(f"/admin/pools/{place.ids['pool']}").text
        assert "Course priority 7" in page

    def test_a_desktop_is_assigned_by_a_form(self, place: Place) -> None:
        root, member = place.browser("root"), place.ids["member"]
        assert ">alice</option>" in root.get(f"/admin/do/member.assign?member_id={member}").text
        form = {"asked": "1", "member_id": str(member), "user_id": str(place.people["alice"])}
        refused = root.ask("POST", "/admin/do/member.assign", data=form)
        assert refused.status_code == 422 and "only a dedicated pool" in refused.text
        with place.sessions.begin() as tx:
            tx.get_one(Pool, place.ids["pool"]).type = "dedicated"
        assert root.ask("POST", "/admin/do/member.assign", data=form).status_code == 303
        with place.sessions() as tx:
            assert tx.scalars(sa.select(Assignment.user_id)).all() == [place.people["alice"]]


class TestVms:
    def test_a_vm_shows_its_snapshots_and_the_people_inside(self, place: Place) -> None:
        root, vm = place.browser("root"), place.ids["vm"]
        page = root.get(f"/admin/vms/{vm}").text
        assert "Before the update" in page and "People inside" in page and ">More<" in page
        for command, word, field in (("vm.message", "Message", "text"), ("vm.snapshot", "Snapshot", "snapshot_name")):
            asked = root.get(f"/admin/question?plural=vms&id={vm}&command={command}&word={word}")
            if command == "vm.message":
                assert asked.status_code == 409  # its guest agent does not answer
                with place.sessions.begin() as tx:
                    tx.get_one(Vm, vm).guest = {"hostname": "desktops-1"}
                asked = root.get(f"/admin/question?plural=vms&id={vm}&command={command}&word={word}")
            assert f'name="{field}"' in asked.text and f'name="vm_id" value="{vm}"' in asked.text
        said = submit(root, "/admin/do/vm.snapshot", vm_id=vm, snapshot_name="Before lunch", back=f"/admin/vms/{vm}")
        assert "Take a snapshot of VM desktops-1: begun." in follow(root, said)

    def test_a_message_needs_its_text(self, place: Place) -> None:
        with place.sessions.begin() as tx:
            tx.get_one(Vm, place.ids["vm"]).guest = {"hostname": "desktops-1"}
        said = place.as_("root").post(f"/api/v1/vms/{place.ids['vm']}/message", {})
        assert said.status_code == 422 and "text" in said.get_json()["error"]["message"]

    def test_a_snapshot_has_its_buttons(self, place: Place) -> None:
        root, snapshot = place.browser("root"), place.ids["snapshot"]
        where = f"/admin/question?plural=snapshots&id={snapshot}&command=vm.remove_snapshot&word=Remove"
        asked = root.get(where).text
        assert f'name="snapshot_id" value="{snapshot}"' in asked and f'name="vm_id" value="{place.ids["vm"]}"' in asked
        said = submit(root, "/admin/do/vm.remove_snapshot", vm_id=place.ids["vm"], snapshot_id=snapshot, back="/admin/snapshots")
        assert "begun" in follow(root, said)
