"""Suspended VMs, reboots, actions inside guests, snapshots and guest sessions, from command to host and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.errors import Impossible, Invalid, NotFound
from backend.events import Event
from backend.vms.commands.define import RemoveVm, ResetVm
from backend.vms.commands.guest import LockGuest, LogOutGuest, MessageVm
from backend.vms.commands.power import StartVm, StopVm
from backend.vms.commands.reboot import RebootVm
from backend.vms.commands.reboot import ResetVm as PressReset
from backend.vms.commands.snapshots import MOST, GoBack, RemoveSnapshot, SnapshotVm
from backend.vms.commands.suspend import ResumeVm, StartFresh, SuspendVm
from backend.vms.models import GuestSession, VmSnapshot
from tests.conftest import ToldClock
from tests.tasks.bench import Bench


@pytest.fixture
def bench(sessions: Sessions, clock: ToldClock) -> Bench:
    return Bench(sessions, clock)


def running(bench: Bench, name: str = "w1") -> UUID:
    vm_id = bench.a_vm(name)
    did(bench, StartVm(vm_id))
    return vm_id


def suspended(bench: Bench, name: str = "w1") -> UUID:
    vm_id = running(bench, name)
    did(bench, SuspendVm(vm_id))
    return vm_id


def did(bench: Bench, command: Any) -> None:
    task = bench.submit(command)
    bench.settle()
    assert bench.task(task).state == "succeeded", bench.story()


def failed(bench: Bench, command: Any) -> str:
    task = bench.submit(command)
    bench.settle()
    assert bench.task(task).state == "failed", bench.story()
    error = bench.task(task).error
    assert error is not None
    return str(error["code"])


def saved(bench: Bench) -> dict[str, Any]:
    return bench.world.folder("/srv/disks").saved


def codes(bench: Bench) -> list[str]:
    with bench.sessions() as tx:
        return list(tx.scalars(sa.select(Event.code).order_by(Event.id)))


@contextmanager
def rows(bench: Bench, cls: Any) -> Iterator[list[Any]]:
    with bench.sessions() as tx:
        yield list(tx.scalars(sa.select(cls).order_by(cls.id)))


# -- suspended ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("again", [StartVm, ResumeVm])
def test_a_vm_is_suspended_and_goes_on(bench: Bench, again: Any) -> None:
    vm_id = suspended(bench)
    vm = bench.vm("w1")
    assert (vm.state, vm.host_id, list(saved(bench))) == ("suspended", None, [vm.saved_path])
    bench.monitor()
    assert bench.vm("w1").state == "suspended"
    task = bench.submit(again(vm_id))
    bench.settle()
    assert [s.verb for s in bench.steps(task)] == ["restore_vm", None]
    assert (bench.vm("w1").state, bench.vm("w1").saved_path, saved(bench)) == ("up", "", {})
    assert codes(bench)[-3:] == ["vm.suspended", "vm.restore", "vm.restored"]


def test_each_suspension_has_a_file_of_its_own(bench: Bench) -> None:
    vm_id = suspended(bench)
    first = bench.vm("w1").saved_path
    did(bench, ResumeVm(vm_id))
    did(bench, SuspendVm(vm_id))
    assert bench.vm("w1").saved_path != first


@pytest.mark.parametrize("trouble, code", [("vm w1 save_fails", "save_failed"), ("storage /srv/disks full", "storage_full")])
def test_a_vm_that_cannot_be_saved_runs_on(bench: Bench, trouble: str, code: str) -> None:
    vm_id = running(bench)
    bench.world.do(trouble)
    assert failed(bench, SuspendVm(vm_id)) == code
    assert bench.vm("w1").state == "up" and bench.vm("w1").why and not bench.vm("w1").saved_path


def test_a_vm_that_dies_before_it_is_saved_is_down(bench: Bench) -> None:
    vm_id = running(bench)
    task = bench.submit(SuspendVm(vm_id))
    bench.world.do("vm w1 crash")
    bench.settle()
    assert bench.task(task).state == "failed" and bench.vm("w1").state == "down" and not bench.vm("w1").saved_path


def test_what_cannot_be_restored_stays_until_it_is_thrown_away(bench: Bench) -> None:
    vm_id = suspended(bench)
    bench.world.do("vm w1 restore_fails")
    assert failed(bench, StartVm(vm_id)) == "saved_state_unusable"
    vm = bench.vm("w1")
    assert vm.state == "suspended" and vm.why.endswith("Try again, or start it afresh without it.") and saved(bench)
    did(bench, StartFresh(vm_id))
    assert bench.vm("w1").state == "up" and saved(bench) == {}
    with pytest.raises(Impossible, match="possible when it is suspended"):
        bench.submit(StartFresh(vm_id))


def test_a_saved_state_that_is_gone_leaves_the_vm_down(bench: Bench) -> None:
    vm_id = suspended(bench)
    saved(bench).clear()
    assert failed(bench, StartVm(vm_id)) == "saved_state_missing"
    assert bench.vm("w1").state == "down" and codes(bench)[-2:] == ["vm.state_lost", "task.failed"]
    did(bench, StartVm(vm_id))


def test_a_resumed_vm_is_not_switched_off_by_a_late_wish_to_cancel(bench: Bench) -> None:
    vm_id = suspended(bench)
    task, runner = bench.submit(ResumeVm(vm_id)), bench.runner()
    while bench.vm("w1").state != "up":
        runner.step()
    with bench.sessions.begin() as tx:
        tx.execute(sa.text("UPDATE task SET cancel_wanted = true WHERE id = :id"), {"id": task})
    bench.settle(runner)
    assert bench.vm("w1").state == "up" and vm_id in bench.world.host("alpha").runs


@pytest.mark.parametrize("command, state", [(StopVm, "down"), (ResetVm, "down"), (RemoveVm, None)])
def test_what_was_saved_goes_with_what_makes_it_useless(bench: Bench, command: Any, state: str | None) -> None:
    did(bench, command(suspended(bench)))
    assert saved(bench) == {}
    if state:
        assert bench.vm("w1").state == state and not bench.vm("w1").saved_path
    assert not bench.locks()


def test_what_cannot_be_thrown_away_stays_suspended(bench: Bench) -> None:
    vm_id = suspended(bench)
    bench.world.do("storage /srv/disks broken")
    for command in (StopVm, ResetVm, RemoveVm):
        assert failed(bench, command(vm_id)) == "storage_broken"
        assert bench.vm("w1").state == "suspended"
    bench.world.do("storage /srv/disks ok")
    did(bench, ResumeVm(vm_id))


# -- reboots -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", [RebootVm, PressReset])
def test_a_vm_begins_anew(bench: Bench, command: Any) -> None:
    vm_id = running(bench)
    bench.world.boot_s = bench.world.shutdown_s = 5
    task, runner = bench.submit(command(vm_id)), bench.runner()
    while bench.vm("w1").state != "powering_up":
        runner.step()
        bench.clock.sleep(0.5)
        bench.monitor()
    assert bench.task(task).state == "running"  # until its guest has booted
    bench.settle(runner)
    assert bench.vm("w1").state == "up" and bench.task(task).state == "succeeded"


def test_a_guest_that_will_not_reboot_runs_on_and_can_be_reset(bench: Bench) -> None:
    vm_id = running(bench)
    bench.world.do("vm w1 hangs")
    assert failed(bench, RebootVm(vm_id, 30)) == "reboot_timeout"
    assert bench.vm("w1").state == "up" and "30 seconds" in bench.vm("w1").why
    did(bench, PressReset(vm_id))
    assert bench.vm("w1").state == "up"
    with pytest.raises(Invalid):
        bench.submit(RebootVm(vm_id, 0))


def test_a_vm_that_dies_while_it_reboots_is_down(bench: Bench) -> None:
    vm_id = running(bench)
    task = bench.submit(RebootVm(vm_id))
    bench.world.do("vm w1 crash")
    bench.settle()
    assert bench.task(task).state == "failed" and bench.vm("w1").state == "down"


# -- inside guests -----------------------------------------------------------------------------------
def test_people_inside_are_told_locked_out_and_logged_out(bench: Bench) -> None:
    vm_id, guest = running(bench), bench.world.guest("w1")
    bench.world.do("vm w1 users anna")
    for command in (MessageVm(vm_id, "It ends at 17:00.\nSave your work."), LockGuest(vm_id), LogOutGuest(vm_id)):
        did(bench, command)
    assert (guest.shown, guest.locked, guest.users) == (["It ends at 17:00.\nSave your work."], True, ())
    assert codes(bench)[-3:] == ["vm.message_shown", "vm.guest_locked", "vm.guest_log_out"]


def test_who_cannot_be_told_is_refused_in_words(bench: Bench) -> None:
    vm_id = running(bench)
    for text in ("", "  ", "x" * 1001, "bell\a"):
        with pytest.raises(Invalid, match="between 1 and 1,000"):
            bench.submit(MessageVm(vm_id, text))
    bench.world.do("vm w1 agent_silent")
    assert failed(bench, MessageVm(vm_id, "x")) == "guest_silent"
    did(bench, StopVm(vm_id))
    with pytest.raises(Impossible, match="when it is up"):
        bench.submit(LockGuest(vm_id))


def test_who_is_logged_in_inside_is_kept(bench: Bench) -> None:
    vm_id = running(bench)
    bench.world.do("vm w1 users anna ben")
    bench.monitor()
    bench.clock.sleep(60)
    bench.world.do("vm w1 users ben")
    bench.monitor()
    with rows(bench, GuestSession) as found:
        ended = {s.user_name: s.ended_at is not None for s in found}
        assert ended == {"anna": True, "ben": False}
        ben = next(s for s in found if s.user_name == "ben")
        assert (ben.seen_at - ben.since).total_seconds() >= 60
    bench.world.do("vm w1 agent_silent")  # no news: he may still be there
    bench.monitor()
    did(bench, SuspendVm(vm_id))  # and he is there when it is resumed
    bench.monitor()
    with rows(bench, GuestSession) as found:
        assert [s.user_name for s in found if s.ended_at is None] == ["ben"]
    did(bench, StopVm(vm_id))
    bench.monitor()
    with rows(bench, GuestSession) as found:
        assert not [s for s in found if s.ended_at is None]
    told = [code for code in codes(bench) if code.startswith("vm.guest_logged")]
    assert told == ["vm.guest_logged_in", "vm.guest_logged_in", "vm.guest_logged_out", "vm.guest_logged_out"]


def test_a_reboot_logs_everybody_out(bench: Bench) -> None:
    vm_id = running(bench)
    bench.world.do("vm w1 users anna")
    bench.monitor()
    did(bench, RebootVm(vm_id))
    bench.monitor()
    with rows(bench, GuestSession) as found:
        assert [s.ended_at is not None for s in found] == [True]


# -- snapshots ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("when, at_rest", [("down", True), ("up", True), ("agent silent", False)])
def test_a_snapshot_is_taken_gone_back_to_and_removed(bench: Bench, when: str, at_rest: bool) -> None:
    vm_id = bench.a_vm("w1") if when == "down" else running(bench)
    if when == "agent silent":
        bench.world.do("vm w1 agent_silent")
    did(bench, SnapshotVm(vm_id, " before the update "))
    with rows(bench, VmSnapshot) as found:
        (snapshot,) = found
    assert (snapshot.name, snapshot.state, snapshot.at_rest) == ("before the update", "ok", at_rest)
    assert bench.vm("w1").state == ("down" if when == "down" else "up")
    if when != "down":
        with pytest.raises(Impossible, match="possible when it is down"):
            bench.submit(GoBack(vm_id, snapshot.id))
        did(bench, StopVm(vm_id))
    did(bench, GoBack(vm_id, snapshot.id))
    folder = bench.world.folder("/srv/disks")
    assert [id for _, id in folder.reverts] == [snapshot.id] and bench.vm("w1").state == "down"
    bench.world.do("vm w1 agent_answers")
    did(bench, StartVm(vm_id))
    did(bench, RemoveSnapshot(vm_id, snapshot.id))
    assert not any(folder.snapshots.values())
    with rows(bench, VmSnapshot) as found:
        assert found == []
    told = [c for c in codes(bench) if "snapshot" in c or "back" in c]
    assert told == ["vm.snapshot_taken", "vm.went_back", "vm.snapshot_removed"]


def test_snapshots_have_names_of_their_own_and_a_limit(bench: Bench) -> None:
    vm_id, other = bench.a_vm("w1"), bench.a_vm("w2")
    for n in range(MOST):
        did(bench, SnapshotVm(vm_id, f"s{n}"))
    with pytest.raises(Invalid, match="already"):
        bench.submit(SnapshotVm(vm_id, "s0"))
    with pytest.raises(Invalid, match="60 characters"):
        bench.submit(SnapshotVm(vm_id, " "))
    with pytest.raises(Impossible, match="remove one first"):
        bench.submit(SnapshotVm(vm_id, "one more"))
    with rows(bench, VmSnapshot) as found:
        mine = found[0].id
    for command in (GoBack, RemoveSnapshot):
        with pytest.raises(NotFound):
            bench.submit(command(other, mine))


def test_a_snapshot_that_cannot_be_taken_leaves_nothing(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.world.do("storage /srv/disks full")
    assert failed(bench, SnapshotVm(vm_id, "s")) == "storage_full"
    with rows(bench, VmSnapshot) as found:
        assert found == [] and bench.vm("w1").state == "down"


def test_a_snapshot_that_is_gone_from_the_disk_is_not_gone_back_to(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    did(bench, SnapshotVm(vm_id, "s"))
    bench.world.folder("/srv/disks").snapshots.clear()
    with rows(bench, VmSnapshot) as found:
        assert failed(bench, GoBack(vm_id, found[0].id)) == "snapshot_missing"
        assert bench.vm("w1").state == "down" and bench.vm("w1").why
        did(bench, RemoveSnapshot(vm_id, found[0].id))


@pytest.mark.parametrize("command", [ResetVm, RemoveVm])
def test_snapshots_go_with_their_disk(bench: Bench, command: Any) -> None:
    vm_id = bench.a_vm("w1")
    did(bench, SnapshotVm(vm_id, "s"))
    did(bench, command(vm_id))
    with rows(bench, VmSnapshot) as found:
        assert found == [] and not any(bench.world.folder("/srv/disks").snapshots.values())


def test_a_suspended_vm_takes_no_snapshots(bench: Bench) -> None:
    vm_id = suspended(bench)
    with pytest.raises(Impossible, match="down or up"):
        bench.submit(SnapshotVm(vm_id, "s"))
