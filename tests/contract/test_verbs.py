"""What every host promises of suspended VMs, reboots, actions inside guests, and snapshots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from hostapi.types import VmSpec
from tests.contract.conftest import BOOT_S, Subject
from tests.contract.test_host_agent import never_boots


def saved_path(subject: Subject, spec: VmSpec) -> str:
    return f"{subject.folder}/saved/{spec.vm_id}-1.save"


def volume_of(subject: Subject, spec: VmSpec) -> dict[str, object]:
    return {"domain_path": subject.folder, "volume_id": spec.disks[0].volume_id}


def booted(subject: Subject) -> VmSpec:
    spec = subject.spec(boots=True)
    subject.done("start_vm", spec=spec)
    if "guest agent" not in subject.lacks:
        subject.done("await_boot", vm_id=spec.vm_id, timeout_s=BOOT_S, within_s=BOOT_S)
    return spec


def test_one_guest_sees_it_all(subject: Subject) -> None:
    """In one guest, because a real one takes a while to boot."""
    spec = booted(subject)
    agent, live = "guest agent" not in subject.lacks, "live snapshots" not in subject.lacks
    for action, text in (("message", "Save your work; it ends at 17:00. \\033[31m $(reboot) 'ö'"), ("lock", ""), ("log_out", "")):
        asked = {"vm_id": spec.vm_id, "action": action, "text": text}
        if agent:
            subject.done("guest_action", **asked)
        else:
            assert subject.refused("guest_action", **asked) == subject.lacks["guest agent"]
    snapshot = {"vm_id": spec.vm_id, **volume_of(subject, spec), "snapshot_id": uuid4()}
    if live:
        assert subject.done("snapshot_volume", **snapshot) is True  # its agent froze the file systems
        assert subject.done("snapshot_volume", **snapshot) in (True, False)
        subject.done("delete_snapshot", **snapshot)
        subject.done("delete_snapshot", **snapshot)
    else:
        assert subject.refused("snapshot_volume", **snapshot) == subject.lacks["live snapshots"]
    path = saved_path(subject, spec)
    subject.done("suspend_vm", vm_id=spec.vm_id, path=path)
    assert subject.states() == {}
    assert subject.done("restore_vm", spec=spec, path=path).state == "running"
    assert subject.states() == {spec.vm_id: "running"}
    if agent:  # it goes on at once: nothing boots
        subject.done("await_boot", vm_id=spec.vm_id, timeout_s=60, within_s=90)
    for verb, more in (("reboot_vm", {"timeout_s": 60}), ("reset_vm", {})):
        subject.done(verb, vm_id=spec.vm_id, **more, within_s=90)
        assert subject.states() == {spec.vm_id: "running"}
        if agent:
            subject.done("await_boot", vm_id=spec.vm_id, timeout_s=BOOT_S, within_s=BOOT_S)


# -- suspended ---------------------------------------------------------------------------------------
def test_what_is_saved_stays_saved_until_it_is_restored_or_thrown_away(subject: Subject) -> None:
    spec = never_boots(subject, subject.spec())
    assert isinstance(spec, VmSpec)
    path = saved_path(subject, spec)
    subject.done("start_vm", spec=spec)
    subject.done("suspend_vm", vm_id=spec.vm_id, path=path)
    subject.done("suspend_vm", vm_id=spec.vm_id, path=path)
    subject.restart()
    assert subject.states() == {}
    subject.done("restore_vm", spec=spec, path=path)
    subject.done("restore_vm", spec=spec, path=path)
    assert subject.states() == {spec.vm_id: "running"}
    subject.done("stop_vm", vm_id=spec.vm_id)
    assert subject.refused("restore_vm", spec=spec, path=path) == "saved_state_missing"  # its disk has changed since
    subject.done("start_vm", spec=spec)
    subject.done("suspend_vm", vm_id=spec.vm_id, path=path)
    for _ in range(2):
        subject.done("discard_saved", path=path)
    assert subject.refused("restore_vm", spec=spec, path=path) == "saved_state_missing"
    assert subject.states() == {}


def test_a_vm_that_does_not_run_is_not_saved(subject: Subject) -> None:
    spec = subject.spec()
    assert subject.refused("suspend_vm", vm_id=spec.vm_id, path=saved_path(subject, spec)) == "vm_not_running"


def test_a_saved_vm_is_not_restored_over_a_disk_in_use(subject: Subject) -> None:
    spec = subject.spec()
    path = saved_path(subject, spec)
    subject.done("start_vm", spec=spec)
    subject.done("suspend_vm", vm_id=spec.vm_id, path=path)
    other = replace(subject.spec(), disks=spec.disks)
    subject.done("start_vm", spec=other)
    assert subject.refused("restore_vm", spec=spec, path=path) == "volume_in_use"
    subject.done("stop_vm", vm_id=other.vm_id)
    subject.done("restore_vm", spec=spec, path=path)
    assert subject.states() == {spec.vm_id: "running"}


@pytest.mark.parametrize("torn", [b"", b"LibvirtQemudPart" + b"\0" * 4096, b"\xff" * 4096])
def test_a_torn_saved_state_is_refused_and_kept(subject: Subject, torn: bytes) -> None:
    if "storage roots" in subject.lacks:
        pytest.skip("has no file system at all")
    spec = subject.spec()
    path = Path(saved_path(subject, spec))
    path.parent.mkdir()
    path.write_bytes(torn)
    assert subject.refused("restore_vm", spec=spec, path=str(path)) == "saved_state_unusable"
    assert path.read_bytes() == torn and subject.states() == {}


def test_a_saved_state_lies_where_saved_states_lie(subject: Subject) -> None:
    if "storage roots" in subject.lacks:
        pytest.skip("has no file system at all")
    spec = subject.spec()
    subject.done("start_vm", spec=spec)
    for path in ("/etc/saved/x.save", f"{subject.folder}/saved/../../x.save", spec.disks[0].path, f"{subject.folder}/saved/x"):
        assert subject.refused("suspend_vm", vm_id=spec.vm_id, path=path) == "path_refused"
        assert subject.refused("restore_vm", spec=spec, path=path) == "path_refused"
        assert subject.refused("discard_saved", path=path) == "path_refused"
    assert subject.states() == {spec.vm_id: "running"}


# -- reboots and guests --------------------------------------------------------------------------------
def test_what_does_not_run_is_neither_rebooted_nor_spoken_to(subject: Subject) -> None:
    vm_id = uuid4()
    assert subject.refused("reboot_vm", vm_id=vm_id, timeout_s=5) == "vm_not_running"
    assert subject.refused("reset_vm", vm_id=vm_id) == "vm_not_running"
    assert subject.refused("guest_action", vm_id=vm_id, action="message", text="x") == "vm_not_running"


def test_a_guest_without_an_agent_is_not_spoken_to_and_will_not_reboot(subject: Subject) -> None:
    if "hanging guest" in subject.lacks:
        pytest.skip("its guests all obey")
    spec = never_boots(subject, subject.spec(), hangs=True)
    assert isinstance(spec, VmSpec)
    subject.done("start_vm", spec=spec)
    assert subject.refused("guest_action", vm_id=spec.vm_id, action="message", text="x") == "guest_silent"
    assert subject.refused("reboot_vm", vm_id=spec.vm_id, timeout_s=1) == "reboot_timeout"
    subject.done("reset_vm", vm_id=spec.vm_id)
    assert subject.states() == {spec.vm_id: "running"}


# -- snapshots -----------------------------------------------------------------------------------------
def test_a_snapshot_of_a_vm_that_is_off_is_taken_gone_back_to_and_deleted(subject: Subject) -> None:
    spec, snapshot_id = subject.spec(), uuid4()
    back = {**volume_of(subject, spec), "snapshot_id": snapshot_id}
    snapshot = {"vm_id": spec.vm_id, **back}
    assert subject.refused("revert_volume", **back) == "snapshot_missing"
    for _ in range(2):
        assert subject.done("snapshot_volume", **snapshot) is True
    for _ in range(2):
        subject.done("revert_volume", **back)
    subject.done("start_vm", spec=spec)
    assert subject.refused("revert_volume", **back) == "volume_in_use"
    subject.done("stop_vm", vm_id=spec.vm_id)
    for _ in range(2):
        subject.done("delete_snapshot", **snapshot)
    assert subject.refused("revert_volume", **back) == "snapshot_missing"


def test_a_fresh_volume_has_no_snapshots(subject: Subject) -> None:
    spec, snapshot_id = subject.spec(), uuid4()
    back = {**volume_of(subject, spec), "snapshot_id": snapshot_id}
    subject.done("snapshot_volume", vm_id=spec.vm_id, **back)
    subject.done("reset_volume", volume=replace(subject.volume(), volume_id=spec.disks[0].volume_id))
    assert subject.refused("revert_volume", **back) == "snapshot_missing"


def test_a_volume_of_another_vm_that_runs_takes_no_snapshot(subject: Subject) -> None:
    spec = subject.spec()
    subject.done("start_vm", spec=spec)
    stranger = {"vm_id": uuid4(), **volume_of(subject, spec), "snapshot_id": uuid4()}
    assert subject.refused("snapshot_volume", **stranger) == "volume_in_use"
    missing = {"vm_id": spec.vm_id, "domain_path": subject.folder, "volume_id": uuid4(), "snapshot_id": UUID(int=1)}
    assert subject.refused("snapshot_volume", **missing) == "volume_missing"
