"""Shared storage domains: every host is told, each says whether it reaches them, and VMs run on those that do."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from backend import facts
from backend.db import Sessions
from backend.errors import Invalid
from backend.hosts.models import Host
from backend.storage.commands.domains import CreateDomain
from backend.storage.models import DomainReach, StorageDomain
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.commands.define import CreateVm
from backend.vms.commands.power import StartVm
from backend.vms.models import Template, Vm
from sim.installation import Installation
from tests.conftest import ToldClock


@pytest.fixture
def place(sessions: Sessions, clock: ToldClock) -> Installation:
    place = Installation(sessions, clock)
    for name in ("alpha", "beta", "gamma"):
        place.add_host(name)
    return place


def create(place: Installation, path: str = "/srv/shared", type: str = "posixfs", name: str = "shared") -> int:
    with place.tx() as tx:
        host_id = tx.scalars(sa.select(Host.id).where(Host.name == "alpha")).one()
        return submit(tx, CreateDomain(name, host_id, path, type), SYSTEM, place.clock.now()).id


def reach(place: Installation) -> dict[str, bool]:
    with place.tx() as tx:
        return dict(tx.execute(sa.select(Host.name, DomainReach.ok).join(Host, Host.id == DomainReach.host_id)).all())


def seen_by_scheduler(place: Installation) -> set[str]:
    with place.tx() as tx:
        domain = tx.scalars(sa.select(StorageDomain).where(StorageDomain.name == "shared")).one()
        host = tx.scalars(sa.select(Host)).first()
        return {h.name for h in facts.of_hosts(tx, host.cluster_id) if domain.id in h.domains}


def state(place: Installation) -> str:
    with place.tx() as tx:
        return tx.scalars(sa.select(StorageDomain.state).where(StorageDomain.name == "shared")).one()


def test_every_host_is_told_and_one_that_does_not_mount_it_is_left_out(place: Installation) -> None:
    place.sim.do("storage /srv/shared cut gamma")
    create(place)
    place.run_for(6)
    assert reach(place) == {"alpha": True, "beta": True, "gamma": False}
    assert seen_by_scheduler(place) == {"alpha", "beta"}
    place.sim.do("storage /srv/shared joined gamma")
    place.run_for(20)
    assert seen_by_scheduler(place) == {"alpha", "beta", "gamma"}


def test_it_is_usable_as_long_as_one_host_reaches_it(place: Installation) -> None:
    create(place)
    place.run_for(6)
    for name in ("alpha", "beta"):
        place.sim.do(f"storage /srv/shared cut {name}")
        place.run_for(4)
        assert state(place) == "active"
    assert seen_by_scheduler(place) == {"gamma"}
    place.sim.do("storage /srv/shared cut gamma")
    place.run_for(4)
    assert state(place) == "inactive"
    place.sim.do("storage /srv/shared joined beta")
    place.run_for(4)
    assert state(place) == "active" and seen_by_scheduler(place) == {"beta"}


def test_a_host_that_comes_later_is_told_and_an_empty_folder_is_not_taken_for_it(place: Installation) -> None:
    create(place)
    place.run_for(6)
    place.add_host("delta")
    place.run_for(6)
    assert reach(place)["delta"]
    place.sim.folder("/srv/shared").mark = None  # not mounted any more: an empty folder is there
    place.add_host("late")
    place.run_for(6)
    assert reach(place)["late"] is False


def test_two_domains_never_share_a_folder(place: Installation) -> None:
    create(place)
    place.settle()
    with pytest.raises(Invalid, match="storage domain shared already"), place.tx() as tx:
        host_id = tx.scalars(sa.select(Host.id).where(Host.name == "beta")).one()
        submit(tx, CreateDomain("mine", host_id, "/srv/shared"), SYSTEM, place.clock.now())
    with pytest.raises(Invalid, match="choose from local, posixfs"):
        create(place, "/srv/other", "nfs", "other")


def test_a_vm_on_it_starts_wherever_there_is_room(place: Installation) -> None:
    create(place)
    place.settle()
    place.run_for(6)
    place.add_pool("Pool", on="shared")
    with place.tx() as tx:
        template_id = tx.scalars(sa.select(Template.id).where(Template.name == "Pool template")).one()
        for n in range(3):
            submit(tx, CreateVm(f"w{n}", template_id), SYSTEM, place.clock.now())
    place.settle()
    with place.tx() as tx:
        for id in tx.scalars(sa.select(Vm.id)).all():
            submit(tx, StartVm(id), SYSTEM, place.clock.now())
    place.settle()
    with place.tx() as tx:
        states = tx.execute(sa.select(Vm.state, Vm.host_id)).all()
        failed = tx.scalars(sa.select(Task.error).where(Task.state == "failed")).all()
    assert {state for state, _ in states} == {"up"} and len({host for _, host in states}) == 3, (states, failed)


def test_what_lies_over_a_local_template_lies_on_its_host(place: Installation) -> None:
    create(place)
    place.settle()
    place.add_pool("Local", on="alpha")
    with place.tx() as tx:
        template_id = tx.scalars(sa.select(Template.id).where(Template.name == "Local template")).one()
        shared = tx.scalars(sa.select(StorageDomain.id).where(StorageDomain.name == "shared")).one()
    with pytest.raises(Invalid, match="a folder of one host"), place.tx() as tx:
        submit(tx, CreateVm("w9", template_id, domain_id=shared), SYSTEM, place.clock.now())
