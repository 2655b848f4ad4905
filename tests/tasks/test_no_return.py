"""What cannot be taken back: removals that are cancelled too late, things of a pool, roles on what is gone, turned clocks."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.directory.models import Permission
from backend.errors import Impossible, Invalid
from backend.tasks.models import Task
from backend.tasks.submit import cancel
from backend.vms.commands.define import CreateVm, RemoveVm
from backend.vms.commands.power import StartVm
from backend.vms.models import Vm
from sim.make import a_member, a_permission, a_pool, a_user
from tests.conftest import ToldClock
from tests.tasks.bench import Bench


@pytest.fixture
def bench(sessions: Sessions, clock: ToldClock) -> Bench:
    return Bench(sessions, clock)


def test_a_removal_cancelled_when_the_disk_is_gone_goes_on_to_its_end(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    task_id, runner = bench.submit(RemoveVm(vm_id)), bench.runner()
    for _ in range(100):
        runner.step()
        if [s.state for s in bench.steps(task_id) if s.name == "delete"] == ["done"]:
            break
        bench.clock.sleep(0.1)
    with bench.sessions.begin() as tx:
        cancel(tx, tx.get_one(Task, task_id), bench.clock.now())
    bench.settle(runner)
    assert bench.task(task_id).state == "succeeded", bench.story()
    with bench.sessions() as tx:
        assert tx.get(Vm, vm_id) is None


def test_a_desktop_of_a_pool_is_neither_made_nor_removed_past_its_pool(bench: Bench) -> None:
    with bench.sessions.begin() as tx:
        pool = a_pool(tx, "Desktops", members=0)
        member = a_member(tx, pool, "ready")
        pool_id, vm_id = pool.id, member.vm_id
    with pytest.raises(Impossible, match="belongs to a pool"):
        bench.submit(RemoveVm(vm_id))
    with pytest.raises(Invalid, match="by itself"):
        bench.submit(CreateVm("w9", bench.template_id, pool_id=pool_id))


@pytest.mark.parametrize("sizes", [{"memory_mib": 10**12}, {"vcpus": 0}, {"vcpus": 10**6}])
def test_no_machine_is_that_large_or_small(bench: Bench, sizes: dict[str, int]) -> None:
    with pytest.raises(Invalid, match="must lie between"):
        bench.submit(CreateVm("w9", bench.template_id, **sizes))


def test_roles_on_a_vm_go_with_it(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    with bench.sessions.begin() as tx:
        user, vm = a_user(tx, "alice"), tx.get_one(Vm, vm_id)
        a_permission(tx, user, vm)
    bench.submit(RemoveVm(vm_id))
    bench.settle()
    with bench.sessions() as tx:
        assert tx.scalars(sa.select(Permission.id)).all() == []


def test_tasks_do_not_wait_for_a_clock_that_was_turned_back(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.submit(StartVm(vm_id))
    bench.clock.time -= timedelta(hours=3)
    bench.settle()
    assert bench.vm("w1").state == "up", bench.story()


def test_a_worker_that_died_before_the_clock_was_turned_back_is_dead(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    dead = bench.runner()
    task_id = bench.submit(StartVm(vm_id))
    assert dead.claim()[0] == task_id
    bench.clock.time -= timedelta(hours=3)
    bench.settle()
    assert bench.vm("w1").state == "up", bench.story()
