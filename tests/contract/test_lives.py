"""What every host promises of pauses, of starts that are otherwise, and of what guests do by themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from hostapi.types import VmReport, VmSpec
from tests.contract.conftest import Subject
from tests.contract.test_host_agent import never_boots, wait


def report_of(subject: Subject, spec: VmSpec) -> VmReport | None:
    return next((vm for vm in subject.connect().report().vms if vm.vm_id == spec.vm_id), None)


def state(subject: Subject, spec: VmSpec) -> tuple[str, str] | None:
    seen = report_of(subject, spec)
    return (seen.state, seen.paused_for) if seen else None


def sleeper(subject: Subject, **more: Any) -> VmSpec:
    spec = never_boots(subject, subject.spec())
    assert isinstance(spec, VmSpec)
    return replace(spec, **more)


def test_a_vm_is_paused_and_goes_on_as_often_as_one_likes(subject: Subject) -> None:
    spec = sleeper(subject)
    subject.done("start_vm", spec=spec)
    assert state(subject, spec) == ("running", "")
    for verb, then in (("pause_vm", ("paused", "asked")), ("unpause_vm", ("running", ""))):
        for _ in range(2):
            subject.done(verb, vm_id=spec.vm_id)
            assert state(subject, spec) == then
    subject.done("pause_vm", vm_id=spec.vm_id)
    subject.restart()
    assert state(subject, spec) == ("paused", "asked")
    subject.done("stop_vm", vm_id=spec.vm_id)
    assert subject.states() == {}


def test_what_does_not_run_is_neither_paused_nor_let_go_on(subject: Subject) -> None:
    for verb in ("pause_vm", "unpause_vm"):
        assert subject.refused(verb, vm_id=uuid4()) == "vm_not_running"


def test_a_vm_that_is_started_paused_waits(subject: Subject) -> None:
    spec = sleeper(subject, paused=True)
    subject.done("start_vm", spec=spec)
    assert state(subject, spec) == ("paused", "asked")
    subject.done("start_vm", spec=spec)
    assert state(subject, spec) == ("paused", "asked")
    subject.done("unpause_vm", vm_id=spec.vm_id)
    assert state(subject, spec) == ("running", "")


def test_a_reset_counts_as_a_boot(subject: Subject) -> None:
    spec = sleeper(subject)
    subject.done("start_vm", spec=spec)
    seen = report_of(subject, spec)
    subject.done("reset_vm", vm_id=spec.vm_id)
    if subject.kind in ("sim", "wire", "qemu"):  # the test driver tells of no reset
        wait(lambda: (now := report_of(subject, spec)) is not None and seen is not None and now.boots > seen.boots, "it counts")


def test_a_vm_that_was_stopped_did_not_end_by_itself(subject: Subject) -> None:
    spec = sleeper(subject)
    subject.done("start_vm", spec=spec)
    subject.done("stop_vm", vm_id=spec.vm_id)
    assert [end.by for end in subject.connect().report().ended if end.vm_id == spec.vm_id] in ([], ["host"])
    subject.done("start_vm", spec=spec)
    assert spec.vm_id not in {end.vm_id for end in subject.connect().report().ended}


def test_a_run_with_a_cd_begins(subject: Subject) -> None:
    spec = sleeper(subject, cd=f"{subject.folder}/iso/some.iso", boot_from=("cd", "network", "disk"))
    if "storage roots" not in subject.lacks:
        iso = Path(f"{subject.folder}/iso/some.iso")
        iso.parent.mkdir()
        iso.write_bytes(bytes(1 << 20))
    assert subject.done("start_vm", spec=spec).state == "running"


def test_a_cd_that_is_not_there_is_refused(subject: Subject) -> None:
    if "storage roots" in subject.lacks:
        return  # it has no files
    spec = sleeper(subject, cd=f"{subject.folder}/iso/none.iso", boot_from=("cd", "disk"))
    assert subject.refused("start_vm", spec=spec) == "disk_missing"
    assert subject.refused("start_vm", spec=replace(spec, cd="/etc/passwd")) == "path_refused"
    assert subject.states() == {}
