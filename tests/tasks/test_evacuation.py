"""Hosts that go into maintenance: emptied within limits, what cannot leave told, called off, gone on with after a restart."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.hosts.commands import ActivateHost, MaintainHost
from backend.hosts.models import Evacuation, Host
from backend.vms.models import Vm
from pools.models import Pool, PoolMember
from tests.conftest import ToldClock
from tests.tasks.test_migration import Lab


@pytest.fixture
def lab(sessions: Sessions, clock: ToldClock) -> Lab:
    """Three VMs up on alpha."""
    made = Lab(sessions, clock)
    made.place.sim.migrate_s = 2.0
    for name in ("w2", "w3"):
        made.start(name)
    return made


def state(lab: Lab, name: str = "alpha") -> str:
    with lab.place.tx() as tx:
        return tx.scalars(sa.select(Host.state).where(Host.name == name)).one()


def reasons(lab: Lab) -> dict[str, str]:
    with lab.place.tx() as tx:
        return dict(tx.execute(sa.select(Vm.name, Evacuation.why).join(Vm, Vm.id == Evacuation.vm_id)).all())  # type: ignore[arg-type]


def test_a_host_is_emptied_a_few_at_a_time_and_comes_back(lab: Lab) -> None:
    lab.submit(MaintainHost(lab.host_id("alpha")))
    most = 0
    for _ in range(15):
        lab.place.tick()
        most = max(most, len(lab.really("w1") + lab.really("w2") + lab.really("w3")) and lab.destinations())
    assert most == 2 and state(lab) == "maintenance" and reasons(lab) == {}
    assert all(lab.where(name)[0] == "up" and lab.where(name)[1] != "alpha" for name in lab.vms)
    assert len(lab.sentences("vm.migrated")) == 3
    lab.submit(ActivateHost(lab.host_id("alpha")))
    lab.place.run_for(3)
    assert state(lab) == "up"


def test_what_cannot_leave_is_told_and_leaves_as_soon_as_it_can(lab: Lab) -> None:
    for name in ("beta", "gamma"):
        lab.place.sim.do(f"memory {name} 300")
    lab.place.run_for(3)
    lab.submit(MaintainHost(lab.host_id("alpha")))
    lab.place.run_for(12)
    assert state(lab) == "preparing_for_maintenance"
    (name, why), = reasons(lab).items()
    assert why.startswith(f"No host can take VM {name}. Host beta cannot take VM {name}: 256 MiB wanted"), why
    assert len(lab.sentences("vm.cannot_leave")) == 1
    lab.place.sim.do("memory beta 4096")
    lab.place.run_for(25)
    assert state(lab) == "maintenance" and reasons(lab) == {}


def test_activating_it_calls_it_off(lab: Lab) -> None:
    lab.place.sim.migrate_s = 30.0
    lab.submit(MaintainHost(lab.host_id("alpha")))
    lab.place.run_for(4)
    assert lab.destinations() == 2
    lab.submit(ActivateHost(lab.host_id("alpha")))
    lab.place.settle()
    assert state(lab) == "up" and reasons(lab) == {} and lab.destinations() == 0
    assert {lab.where(name) for name in lab.vms} == {("up", "alpha")}


def test_it_goes_on_under_another_manager(lab: Lab) -> None:
    lab.submit(MaintainHost(lab.host_id("alpha")))
    lab.place.run_for(2)
    lab.place.loops[:] = lab.place.new_loops()
    lab.place.runner = lab.place.new_runner("another")
    lab.place.run_for(30)
    assert state(lab) == "maintenance" and all(lab.where(name)[0] == "up" for name in lab.vms)


def test_what_was_on_its_way_to_it_stays_where_it_was(lab: Lab) -> None:
    task = lab.migrate("w1", to="beta")
    lab.place.run_for(1)
    lab.submit(MaintainHost(lab.host_id("beta")))
    lab.place.run_for(5)
    assert lab.task(task).state == "cancelled" and lab.where("w1") == ("up", "alpha") and state(lab, "beta") == "maintenance"


def test_free_desktops_are_shut_down_and_made_ready_elsewhere(lab: Lab) -> None:
    with lab.place.tx() as tx:
        pool = tx.scalars(sa.select(Pool)).one()
        pool.size, pool.spares = 2, 2
    spares = sa.select(sa.func.count()).where(PoolMember.state == "spare")
    lab.place.run_until(lambda tx: tx.scalar(spares) == 2, "two spares")
    with lab.place.tx() as tx:
        hosts = sa.select(Host.name).join(Vm, Vm.host_id == Host.id).where(Vm.pool_id.is_not(None)).order_by(Host.name)
        on = tx.scalars(hosts).first()
    assert on is not None
    lab.submit(MaintainHost(lab.host_id(on)))
    lab.place.run_until(lambda tx: state(lab, on) == "maintenance", "it is empty", limit_s=60)
    lab.place.run_until(lambda tx: tx.scalar(spares) == 2, "two spares elsewhere", limit_s=60)
    assert not [line for line in lab.sentences("vm.migrate") if "pool" in line.lower()]
    with lab.place.tx() as tx:
        assert on not in tx.scalars(sa.select(Host.name).join(Vm, Vm.host_id == Host.id)).all()


def test_a_paused_vm_keeps_it_and_says_so(lab: Lab) -> None:
    with lab.place.tx() as tx:
        tx.execute(sa.text("UPDATE vm SET state = 'paused' WHERE name = 'w2'"))
    for machine in lab.place.sim.machines.values():
        for run in machine.host.runs.values():
            run.paused_for = "asked" if run.spec.name == "w2" else ""
    lab.submit(MaintainHost(lab.host_id("alpha")))
    lab.place.run_for(12)
    assert reasons(lab) == {"w2": "It is paused: let it go on, or power it off."} and state(lab) == "preparing_for_maintenance"
