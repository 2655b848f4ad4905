"""Many rows at once: what can be done to all that are chosen, and that a refusal for one stops no other."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.storage.models import Disk
from backend.tasks.models import Task
from backend.vms.models import Vm
from broker.models import ConsoleSession
from sim import make
from tests.web.place import Place

VMS = ("many-1", "many-2", "many-3")


@pytest.fixture
def place(undone_place: Place) -> Place:
    return undone_place


@pytest.fixture
def ids(place: Place) -> list[str]:
    """Three VMs: two are down, the third is up."""
    with place.sessions.begin() as tx:
        made = [make.a_vm(tx, name) for name in VMS]
        for vm in made:
            vm.state = "down"
        made[2].state = "up"
        tx.flush()
        return [str(vm.id) for vm in made]


def _ask(ids: list[str], **more: str) -> str:
    return "&".join([f"id={id}" for id in ids] + [f"{k}={v}" for k, v in more.items()])


def _titles(place: Place, command: str) -> list[str]:
    with place.sessions() as tx:
        return sorted(tx.scalars(sa.select(Task.title).where(Task.command == command, Task.title.like("%many-%"))))


def test_each_button_says_for_how_many(place: Place, ids: list[str]) -> None:
    page = place.browser("root").get(f"/admin/many/vms?{_ask(ids)}").text
    assert "<strong>3</strong> chosen" in page
    assert re.search(r'word=Start"[^>]*>.*?2 of 3', page, re.S) and re.search(r'word=Reset"[^>]*>.*?1 of 3', page, re.S)
    assert "vm.edit" not in page  # a form is for one


def test_what_is_chosen_for_all_is_in_its_table(place: Place) -> None:
    root = place.browser("root")
    assert root.get("/admin/vms").text.count("data-choose ") and "choose.js" in root.get("/admin/vms").text
    assert "data-choose" not in root.get("/admin/events").text  # nothing can be done to what has happened


def test_the_question_names_them_and_the_button_begins_all(place: Place, ids: list[str]) -> None:
    root = place.browser("root")
    asked = root.get(f"/admin/many/vms/question?{_ask(ids, command='vm.start', word='Start')}").text
    assert "Start: 2 VMs" in asked and "many-1" in asked and "many-2" in asked and "many-3" not in asked
    said = root.ask("POST", "/admin/many/vms", data={"id": ids, "command": "vm.start", "word": "Start", "back": "/admin/vms"})
    assert said.status_code == 303 and said.headers["Location"].endswith("/admin/vms")
    assert "Start: begun for many-1, many-2." in root.get("/admin/vms").text
    assert len(_titles(place, "vm.start")) == 2


def test_a_refusal_for_one_stops_no_other_and_is_told_by_name(place: Place, ids: list[str]) -> None:
    root = place.browser("root")
    form = {"command": "vm.start", "word": "Start"}
    assert root.ask("POST", "/admin/many/vms", data=form | {"id": ids[:1]}).status_code == 303
    assert root.ask("POST", "/admin/many/vms", data=form | {"id": ids}).status_code == 303
    page = root.get("/admin/vms").text
    assert "Start: begun for many-2." in page and "Start: not for many-1." in page
    assert len(_titles(place, "vm.start")) == 2


def test_what_is_filled_in_goes_to_each(place: Place, ids: list[str]) -> None:
    root = place.browser("root")
    with place.sessions.begin() as tx:
        domain = make.a_domain(tx, make.a_host(tx))
        for id in ids:
            tx.add(Disk(name=f"disk of {id}", vm_id=UUID(id), domain_id=domain.id, capacity_mib=64, state="ok"))
    form = {"id": ids, "command": "vm.snapshot", "word": "Snapshot", "snapshot_name": "Before"}
    assert root.ask("POST", "/admin/many/vms", data=form).status_code == 303
    with place.sessions() as tx:
        args = tx.scalars(sa.select(Task.args).where(Task.command == "vm.snapshot")).all()
    assert len(args) == 3 and all(each["snapshot_name"] == "Before" for each in args)


def test_consoles_are_ended_together(place: Place) -> None:
    root = place.browser("root")
    form = {"id": str(place.ids["console"]), "command": "console.end", "word": "End", "message": "Enough."}
    asked = root.get(f"/admin/many/consoles?{_ask([form['id']])}").text
    form["word"] = re.search(r"word=([^\"&]+)\"", asked)[1].replace("+", " ")  # type: ignore[index]
    assert root.ask("POST", "/admin/many/consoles", data=form).status_code == 303
    with place.sessions() as tx:
        assert tx.get_one(ConsoleSession, place.ids["console"]) is not None
    assert "begun for" in root.get("/admin/consoles").text


def test_what_went_away_is_left_out_and_too_late_is_said(place: Place, ids: list[str]) -> None:
    root = place.browser("root")
    gone = "00000000-0000-0000-0000-000000000001"
    assert "<strong>1</strong> chosen" in root.get(f"/admin/many/vms?{_ask([ids[0], gone])}").text
    with place.sessions.begin() as tx:
        tx.execute(sa.update(Vm).where(Vm.name.in_(VMS)).values(state="up"))
    late = root.ask("POST", "/admin/many/vms", data={"id": ids, "command": "vm.start", "word": "Start"})
    assert late.status_code == 409 and "changed meanwhile" in late.text


def test_too_many_are_refused(place: Place) -> None:
    ids = [f"00000000-0000-0000-0000-{n:012}" for n in range(201)]
    said = place.browser("root").ask("POST", "/admin/many/vms", data={"id": ids, "command": "vm.start", "word": "Start"})
    assert said.status_code == 422 and "At most 200" in said.text


def test_nobody_presses_for_what_is_not_theirs(place: Place, ids: list[str]) -> None:
    keeper = place.browser("keeper")
    form = {"id": ids, "command": "vm.start", "word": "Start"}
    assert keeper.ask("POST", "/admin/many/vms", data=form).status_code in (403, 409)
    assert _titles(place, "vm.start") == []
