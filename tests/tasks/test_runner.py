"""The runner: claim, plan, ask, record; progress, cancel, undo, busy, silence."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.directory.rules import Grant
from backend.errors import Busy, Denied, Impossible, Invalid, NotFound
from backend.events import Event
from backend.search.query import Viewer, page
from backend.search.tables import VMS
from backend.tasks.command import Actor
from backend.tasks.models import ResourceLock, Task
from backend.tasks.submit import cancel
from backend.vms.commands.define import CreateVm, RemoveVm, ResetVm
from backend.vms.commands.power import ShutdownVm, StartVm, StopVm
from backend.vms.models import Vm
from broker.holding import act
from sim.make import a_permission, a_user
from tests.conftest import ToldClock
from tests.tasks.bench import Bench


@pytest.fixture
def bench(sessions: Sessions, clock: ToldClock) -> Bench:
    return Bench(sessions, clock)


def test_a_vm_is_made_started_shut_down_reset_and_removed(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    assert bench.vm("w1").state == "down"
    start = bench.submit(StartVm(vm_id))
    bench.settle()
    assert bench.vm("w1").state == "up", bench.story()
    assert [(s.name, s.verb, s.state) for s in bench.steps(start)] == [
        ("launch", "start_vm", "done"),
        ("boot", "await_boot", "done"),
    ]
    assert vm_id in bench.world.host("alpha").runs
    bench.submit(ShutdownVm(vm_id))
    bench.settle()
    assert bench.vm("w1").state == "down" and bench.vm("w1").host_id is None
    bench.submit(ResetVm(vm_id))
    bench.settle()
    assert list(bench.world.folder("/srv/disks").resets.values()) == [1]
    bench.submit(RemoveVm(vm_id))
    bench.settle()
    with bench.sessions() as tx:
        assert not tx.scalars(sa.select(Vm)).all()
    assert len(bench.world.folder("/srv/disks").volumes) == 1  # the template's alone
    assert bench.locks() == []


def test_a_process_takes_a_task_from_step_to_step_while_it_need_not_wait(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    start, runner = bench.submit(StartVm(vm_id)), bench.runner()
    runner.carries_on, runner.wait_s = True, 30
    assert runner.step()
    assert (bench.task(start).state, bench.vm("w1").state) == ("succeeded", "up"), bench.story()


def test_stop_cuts_the_power(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.submit(StartVm(vm_id))
    bench.settle()
    bench.submit(StopVm(vm_id))
    bench.settle()
    assert bench.vm("w1").state == "down" and not bench.world.host("alpha").runs


def waits_for_its_guest(bench: Bench) -> tuple[UUID, int]:
    """A VM whose guest hangs, and the task that asks it to shut down."""
    vm_id = bench.a_vm("w1")
    bench.submit(StartVm(vm_id))
    bench.settle()
    bench.world.do("vm w1 hangs")
    task_id, runner = bench.submit(ShutdownVm(vm_id, 600)), bench.runner()
    for _ in range(3):
        runner.step()
    assert bench.vm("w1").state == "powering_down" and bench.task(task_id).state == "running"
    return vm_id, task_id


def test_power_off_is_possible_while_a_shutdown_waits(bench: Bench) -> None:
    vm_id, waiting = waits_for_its_guest(bench)
    off = bench.submit(StopVm(vm_id))
    assert bench.locks() == [f"vm:{vm_id}"], "it is held all the time"
    with pytest.raises(Busy, match=f"task {off}, “Power off VM w1”"):
        bench.submit(StopVm(vm_id))
    assert bench.task(off).message == "Waits until “Shut down VM w1” is cancelled."
    bench.settle()
    assert (bench.task(waiting).state, bench.task(off).state) == ("cancelled", "succeeded"), bench.story()
    first, second = bench.steps(waiting)[-1], bench.steps(off)[0]
    assert first.ended_at is not None and second.asked_at >= first.ended_at, "never both at one VM"
    assert bench.vm("w1").state == "down" and not bench.world.host("alpha").runs and bench.locks() == []


def test_power_off_takes_the_place_of_a_shutdown_that_has_not_begun(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.submit(StartVm(vm_id))
    bench.settle()
    queued, off = bench.submit(ShutdownVm(vm_id)), bench.submit(StopVm(vm_id))
    bench.settle()
    assert (bench.task(queued).state, bench.task(off).state) == ("cancelled", "succeeded"), bench.story()


def test_nothing_but_a_shutdown_is_cancelled_for_a_power_off(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    starting, runner = bench.submit(StartVm(vm_id)), bench.runner()
    while bench.vm("w1").state != "powering_up":
        runner.step()
    with pytest.raises(Busy, match=f"task {starting}, “Start VM w1”"):
        bench.submit(StopVm(vm_id))


def test_a_person_powers_off_their_own_vm_whatever_waits_and_is_always_told(bench: Bench) -> None:
    vm_id, waiting = waits_for_its_guest(bench)
    with bench.sessions.begin() as tx:
        alice = a_user(tx, "alice")
        a_permission(tx, alice, tx.get_one(Vm, vm_id))
        asked = {"user_id": alice.id, "desktop_id": vm_id, "now": bench.clock.now()}
        again = act(tx, verb="shutdown", **asked)
        assert (again.sentence, again.task_id) == ("Desktop w1 is shutting down already.", waiting)
        off = act(tx, verb="stop", **asked)
        assert off.sentence == "Desktop w1 is being switched off."
        assert act(tx, verb="stop", **asked).sentence == "Desktop w1 is being switched off already."
        with pytest.raises(Impossible, match="VM w1 is powering down; “start” is possible when it is down"):
            act(tx, verb="start", **asked)
    bench.settle()
    assert bench.vm("w1").state == "down", bench.story()


def test_busy_names_the_task_that_is_at_it(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    first = bench.submit(StartVm(vm_id))
    with pytest.raises(Busy, match=f"task {first}, “Start VM w1”"):
        bench.submit(StartVm(vm_id))
    bench.settle()
    assert bench.locks() == []


def test_two_submissions_at_once_are_one_task_and_one_refusal(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    answers: list[object] = []

    def try_it() -> None:
        try:
            answers.append(bench.submit(StartVm(vm_id)))
        except Busy as no:
            answers.append(no)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(isinstance(a, Busy) for a in answers) == [False] + [True] * 7


def test_a_failed_creation_leaves_nothing(bench: Bench) -> None:
    bench.world.do("storage /srv/disks full")
    task = bench.submit(CreateVm("w1", bench.template_id))
    bench.settle()
    assert bench.task(task).state == "failed"
    assert bench.task(task).error["message"].endswith(".")
    with bench.sessions() as tx:
        assert not tx.scalars(sa.select(Vm)).all()
        assert tx.scalar(sa.select(sa.func.count()).select_from(ResourceLock)) == 0
        assert tx.scalars(sa.select(Event.code).where(Event.code == "task.failed")).all()
    bench.world.do("storage /srv/disks ok")
    bench.a_vm("w1")


def test_a_start_that_fails_leaves_the_vm_down_and_says_why(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.world.do("vm w1 start_fails")
    task = bench.submit(StartVm(vm_id))
    bench.settle()
    vm = bench.vm("w1")
    assert (vm.state, vm.host_id) == ("down", None) and vm.why
    assert bench.task(task).state == "failed"


def test_no_host_with_room_is_a_sentence_with_reasons(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    with bench.sessions.begin() as tx:
        tx.execute(sa.update(Vm).values(memory_mib=10_000_000))
    task = bench.submit(StartVm(vm_id))
    bench.settle()
    assert "10,000,000 MiB wanted" in bench.task(task).error["message"]
    assert bench.vm("w1").state == "down"


def test_a_guest_that_does_not_boot_is_told(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.world.do("vm w1 boot_fails")
    task = bench.submit(StartVm(vm_id))
    for _ in range(400):
        bench.runner().step()
        bench.clock.sleep(3)
        if bench.task(task).state == "failed":
            break
    assert bench.task(task).error["code"] == "boot_timeout"
    assert "did not boot" in bench.vm("w1").why


def test_cancel_while_it_boots_undoes_the_launch(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.world.boot_s = 100
    task = bench.submit(StartVm(vm_id))
    runner = bench.runner()
    while bench.task(task).at_step == 0:
        runner.step()
    with bench.sessions.begin() as tx:
        cancel(tx, tx.get_one(Task, task, with_for_update=True), bench.clock.now())
    bench.settle(runner)
    assert bench.task(task).state == "cancelled"
    assert bench.vm("w1").state == "down" and not bench.world.host("alpha").runs
    assert bench.locks() == []


def test_cancel_before_it_begins_does_nothing(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    task = bench.submit(StartVm(vm_id))
    with bench.sessions.begin() as tx:
        cancel(tx, tx.get_one(Task, task, with_for_update=True), bench.clock.now())
    bench.settle()
    assert bench.task(task).state == "cancelled" and bench.vm("w1").state == "down" and bench.locks() == []


def test_a_silent_host_leaves_the_step_asked_until_it_answers(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.world.do("network alpha off")
    task = bench.submit(StartVm(vm_id))
    runner = bench.runner()
    for _ in range(20):
        runner.step()
        bench.clock.sleep(60)
        runner.beat()
    assert bench.task(task).state == "running" and bench.steps(task)[0].state == "asked"
    assert "does not answer" in bench.task(task).message
    bench.world.do("network alpha on")
    bench.settle(runner)
    assert bench.vm("w1").state == "up"


def test_an_agent_restart_in_the_middle_starts_the_vm_once(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.world.boot_s = 10
    task = bench.submit(StartVm(vm_id))
    runner = bench.runner()
    while bench.task(task).at_step == 0:
        runner.step()
    bench.world.do("agent alpha restart")
    bench.settle(runner)
    assert bench.task(task).state == "succeeded" and bench.vm("w1").state == "up"


def test_the_monitor_finds_a_vm_that_died_and_never_guesses(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.submit(StartVm(vm_id))
    bench.settle()
    bench.world.do("network alpha off")
    for _ in range(100):
        bench.monitor()
        bench.clock.sleep(10)
    assert bench.vm("w1").state == "unknown"  # silence proves nothing
    bench.world.do("network alpha on")
    bench.monitor()
    bench.monitor()
    assert bench.vm("w1").state == "up"
    bench.world.do("vm w1 crash")
    bench.monitor()
    assert bench.vm("w1").state == "down"


def test_starts_at_once_do_not_overbook_a_host(bench: Bench) -> None:
    ids = [bench.a_vm(f"w{n}") for n in range(6)]
    with bench.sessions.begin() as tx:
        tx.execute(sa.update(Vm).values(memory_mib=20_000))  # three fit into 65,536 MiB
    for vm_id in ids:
        bench.submit(StartVm(vm_id))
    runners = [bench.runner() for _ in range(4)]
    threads = [threading.Thread(target=bench.settle, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bench.vm(f"w{n}").state for n in range(6)) == ["down"] * 3 + ["up"] * 3


def test_rights_are_asked_before_anything_else(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    with bench.sessions.begin() as tx:
        stranger, auditor, holder = a_user(tx), a_user(tx), a_user(tx)
        a_permission(tx, auditor, role="auditor")
        a_permission(tx, holder, tx.get(Vm, vm_id), role="user")
    for who, refusal in ((stranger, NotFound), (auditor, Denied), (holder, Denied)):
        with pytest.raises(refusal):
            bench.submit(StartVm(vm_id), Actor(who.id, who.name))


def test_bad_input_is_refused_in_words(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    with pytest.raises(Invalid, match="already a VM named w1"):
        bench.submit(CreateVm("w1", bench.template_id))
    with pytest.raises(Invalid, match="letters, digits"):
        bench.submit(CreateVm("no/slash", bench.template_id))
    with pytest.raises(Impossible, match="is down"):
        bench.submit(ShutdownVm(vm_id))


def test_a_vm_tells_what_it_takes_while_it_runs(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.submit(StartVm(vm_id))
    bench.settle()
    for _ in range(3):
        bench.monitor()
        bench.clock.sleep(11)
    vm = bench.vm("w1")
    assert vm.cpu_usage == pytest.approx(10.0, abs=1)  # the simulator's guests take so much
    assert vm.memory_given_mib == vm.memory_mib

    def found(search: str) -> list[Any]:
        with bench.sessions() as tx:
            return page(tx, VMS, Viewer(uuid4(), [Grant("system_admin", "system", None)], bench.clock.now()), search=search).items

    assert [vm["cpu_usage"] for vm in found("cpu_usage > 1 sortby name")] == [vm.cpu_usage] and not found("cpu_usage > 50")
    bench.submit(StopVm(vm_id))
    bench.settle()
    assert not found("cpu_usage > 1"), "what is off takes nothing"
