"""What every host promises of volumes besides making and throwing them away."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest

from hostapi.client import HostUnreachable
from hostapi.types import UploadSpec
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


def an_upload(subject: Subject, data: bytes, **other: Any) -> UploadSpec:
    known = {"format": "raw", "size_bytes": len(data), "sha256": sha256(data).hexdigest(), "most_mib": 64} | other
    return UploadSpec(uuid4(), subject.folder, **known)


def test_an_upload_comes_in_pieces_and_becomes_a_volume(subject: Subject) -> None:
    data = bytes(range(256)) * 12_288  # 3 MiB
    upload, door = an_upload(subject, data), subject.connect()
    here = {"domain_path": subject.folder, "volume_id": upload.volume_id}
    assert door.part_size(**here) == 0
    with pytest.raises(HostUnreachable) as gap:
        door.write_part(**here, offset=1, data=b"x")
    assert gap.value.code == "wrong_offset"
    for offset in (0, 0, 1 << 20):  # one of them twice
        door.write_part(**here, offset=offset, data=data[offset : offset + (1 << 20)])
    subject.restart()
    door = subject.connect()
    assert door.part_size(**here) == 2 << 20
    assert subject.refused("take_upload", upload=upload) == "part_incomplete"
    assert door.write_part(**here, offset=2 << 20, data=data[2 << 20 :]) == len(data)
    for _ in range(2):
        taken = subject.done("take_upload", upload=upload)
        assert (taken.path, taken.capacity_mib) == (f"{subject.folder}/volumes/{upload.volume_id}.qcow2", 3)
    assert door.part_size(**here) == 0
    with pytest.raises(HostUnreachable) as late:
        door.write_part(**here, offset=0, data=b"x")
    assert late.value.code == "taken"
    file = door.content(**here)
    places = range(0, file.size_bytes, 1 << 20)
    kept = b"".join(door.read_content(**here, mark=file.mark, offset=at, count=1 << 20) for at in places)
    assert len(kept) == file.size_bytes
    with pytest.raises(HostUnreachable) as changed:
        door.read_content(**here, mark="other", offset=0, count=1)
    assert changed.value.code == "content_changed"


def test_a_false_upload_leaves_nothing(subject: Subject) -> None:
    for data, other, code in (
        (bytes(1 << 20), {"sha256": "0" * 64}, "checksum_differs"),
        (b"QFI\xfb" + bytes(508), {}, "image_other_format"),
        (bytes(1 << 20), {"format": "qcow2"}, "image_other_format"),
    ):
        upload, door = an_upload(subject, data, **other), subject.connect()
        here = {"domain_path": subject.folder, "volume_id": upload.volume_id}
        door.write_part(**here, offset=0, data=data)
        assert subject.refused("take_upload", upload=upload) == code
        assert door.part_size(**here) == 0


def test_what_was_uploaded_goes_with_its_volume(subject: Subject) -> None:
    upload, door = an_upload(subject, bytes(512)), subject.connect()
    here = {"domain_path": subject.folder, "volume_id": upload.volume_id}
    door.write_part(**here, offset=0, data=bytes(512))
    subject.done("delete_volume", **here)
    assert door.part_size(**here) == 0


def test_what_lies_over_another_is_not_taken_away(subject: Subject) -> None:
    base = subject.volume()
    overlay = subject.volume(backing=subject.done("create_volume", volume=base))
    subject.done("create_volume", volume=overlay)
    with pytest.raises(HostUnreachable) as no:
        subject.connect().content(subject.folder, overlay.volume_id)
    assert no.value.code == "has_base"
