"""What every host promises: the simulator, the wire, the agent on libvirt's test driver and on real QEMU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from hostapi.types import Outcome, Secret, TicketSpec
from tests.contract.conftest import BOOT_S, Subject


def wait(true: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.05)


def ticket(issued_ms: int = 1, password: str = "sesame12", valid_s: int = 60) -> TicketSpec:
    return TicketSpec(uuid4(), "vnc", Secret("display:x", password), valid_s, issued_ms)


# -- running and stopping ----------------------------------------------------------------------------
def test_a_started_vm_runs_and_is_reported(subject: Subject) -> None:
    spec = subject.spec()
    report = subject.done("start_vm", spec=spec)
    assert (report.vm_id, report.name, report.state) == (spec.vm_id, spec.name, "running")
    assert subject.states() == {spec.vm_id: "running"}


def test_starting_a_running_vm_leaves_it_alone(subject: Subject) -> None:
    spec = subject.spec()
    subject.done("start_vm", spec=spec)
    again = subject.done("start_vm", spec=replace(spec, memory_mib=48))
    assert again.state == "running"
    assert subject.states() == {spec.vm_id: "running"}


def test_a_stopped_vm_is_off_when_the_answer_comes(subject: Subject) -> None:
    spec = subject.spec()
    subject.done("start_vm", spec=spec)
    assert subject.done("stop_vm", vm_id=spec.vm_id) is None
    assert subject.states() == {}


def test_stopping_what_does_not_run_is_success(subject: Subject) -> None:
    subject.done("stop_vm", vm_id=uuid4())
    subject.done("shutdown_vm", vm_id=uuid4(), timeout_s=1)


def test_a_vm_that_died_can_be_started_again(subject: Subject) -> None:
    spec = subject.spec()
    subject.done("start_vm", spec=spec)
    subject.crash(spec.name)
    wait(lambda: subject.states() == {}, "the crash is reported")
    subject.done("start_vm", spec=spec)
    assert subject.states() == {spec.vm_id: "running"}


def test_a_vm_without_its_disk_does_not_start(subject: Subject) -> None:
    spec = subject.spec()
    subject.done("delete_volume", domain_path=subject.folder, volume_id=spec.disks[0].volume_id)
    assert subject.refused("start_vm", spec=spec) == "disk_missing"
    assert subject.states() == {}


def test_two_vms_never_share_a_disk(subject: Subject) -> None:
    first, second = subject.spec(), subject.spec()
    subject.done("start_vm", spec=first)
    assert subject.refused("start_vm", spec=replace(second, disks=first.disks)) == "volume_in_use"
    assert subject.states() == {first.vm_id: "running"}


# -- the guest's inside ------------------------------------------------------------------------------
def test_a_booted_guest_tells_of_itself(subject: Subject) -> None:
    spec = subject.spec(boots=True)
    subject.done("start_vm", spec=spec)
    if code := subject.lacks.get("guest agent"):
        assert subject.refused("await_boot", vm_id=spec.vm_id, timeout_s=5) == code
        return
    inside = subject.done("await_boot", vm_id=spec.vm_id, timeout_s=BOOT_S, within_s=BOOT_S)
    assert inside.hostname == spec.name
    assert inside.os
    seen = [vm.guest for vm in subject.connect().report().vms if vm.vm_id == spec.vm_id]
    assert seen and seen[0] and seen[0].hostname == spec.name


def test_a_guest_that_never_answers_is_told_of(subject: Subject) -> None:
    if "guest agent" in subject.lacks:
        pytest.skip("has no guest agents at all")
    spec = subject.spec()  # nothing on its disk
    subject.done("start_vm", spec=never_boots(subject, spec))
    assert subject.refused("await_boot", vm_id=spec.vm_id, timeout_s=1) == "boot_timeout"


def test_a_vm_that_dies_while_it_boots_is_told_of(subject: Subject) -> None:
    if "guest agent" in subject.lacks:
        pytest.skip("has no guest agents at all")
    spec = subject.spec()
    subject.done("start_vm", spec=never_boots(subject, spec))
    uid = uuid4()
    assert subject.connect().ask(uid, "await_boot", {"vm_id": spec.vm_id, "timeout_s": 60}, wait_s=0).state == "running"
    subject.crash(spec.name)
    assert subject.refused("await_boot", uid=uid, vm_id=spec.vm_id, timeout_s=60) == "vm_not_running"


def test_waiting_for_a_vm_that_nobody_saw_run_is_refused(subject: Subject) -> None:
    assert subject.refused("await_boot", vm_id=uuid4(), timeout_s=60) == "vm_lost"


def test_a_guest_shuts_down_when_asked(subject: Subject) -> None:
    spec = subject.spec(boots=True)
    subject.done("start_vm", spec=spec)
    if "guest agent" not in subject.lacks:
        subject.done("await_boot", vm_id=spec.vm_id, timeout_s=BOOT_S, within_s=BOOT_S)
    subject.done("shutdown_vm", vm_id=spec.vm_id, timeout_s=60, within_s=90)
    assert subject.states() == {}


def test_a_guest_that_will_not_shut_down_runs_on(subject: Subject) -> None:
    if "hanging guest" in subject.lacks:
        pytest.skip("its guests all obey")
    spec = subject.spec()
    subject.done("start_vm", spec=never_boots(subject, spec, hangs=True))
    assert subject.refused("shutdown_vm", vm_id=spec.vm_id, timeout_s=1) == "shutdown_timeout"
    assert subject.states() == {spec.vm_id: "running"}


# -- consoles ----------------------------------------------------------------------------------------
def test_a_ticket_is_set_and_set_again(subject: Subject) -> None:
    spec = subject.spec()
    subject.done("start_vm", spec=spec)
    if code := subject.lacks.get("tickets"):
        assert subject.refused("set_ticket", vm_id=spec.vm_id, ticket=ticket()) == code
        return
    subject.done("set_ticket", vm_id=spec.vm_id, ticket=ticket(issued_ms=5))
    subject.done("set_ticket", vm_id=spec.vm_id, ticket=ticket(issued_ms=5))
    subject.done("set_ticket", vm_id=spec.vm_id, ticket=ticket(issued_ms=3))  # older: success, and nothing changes


def test_a_ticket_for_what_does_not_run_is_refused(subject: Subject) -> None:
    assert subject.refused("set_ticket", vm_id=uuid4(), ticket=ticket()) == "vm_not_running"


def test_a_ticket_for_a_display_that_is_not_there_is_refused(subject: Subject) -> None:
    spec = replace(subject.spec(), protocols=("spice",))
    subject.done("start_vm", spec=spec)
    assert subject.refused("set_ticket", vm_id=spec.vm_id, ticket=ticket()) == "no_display"


def test_pictures_are_small_and_only_of_what_runs(subject: Subject) -> None:
    spec = subject.spec()
    subject.done("start_vm", spec=spec)
    wait(lambda: len(subject.connect().screens((spec.vm_id,))) == 1, "a picture")
    screens = subject.connect().screens((uuid4(), spec.vm_id))
    assert [screen.vm_id for screen in screens] == [spec.vm_id]
    assert screens[0].webp[:4] == b"RIFF" and screens[0].webp[8:12] == b"WEBP"
    assert 0 < screens[0].width <= 480 and screens[0].height > 0


# -- storage -----------------------------------------------------------------------------------------
def test_a_storage_domain_is_attached_as_often_as_one_likes(subject: Subject) -> None:
    first = subject.done("attach_domain", path=subject.folder)
    assert first.ok and first.total_mib > 0 and first.free_mib > 0
    assert subject.done("attach_domain", path=subject.folder).ok
    assert [domain.path for domain in subject.connect().report().storage] == [subject.folder]


def test_a_shared_folder_is_taken_only_for_the_domain_that_it_is(subject: Subject) -> None:
    path, domain_id = f"{subject.folder}-shared", uuid4()
    assert subject.refused("attach_shared_domain", path=path, domain_id=domain_id, first=False) == "not_shared"
    assert [one.path for one in subject.connect().report().storage] == [subject.folder]
    for first in (True, False, True):
        assert subject.done("attach_shared_domain", path=path, domain_id=domain_id, first=first).ok
    assert subject.refused("attach_shared_domain", path=path, domain_id=uuid4(), first=True) == "other_domain"
    subject.restart()
    wait(lambda: {one.path: one.ok for one in subject.connect().report().storage}.get(path) is True, "it is remembered")


def test_a_volume_is_created_once(subject: Subject) -> None:
    volume = subject.volume()
    path = subject.done("create_volume", volume=volume)
    assert path == f"{subject.folder}/volumes/{volume.volume_id}.qcow2"
    assert subject.done("create_volume", volume=volume) == path
    assert subject.refused("create_volume", volume=replace(volume, capacity_mib=99)) == "volume_differs"


def test_an_overlay_needs_its_base(subject: Subject) -> None:
    base = subject.volume()
    path = subject.done("create_volume", volume=base)
    overlay = subject.volume(backing=path)
    subject.done("create_volume", volume=overlay)
    subject.done("create_volume", volume=overlay)
    subject.done("reset_volume", volume=overlay)
    missing = subject.volume(backing=f"{subject.folder}/volumes/{uuid4()}.qcow2")
    assert subject.refused("create_volume", volume=missing) == "backing_missing"


def test_a_used_volume_is_neither_reset_nor_deleted(subject: Subject) -> None:
    spec = subject.spec()
    volume = replace(subject.volume(), volume_id=spec.disks[0].volume_id)
    subject.done("start_vm", spec=spec)
    assert subject.refused("reset_volume", volume=volume) == "volume_in_use"
    gone = {"domain_path": subject.folder, "volume_id": volume.volume_id}
    assert subject.refused("delete_volume", **gone) == "volume_in_use"
    subject.done("stop_vm", vm_id=spec.vm_id)
    assert subject.done("reset_volume", volume=volume) == spec.disks[0].path
    subject.done("delete_volume", **gone)
    subject.done("delete_volume", **gone)


def test_who_listens_hears_at_once_that_a_vm_died(subject: Subject) -> None:
    spec, door = subject.spec(), subject.connect()
    subject.done("start_vm", spec=spec)
    seen = door.listen(-1, 10)
    subject.crash(spec.name)
    assert door.listen(seen, 10) != seen
    wait(lambda: subject.states() == {}, "the crash is reported")


@pytest.mark.parametrize("path", ["/etc", "/var/lib/../../etc/leasehold", "relative/folder"])
def test_a_path_outside_of_the_roots_is_refused(subject: Subject, path: str) -> None:
    if "storage roots" in subject.lacks:
        pytest.skip("has no file system at all")
    spec = subject.spec()
    volume = subject.volume()
    assert subject.refused("attach_domain", path=path) == "path_refused"
    assert subject.refused("create_volume", volume=replace(volume, domain_path=path)) == "path_refused"
    assert subject.refused("create_volume", volume=replace(volume, backing=f"{path}/passwd")) == "path_refused"
    assert subject.refused("reset_volume", volume=replace(volume, domain_path=path)) == "path_refused"
    assert subject.refused("delete_volume", domain_path=path, volume_id=uuid4()) == "path_refused"
    disks = (replace(spec.disks[0], path=f"{path}/passwd"),)
    assert subject.refused("start_vm", spec=replace(spec, disks=disks)) == "path_refused"


# -- asked by uid ------------------------------------------------------------------------------------
def test_a_step_asked_by_many_at_once_is_done_once(subject: Subject) -> None:
    spec, uid = subject.spec(), uuid4()
    answers: list[Outcome] = []
    threads = [threading.Thread(target=lambda: answers.append(subject.ask("start_vm", uid=uid, spec=spec))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12
    assert {(answer.state, answer.result.vm_id) for answer in answers} == {("done", spec.vm_id)}


def test_a_step_that_ended_is_answered_again_and_not_done_again(subject: Subject) -> None:
    spec, uid = subject.spec(), uuid4()
    first = subject.ask("start_vm", uid=uid, spec=spec)
    subject.done("stop_vm", vm_id=spec.vm_id)
    assert subject.ask("start_vm", uid=uid, spec=spec) == first
    assert subject.states() == {}
    subject.restart()
    assert subject.ask("start_vm", uid=uid, spec=spec) == first
    assert subject.states() == {}


def test_a_refusal_is_remembered_too(subject: Subject) -> None:
    spec, uid = subject.spec(), uuid4()
    subject.done("delete_volume", domain_path=subject.folder, volume_id=spec.disks[0].volume_id)
    assert subject.refused("start_vm", uid=uid, spec=spec) == "disk_missing"
    subject.restart()
    volume = replace(subject.volume(), volume_id=spec.disks[0].volume_id)
    subject.done("create_volume", volume=volume)
    assert subject.refused("start_vm", uid=uid, spec=spec) == "disk_missing"


def test_a_step_cut_off_by_a_restart_is_done_again(subject: Subject) -> None:
    if "guest agent" in subject.lacks:
        pytest.skip("has no step that takes time")
    spec, uid = subject.spec(boots=True), uuid4()
    subject.done("start_vm", spec=spec)
    subject.connect().ask(uid, "await_boot", {"vm_id": spec.vm_id, "timeout_s": BOOT_S}, wait_s=0)
    subject.restart()
    assert subject.states() == {spec.vm_id: "running"}  # a VM does not notice its agent's restart
    inside = subject.done("await_boot", uid=uid, vm_id=spec.vm_id, timeout_s=BOOT_S, within_s=BOOT_S)
    assert inside.hostname == spec.name


def test_a_long_step_can_be_cancelled(subject: Subject) -> None:
    if "guest agent" in subject.lacks:
        pytest.skip("has no step that takes time")
    spec, uid = subject.spec(), uuid4()
    subject.done("start_vm", spec=never_boots(subject, spec))
    assert subject.connect().ask(uid, "await_boot", {"vm_id": spec.vm_id, "timeout_s": 60}, wait_s=0).state == "running"
    subject.connect().cancel(uid)
    assert subject.refused("await_boot", uid=uid, vm_id=spec.vm_id, timeout_s=60) == "cancelled"
    assert subject.states() == {spec.vm_id: "running"}


def test_a_step_cancelled_before_it_was_heard_of_is_never_begun(subject: Subject) -> None:
    spec, uid = subject.spec(), uuid4()
    subject.connect().cancel(uid)
    assert subject.refused("start_vm", uid=uid, spec=spec) == "cancelled"
    assert subject.states() == {}


def test_nonsense_is_refused_in_words(subject: Subject) -> None:
    door = subject.connect()
    for verb, args in (("no_such_verb", {}), ("stop_vm", {}), ("stop_vm", {"vm_id": "x"}), ("report", {}),
                       ("stop_vm", {"vm_id": str(uuid4()), "more": 1})):
        outcome = door.ask(uuid4(), verb, args, wait_s=5)
        assert (outcome.state, outcome.failure and outcome.failure.code) == ("failed", "bad_request"), verb


def test_a_uid_belongs_to_one_verb(subject: Subject) -> None:
    uid = uuid4()
    subject.done("stop_vm", uid=uid, vm_id=uuid4())
    assert subject.refused("await_boot", uid=uid, vm_id=uuid4(), timeout_s=1) == "bad_request"


# -- the report --------------------------------------------------------------------------------------
def test_the_report_tells_of_the_host(subject: Subject) -> None:
    report = subject.connect().report()
    assert report.hostname and report.boot_id and report.agent_version and report.hypervisor
    assert report.cpus > 0 and report.memory_mib >= report.memory_free_mib > 0
    assert subject.connect().report().boot_id == report.boot_id


def never_boots(subject: Subject, spec: object, hangs: bool = False) -> object:
    """The same VM; in the simulator its guest is told to stay silent (a real one has nothing on its disk)."""
    if subject.kind in ("sim", "wire"):
        subject.told(f"vm {spec.name} boot_fails")  # type: ignore[attr-defined]
        if hangs:
            subject.told(f"vm {spec.name} hangs")  # type: ignore[attr-defined]
    return spec


def test_a_certificate_of_nobody_is_refused(subject: Subject) -> None:
    if subject.kind in ("sim", "wire"):
        pytest.skip("the simulator's doors need no certificates")
    outcome = subject.ask("certify", certificate="nonsense", ca="nonsense")
    assert outcome.failure is not None and outcome.failure.code == "bad_certificate"
