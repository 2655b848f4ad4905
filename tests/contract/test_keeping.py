"""What every host promises of what a storage domain keeps: definitions by generation, and all of it read back."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import UUID, uuid4

from hostapi.metadata import parse
from hostapi.types import Definition, DomainFound, VolumeAbout
from tests.contract.conftest import Subject


def definition(generation: int, id: UUID | None = None, name: str = "gold") -> Definition:
    id = id or uuid4()
    body = {"id": str(id), "name": name, "version": 1, "description": "", "cluster": "Default", "memory_mib": 256, "vcpus": 1,
            "boot": None, "video": "virtio", "guest_agent": True, "boot_timeout_s": 180, "disks": []}  # fmt: skip
    return Definition("template", id, generation, json.dumps(body))


def read(subject: Subject) -> DomainFound:
    found = subject.done("read_domain", path=subject.folder)
    assert isinstance(found, DomainFound)
    return found


def test_a_definition_is_kept_and_an_older_one_changes_nothing(subject: Subject) -> None:
    first = definition(3)
    keep = {"domain_path": subject.folder}
    assert subject.done("keep_definitions", **keep, definitions=(first, definition(1))) == (3, 1)
    newer = definition(5, first.id, "silver")
    assert subject.done("keep_definitions", **keep, definitions=(newer,)) == (5,)
    assert subject.done("keep_definitions", **keep, definitions=(newer,)) == (5,)
    for late in (first, replace(first, text="", generation=4)):
        assert subject.done("keep_definitions", **keep, definitions=(late,)) == (5,)
    subject.restart()
    kept = {one.id: one for one in read(subject).definitions}
    assert len(kept) == 2 and parse("template", kept[first.id].text).name == "silver" and kept[first.id].generation == 5
    for _ in range(2):
        assert subject.done("keep_definitions", **keep, definitions=(replace(newer, text="", generation=6),)) == (6,)
    assert first.id not in {one.id for one in read(subject).definitions}


def test_what_is_no_definition_is_not_kept(subject: Subject) -> None:
    good = definition(1)
    bad = (replace(good, text="{}"), replace(good, text="[" * 9000), replace(good, kind="vm"), replace(good, id=uuid4()))
    assert subject.done("keep_definitions", domain_path=subject.folder, definitions=(*bad, good)) == (0, 0, 0, 0, 1)
    assert [one.id for one in read(subject).definitions] == [good.id]


def test_volumes_are_found_with_what_is_noted_of_them(subject: Subject) -> None:
    base, owner = subject.volume(), uuid4()
    base = replace(base, about=VolumeAbout("base-1", "template", owner))
    base_path = subject.done("create_volume", volume=base)
    over = replace(subject.volume(backing=base_path), about=VolumeAbout("w1-1"))
    over_path = subject.done("create_volume", volume=over)
    subject.done("reset_volume", volume=over)
    snapshot = uuid4()
    subject.done("snapshot_volume", vm_id=uuid4(), domain_path=subject.folder, volume_id=over.volume_id, snapshot_id=snapshot)
    found = {one.volume_id: one for one in read(subject).volumes}
    assert found.keys() == {base.volume_id, over.volume_id}
    assert found[over.volume_id].path == over_path and found[over.volume_id].chain == (base_path,)
    assert found[over.volume_id].snapshots == (str(snapshot),) and found[base.volume_id].capacity_mib == 16
    noted = parse("volume", found[base.volume_id].text)
    assert (noted.disk, noted.owner, noted.owner_id, noted.legal) == ("base-1", "template", owner, True)
    assert parse("volume", found[over.volume_id].text).disk == "w1-1" and not any(one.why for one in found.values())
    for volume in (over, base):
        subject.done("delete_volume", domain_path=subject.folder, volume_id=volume.volume_id)
    assert read(subject) == replace(read(subject), volumes=(), problems=())
