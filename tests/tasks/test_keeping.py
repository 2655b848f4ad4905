"""What VMs and templates are lies in their storage domain soon after it changes, and is gone soon after they are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.loops import tick
from backend.storage.keeping import KeepDefinitions
from backend.storage.models import KeptDefinition
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from backend.vms.commands.define import CreateVm, RemoveVm
from backend.vms.commands.snapshots import SnapshotVm
from backend.vms.models import Template, Vm
from hostapi.metadata import TemplateBody, VmBody, parse
from hostapi.types import Definition
from sim.installation import Installation
from tests.conftest import ToldClock

PATH = "/srv/alpha"


@pytest.fixture
def place(sessions: Sessions, clock: ToldClock) -> Installation:
    place = Installation(sessions, clock)
    place.add_host("alpha")
    place.add_pool("Pool")
    return place


def make_vm(place: Installation, name: str) -> Any:
    with place.tx() as tx:
        template_id = tx.scalars(sa.select(Template.id)).one()
        submit(tx, CreateVm(name, template_id, high_availability=True), SYSTEM, place.clock.now())
    place.settle()
    with place.tx() as tx:
        return tx.scalars(sa.select(Vm.id).where(Vm.name == name)).one()


def kept(place: Installation) -> dict[str, Any]:
    found = place.sim.folder(PATH).definitions.values()
    return {f"{one.kind} {body.name}": body for one in found for body in [parse(one.kind, one.text)]}


def test_what_is_and_what_changes_is_kept(place: Installation) -> None:
    loop = KeepDefinitions(place.door)
    vm_id = make_vm(place, "w1")
    tick(place.sessions, loop)
    assert kept(place).keys() == {"domain alpha-disks", "template Pool template", "vm w1"}
    vm: VmBody = kept(place)["vm w1"]
    template: TemplateBody = kept(place)["template Pool template"]
    assert vm.id == vm_id and vm.template_id == template.id and vm.high_availability
    assert [disk.backing_id for disk in vm.disks] == [template.disks[0].id] and vm.snapshots == ()
    with place.tx() as tx:
        assert loop.read(tx) == []
        submit(tx, SnapshotVm(vm_id, "before"), SYSTEM, place.clock.now())
        tx.get(Vm, vm_id).next_run = {"memory_mib": 999}
    place.settle()
    tick(place.sessions, loop)
    assert [one.name for one in kept(place)["vm w1"].snapshots] == ["before"] and kept(place)["vm w1"].memory_mib == 999
    with place.tx() as tx:
        submit(tx, RemoveVm(vm_id), SYSTEM, place.clock.now())
    place.settle()
    tick(place.sessions, loop)
    assert "vm w1" not in kept(place)
    with place.tx() as tx:
        assert loop.read(tx) == [] and "vm" not in tx.scalars(sa.select(KeptDefinition.of)).all()


def test_a_manager_that_dies_in_between_is_followed_by_one_that_goes_on(place: Installation) -> None:
    loop = KeepDefinitions(place.door)
    vm_id = make_vm(place, "w1")
    with place.tx() as tx:
        early = loop.read(tx)  # and here the manager stalls
    with place.tx() as tx:
        tx.get(Vm, vm_id).description = "of the other manager"
    tick(place.sessions, loop)
    late = loop.gather(early)  # what it had asked arrives at last
    with place.tx() as tx:
        loop.apply(tx, late)
    tick(place.sessions, loop)
    assert kept(place)["vm w1"].description == "of the other manager"
    with place.tx() as tx:
        assert loop.read(tx) == []


def test_a_silent_host_is_asked_again_and_a_database_that_is_older_than_the_storage_catches_up(place: Installation) -> None:
    loop = KeepDefinitions(place.door)
    vm_id = make_vm(place, "w1")
    place.sim.do("network alpha off")
    tick(place.sessions, loop)
    place.sim.do("network alpha on")
    assert kept(place) == {}
    tick(place.sessions, loop)
    folder = place.sim.folder(PATH).definitions
    there = folder["vm", vm_id]
    folder["vm", vm_id] = Definition("vm", vm_id, 40, there.text.replace('"w1"', '"other"'))
    with place.tx() as tx:
        tx.get(Vm, vm_id).description = "ours"
    for _ in range(2):
        tick(place.sessions, loop)
    assert kept(place)["vm w1"].description == "ours" and folder["vm", vm_id].generation == 41


def test_nobody_is_named_in_it(place: Installation) -> None:
    make_vm(place, "w1")
    tick(place.sessions, KeepDefinitions(place.door))
    for one in place.sim.folder(PATH).definitions.values():
        fields = msgspec.json.decode(one.text)
        assert not {"user", "user_id", "owner", "pool_id", "password", "token", "guest", "host_id"} & fields.keys(), fields
