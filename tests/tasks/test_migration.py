"""Live migration on simulated hosts: whatever dies at whatever moment, the VM runs once, and the rows say where."""

from __future__ import annotations

import itertools
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.clusters.migration_commands import SetMigrationPolicy
from backend.clusters.models import Cluster
from backend.db import Sessions
from backend.errors import Busy, Impossible, Invalid, Refused
from backend.events import Event
from backend.hosts.models import Host
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import cancel, submit
from backend.vms.commands.define import CreateVm
from backend.vms.commands.migrate import MigrateVm
from backend.vms.commands.power import StartVm, StopVm
from backend.vms.models import Template, Vm
from sim.installation import Installation
from tests.conftest import ToldClock

MIGRATE_S = 4.0


class Lab:
    """Three hosts with shared storage, and one VM, up on alpha."""

    def __init__(self, sessions: Sessions, clock: ToldClock) -> None:
        self.place = Installation(sessions, clock)
        self.place.sim.migrate_s = MIGRATE_S
        for name in ("alpha", "beta", "gamma"):
            self.place.add_host(name)
        self.place.add_shared_domain()
        self.place.add_pool("Pool", on="shared")
        self.vms: dict[str, UUID] = {}
        self.start("w1")

    def submit(self, command: object) -> int:
        with self.place.tx() as tx:
            return submit(tx, command, SYSTEM, self.place.clock.now()).id

    def start(self, name: str, on: str = "alpha") -> None:
        with self.place.tx() as tx:
            template_id = tx.scalars(sa.select(Template.id).where(Template.name == "Pool template")).one()
        self.submit(CreateVm(name, template_id))
        self.place.settle()
        with self.place.tx() as tx:
            self.vms[name] = tx.scalars(sa.select(Vm.id).where(Vm.name == name)).one()
        self.power_on(name, on)

    def power_on(self, name: str, on: str) -> None:
        others = {"alpha", "beta", "gamma"} - {on}
        for other in others:
            self.host_state(other, "non_responsive")
        self.submit(StartVm(self.vms[name]))
        self.place.work([self.place.runner])  # it is placed before anybody looks at the hosts again
        for other in others:
            self.host_state(other, "up")
        self.place.run_until(lambda tx: self.where(name) == ("up", on), f"{name} is up on {on}", limit_s=10)

    def host_state(self, name: str, state: str) -> None:
        with self.place.tx() as tx:
            tx.execute(sa.text("UPDATE host SET state = :state WHERE name = :name"), {"state": state, "name": name})

    def host_id(self, name: str) -> UUID:
        with self.place.tx() as tx:
            return tx.scalars(sa.select(Host.id).where(Host.name == name)).one()

    def where(self, name: str = "w1") -> tuple[str, str | None]:
        """State and host, as the rows have them."""
        with self.place.tx() as tx:
            row = tx.execute(sa.select(Vm.state, Host.name).outerjoin(Host, Host.id == Vm.host_id).where(Vm.name == name)).one()
            return row[0], row[1]

    def really(self, name: str = "w1") -> list[str]:
        """The hosts that run it."""
        machines = self.place.sim.machines.items()
        return [host for host, one in machines if any(run.spec.name == name for run in one.host.runs.values())]

    def migrate(self, name: str = "w1", to: str | None = "beta") -> int:
        return self.submit(MigrateVm(self.vms[name], self.host_id(to) if to else None))

    def task(self, id: int) -> Task:
        with self.place.tx() as tx:
            return tx.get_one(Task, id)

    def cancel(self, id: int) -> None:
        with self.place.tx() as tx:
            cancel(tx, tx.get_one(Task, id), self.place.clock.now())

    def destinations(self) -> int:
        with self.place.tx() as tx:
            return tx.scalar(sa.select(sa.func.count()).where(Vm.destination_id.is_not(None))) or 0

    def sentences(self, code: str) -> list[str]:
        with self.place.tx() as tx:
            return list(tx.scalars(sa.select(Event.sentence).where(Event.code == code).order_by(Event.id)))


@pytest.fixture
def lab(sessions: Sessions, clock: ToldClock) -> Lab:
    return Lab(sessions, clock)


def test_a_vm_is_migrated_with_progress_and_its_room_is_held(lab: Lab) -> None:
    task = lab.migrate()
    lab.place.run_for(3)
    assert lab.where() == ("migrating", "alpha") and lab.destinations() == 1
    assert 34 <= lab.task(task).progress < 100 and lab.task(task).message == "Sending memory"
    lab.place.run_for(5)
    assert lab.task(task).state == "succeeded" and lab.where() == ("up", "beta") and lab.really() == ["beta"]
    assert lab.destinations() == 0
    assert lab.sentences("vm.migrated") == ["VM w1 was migrated to host beta in 4.0 s; it stood still for 50 ms."]


def test_the_scheduler_picks_the_host_when_none_is_named(lab: Lab) -> None:
    lab.host_state("beta", "non_responsive")
    task = lab.migrate(to=None)
    lab.host_state("beta", "up")
    lab.place.run_for(8)
    assert lab.task(task).state == "succeeded" and lab.where()[1] in ("beta", "gamma") and lab.really() == [lab.where()[1]]


def test_it_says_why_not_there(lab: Lab) -> None:
    with pytest.raises(Invalid, match="runs on host alpha already"):
        lab.migrate(to="alpha")
    lab.place.sim.do("storage /srv/shared cut beta")
    lab.place.run_for(3)
    with pytest.raises(Impossible, match="Host beta does not reach the storage of VM w1"):
        lab.migrate(to="beta")
    lab.host_state("gamma", "maintenance")
    with pytest.raises(Refused, match="No host can take VM w1.*beta does not reach.*Host gamma is in maintenance") as no:
        lab.migrate(to=None)
    assert set(no.value.facts["hosts"]) == {"beta", "gamma"}
    lab.submit(StopVm(lab.vms["w1"]))
    lab.place.settle()
    with pytest.raises(Impossible, match="VM w1 is down"):
        lab.migrate(to=None)


def test_cancelled_on_its_way_it_runs_on_where_it_was(lab: Lab) -> None:
    task = lab.migrate()
    lab.place.run_for(3)
    lab.cancel(task)
    lab.place.run_for(2)
    assert lab.task(task).state == "cancelled" and lab.where() == ("up", "alpha") and lab.really() == ["alpha"]
    with pytest.raises(Busy):
        lab.migrate()
        lab.migrate()


def test_a_wish_to_cancel_that_comes_too_late_changes_nothing(lab: Lab) -> None:
    task = lab.migrate()
    lab.place.sim.do("network beta off")
    lab.place.run_for(1)
    lab.place.sim.do("network beta on")
    lab.place.run_until(lambda tx: lab.really() == ["beta"], "it has gone")
    lab.cancel(task)
    lab.place.run_for(3)
    assert lab.where() == ("up", "beta") and lab.really() == ["beta"]


def test_power_off_does_not_wait_for_a_migration(lab: Lab) -> None:
    task = lab.migrate()
    lab.place.run_for(2)
    stop = lab.submit(StopVm(lab.vms["w1"]))
    lab.place.run_for(3)
    assert (lab.task(task).state, lab.task(stop).state) == ("cancelled", "succeeded")
    assert lab.where() == ("down", None) and lab.really() == []


@pytest.mark.parametrize("way, ends", [("none", "failed"), ("suspend", "succeeded"), ("auto_converge", "succeeded")])
def test_what_does_not_converge_is_treated_as_the_policy_says(lab: Lab, way: str, ends: str) -> None:
    with lab.place.tx() as tx:
        cluster_id = tx.scalars(sa.select(Cluster.id)).one()
    lab.submit(SetMigrationPolicy(cluster_id, migration_converge=way))
    lab.place.sim.do("vm w1 busy")
    task = lab.migrate()
    lab.place.run_for(16)
    assert lab.task(task).state == ends
    assert lab.where() == ("up", "beta" if ends == "succeeded" else "alpha") and lab.really() == [lab.where()[1]]


def test_hosts_are_at_no_more_migrations_than_the_policy_says(lab: Lab) -> None:
    with lab.place.tx() as tx:
        cluster_id = tx.scalars(sa.select(Cluster.id)).one()
    for name in ("w2", "w3"):
        lab.start(name)
    lab.submit(SetMigrationPolicy(cluster_id, migrations_per_host=1))
    tasks = [lab.migrate(name, to=None) for name in ("w1", "w2", "w3")]
    most, waited = 0, False
    for _ in range(20):
        lab.place.tick()
        with lab.place.tx() as tx:
            most = max(most, tx.scalar(sa.select(sa.func.count()).where(Vm.state == "migrating")) or 0)
        waited = waited or any(lab.task(id).message == "Waits: its host is at 1 migrations already." for id in tasks)
    assert most == 1 and waited
    assert {lab.task(id).state for id in tasks} == {"succeeded"} and all(lab.where(n)[1] != "alpha" for n in lab.vms)


def test_a_destination_that_is_silent_from_the_first_is_not_waited_for(lab: Lab) -> None:
    lab.place.sim.do("network beta off")
    task = lab.migrate()
    lab.place.run_for(20)
    assert lab.task(task).state == "failed" and lab.where() == ("up", "alpha"), lab.place.story()
    assert lab.sentences("vm.stayed")[0].endswith("on host alpha: Host beta does not answer.")


FAULTS: dict[str, tuple[str, ...]] = {
    "source's agent restarts": ("agent alpha restart",),
    "destination's agent restarts": ("agent beta restart",),
    "source's network": ("network alpha off", "network alpha on"),
    "destination's network": ("network beta off", "network beta on"),
    "destination's power": ("power beta off", "power beta on"),
    "source's power": ("power alpha off", "power alpha on"),
    "guest ends": ("vm w1 shutdown",),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_second_leaves_one_vm_or_none_and_the_rows_know(lab: Lab, fault: str) -> None:
    lab.place.sim.migrate_s = 2.0
    for second in itertools.count():
        assert lab.where() == ("up", "alpha")
        task = lab.migrate()
        lab.place.run_for(second)
        late = lab.task(task).state == "succeeded"
        for sentence in FAULTS[fault]:
            lab.place.sim.do(sentence)
            for _ in range(5):
                lab.place.tick()
                assert len(lab.really()) <= 1
                assert lab.where()[0] != "down" or lab.really() == []
        lab.place.settle()
        lab.place.run_for(3)
        state, host = lab.where()
        assert lab.really() == ([host] if state == "up" else []), (second, state, host, lab.place.story())
        assert lab.destinations() == 0
        if fault not in ("source's power", "guest ends", "destination's power"):
            assert state == "up"
        if late:
            return
        _back(lab)


def _back(lab: Lab) -> None:
    """The VM is up on alpha again."""
    lab.place.run_until(lambda tx: not tx.scalar(sa.select(sa.func.count()).where(Host.state != "up")), "all hosts are up")
    if lab.where()[0] == "down":
        lab.power_on("w1", "alpha")
    if lab.where()[1] != "alpha":
        lab.migrate(to="alpha")
        lab.place.settle()


def test_its_room_is_counted_on_both_hosts(lab: Lab) -> None:
    from backend import facts

    def promised() -> dict[str, int]:
        with lab.place.tx() as tx:
            host = tx.scalars(sa.select(Host)).first()
            return {one.name: one.memory_promised_mib for one in facts.of_hosts(tx, host.cluster_id)}

    lab.migrate()
    lab.place.run_for(2)
    assert promised() == {"alpha": 256, "beta": 256, "gamma": 0}
    lab.place.settle()
    assert promised() == {"alpha": 0, "beta": 256, "gamma": 0}


