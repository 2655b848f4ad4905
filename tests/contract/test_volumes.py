"""What every host promises of volumes besides making and throwing them away."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from tests.contract.conftest import Subject
from tests.contract.test_lives import sleeper


def test_a_volume_grows_and_never_shrinks(subject: Subject) -> None:
    volume = subject.volume(capacity_mib=16)
    where = {"vm_id": None, "domain_path": subject.folder, "volume_id": volume.volume_id}
    assert subject.refused("resize_volume", **where, capacity_mib=32) == "volume_missing"
    subject.done("create_volume", volume=volume)
    for _ in range(2):
        subject.done("resize_volume", **where, capacity_mib=32)
    assert subject.refused("resize_volume", **where, capacity_mib=31) == "would_shrink"
    subject.done("create_volume", volume=replace(volume, capacity_mib=32))


def test_a_volume_grows_under_its_vm_and_no_other(subject: Subject) -> None:
    spec = sleeper(subject)
    subject.done("start_vm", spec=spec)
    where = {"domain_path": subject.folder, "volume_id": spec.disks[0].volume_id, "capacity_mib": 64}
    assert subject.refused("resize_volume", vm_id=None, **where) == "volume_in_use"
    assert subject.refused("resize_volume", vm_id=uuid4(), **where) == "volume_in_use"
    if code := subject.lacks.get("block resize"):
        assert subject.refused("resize_volume", vm_id=spec.vm_id, **where) == code
        return
    for _ in range(2):
        subject.done("resize_volume", vm_id=spec.vm_id, **where)


def test_a_preallocated_volume_is_created_once(subject: Subject) -> None:
    volume = replace(subject.volume(), preallocated=True)
    path = subject.done("create_volume", volume=volume)
    assert subject.done("create_volume", volume=volume) == path
