"""The runner killed before every line of its own and of the command's, and taken over by another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backend.db import Sessions
from backend.vms.commands.define import CreateVm, ResetVm
from backend.vms.commands.migrate import MigrateVm
from backend.vms.commands.power import ShutdownVm, StartVm
from tests.conftest import ToldClock
from tests.tasks.bench import Bench, killed_at

OURS = ("backend/tasks/turn.py", "backend/tasks/submit.py", "backend/vms/commands/power.py", "backend/vms/commands/define.py")
RUNNER = ("backend/tasks/runner.py",)  # its lines are the same for every command: `test_start` goes through them


def every_line(
    bench: Bench, prepare: Callable[[int], Any], check: Callable[[int, int], None], files: tuple[str, ...] = OURS,
    carries_on: bool = False,
) -> int:
    """Submit the command of `prepare`, kill its runner at line 1, 2, 3, …, let another one finish, and check."""
    line = 0
    while True:
        line += 1
        task = bench.submit(prepare(line))
        runner = bench.runner()
        runner.carries_on = carries_on
        died = killed_at(line, files, lambda r=runner: bench.settle(r))
        if not died:
            return line
        bench.bury()
        bench.settle()
        assert bench.task(task).state == "succeeded", f"killed at line {line}: {bench.task(task).error}"
        assert [s.state for s in bench.steps(task)] == ["done"] * len(bench.steps(task))
        assert bench.locks() == []
        check(line, task)


@pytest.fixture
def bench(sessions: Sessions, clock: ToldClock) -> Bench:
    return Bench(sessions, clock)


@pytest.mark.parametrize(("carries_on", "files"), [(False, OURS), (False, RUNNER), (True, RUNNER)])
def test_start(bench: Bench, carries_on: bool, files: tuple[str, ...]) -> None:
    vm_ids: dict[int, Any] = {}

    def prepare(line: int) -> StartVm:
        vm_ids[line] = bench.a_vm(f"w{line}")
        return StartVm(vm_ids[line])

    def check(line: int, task: int) -> None:
        assert bench.vm(f"w{line}").state == "up"
        assert [s.name for s in bench.steps(task)] == ["launch", "boot"]
        assert list(bench.world.host("alpha").runs) == [vm_ids[line]]
        bench.world.do(f"vm w{line} crash")  # make room for the next
        bench.monitor()

    assert every_line(bench, prepare, check, files, carries_on) > (60 if carries_on else 100)


def test_create(bench: Bench) -> None:
    def check(line: int, task: int) -> None:
        assert bench.vm(f"w{line}").state == "down"
        assert len(bench.world.folder("/srv/disks").volumes) == line + 1  # and the template's

    assert every_line(bench, lambda line: CreateVm(f"w{line}", bench.template_id), check) > 80


def test_shut_down(bench: Bench) -> None:
    vm_id = bench.a_vm("w")

    def prepare(line: int) -> ShutdownVm:
        bench.submit(StartVm(vm_id))
        bench.settle()
        return ShutdownVm(vm_id)

    def check(line: int, task: int) -> None:
        assert bench.vm("w").state == "down" and not bench.world.host("alpha").runs

    assert every_line(bench, prepare, check) > 50


def test_reset(bench: Bench) -> None:
    vm_id = bench.a_vm("w")

    def check(line: int, task: int) -> None:
        assert bench.vm("w").state == "down"
        assert len(bench.world.folder("/srv/disks").resets) == 1
        assert sum(bench.world.folder("/srv/disks").resets.values()) <= line + 1  # never twice by two uids

    assert every_line(bench, lambda line: ResetVm(vm_id), check) > 50


def test_migrate(bench: Bench) -> None:
    """There and back, without end: wherever the runner dies, the VM is on one host, and the rows say on which."""
    hosts = {"alpha": bench.host_id, "beta": bench.a_second_host("beta")}
    vm_id = bench.a_vm("w")
    bench.submit(StartVm(vm_id))
    bench.settle()
    to: list[str] = []

    def prepare(line: int) -> MigrateVm:
        to.append(next(name for name, id in hosts.items() if id != bench.vm("w").host_id))
        return MigrateVm(vm_id, hosts[to[-1]])

    def check(line: int, task: int) -> None:
        vm = bench.vm("w")
        assert (vm.state, vm.host_id, vm.destination_id) == ("up", hosts[to[-1]], None)
        assert [name for name in hosts if vm_id in bench.world.host(name).runs] == [to[-1]]

    assert every_line(bench, prepare, check, ("backend/vms/commands/migrate.py",)) > 25
