"""A storage domain's folder read by itself: torn, newer, hostile and lost files are told one by one, the rest is there."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from agent import metadata as notes
from agent.storage import Storage
from hostapi import domains, metadata
from hostapi.metadata import BadMetadata
from hostapi.types import VolumeAbout, VolumeSpec
from tests.contract.test_keeping import definition


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def storage(root: Path, tmp_path: Path) -> Storage:
    storage = Storage([str(root)], tmp_path / "domains.json", lambda _: [])
    storage.attach(str(root))
    return storage


def volume(root: Path, **more: object) -> VolumeSpec:
    return replace(VolumeSpec(uuid4(), str(root), 16, about=VolumeAbout("d")), **more)  # type: ignore[arg-type]


def told(root: Path) -> dict[str, tuple[str, str]]:
    return {one.file: (one.kind, one.why) for one in domains.read(str(root)).problems}


def test_bytes_come_back_and_every_change_of_one_is_noticed() -> None:
    one = definition(7)
    data = metadata.encode("template", 7, one.text)
    assert metadata.decode("template", data)[:2] == (7, one.text)
    for cut in (0, 1, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(BadMetadata) as no:
            metadata.decode("template", data[:cut])
        assert no.value.what == "torn"
    for at in range(len(data)):
        with pytest.raises(BadMetadata):
            metadata.decode("template", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(BadMetadata, match="another"):
        metadata.decode("template", data + b"\n")


def test_a_newer_version_is_refused_in_words_and_never_overwritten(storage: Storage, root: Path) -> None:
    one = definition(7)
    file = root / metadata.place("template", one.id)
    file.parent.mkdir()
    newer = metadata.encode("template", 9, one.text).replace(b"template 1 ", b"template 2 ")
    file.write_bytes(newer)
    kind, why = told(root)[f"templates/{one.id}.meta"]
    assert kind == "newer" and "use a newer Leasehold" in why
    assert storage.keep(str(root), [replace(one, generation=99)]) == (0,)
    assert file.read_bytes() == newer


@pytest.mark.parametrize("hostile", ["huge", "link", "pipe", "folder", "types", "other id", "no id", "deep", "not UTF-8", "path"])
def test_hostile_metadata_are_refused_in_words(storage: Storage, root: Path, tmp_path: Path, hostile: str) -> None:
    good = definition(1)
    storage.keep(str(root), [good])
    id = uuid4()
    file = root / "vms" / f"{id}.meta"
    file.parent.mkdir()
    text = {"types": '{"id": 7}', "deep": "[" * 200_000, "path": f'{{"id": "{id}", "name": "../../etc/passwd", "disks": "no"}}'}
    if hostile == "huge":
        file.write_bytes(b"leasehold vm 1 1 99999999 " + b"0" * (3 << 20))
    elif hostile == "link":
        (tmp_path / "secret").write_text("secret")
        file.symlink_to(tmp_path / "secret")
    elif hostile == "pipe":
        os.mkfifo(file)
    elif hostile == "folder":
        file.mkdir()
    elif hostile == "no id":
        file = root / "vms" / "../vms/x y.meta"
        file.write_text("secret")
    elif hostile == "other id":
        file = root / "templates" / f"{id}.meta"
        file.write_bytes((root / metadata.place("template", good.id)).read_bytes())
    elif hostile == "not UTF-8":
        file.write_bytes(metadata.encode("vm", 1, "{}").replace(b"{}", b"\xff\xfe"))
    else:
        file.write_bytes(metadata.encode("vm", 1, text[hostile]))
    found = domains.read(str(root))
    assert [one.id for one in found.definitions] == [good.id]
    assert len(found.problems) == 1 and found.problems[0].why.endswith("."), found.problems
    assert found.problems[0].kind in ("refused", "torn") and "secret" not in found.problems[0].why


def test_what_a_crash_leaves_is_told(storage: Storage, root: Path) -> None:
    making, deleting, lost, whole = (volume(root) for _ in range(4))
    for one in (deleting, lost, whole):
        storage.create(one)
    paths = {one.volume_id: f"{root}/volumes/{one.volume_id}" for one in (making, deleting, lost)}
    notes.begin(paths[making.volume_id] + ".qcow2", making)  # and here it died
    notes.doom(paths[deleting.volume_id] + ".qcow2")
    os.unlink(paths[lost.volume_id] + ".qcow2")
    said = {UUID(Path(file).stem): words for file, words in told(root).items()}
    assert said == {
        making.volume_id: ("unfinished", "the volume was never made."),
        deleting.volume_id: ("unfinished", "the volume was being deleted when this was written."),
        lost.volume_id: ("missing", "the volume is not there."),
    }
    storage.create(making)  # asked again, both go on
    storage.delete(str(root), deleting.volume_id)
    storage.delete(str(root), lost.volume_id)
    assert told(root) == {}


def test_what_nobody_has_is_told(storage: Storage, root: Path) -> None:
    of_a_vm = volume(root, about=VolumeAbout("w1-1", "vm", uuid4()))
    storage.create(of_a_vm)
    storage.create(volume(root))
    one = definition(1)
    disk = uuid4()
    text = one.text.replace('"disks": []', f'"disks": [{{"id": "{disk}", "name": "gold-1", "capacity_mib": 16}}]')
    storage.keep(str(root), [replace(one, text=text)])
    assert {file: kind for file, (kind, _) in told(root).items()} == {
        f"volumes/{of_a_vm.volume_id}.qcow2": "orphaned", f"templates/{one.id}.meta": "missing",
    }  # fmt: skip


def test_a_volume_that_rests_on_what_is_not_the_storages_cannot_be_used(storage: Storage, root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_bytes(b"root:secret" * 6000)
    (root / "link.raw").symlink_to(secret)
    ways = {"absolute": (str(secret), "raw"), "dots": ("../../shadow", "raw"), "link": (str(root / "link.raw"), "raw"),
            "no format": (None, ""), "lost": ("gone.qcow2", "qcow2"), "json": ('json:{"driver":"raw"}', "raw")}  # fmt: skip
    paths = {}
    for name, (backing, kind) in ways.items():
        path = root / "volumes" / f"{uuid4()}.qcow2"
        paths[name] = str(path)
        subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"])
        if backing:
            subprocess.check_call(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", kind, "-b", backing, str(path)])
    subprocess.check_call(["qemu-img", "create", "-q", "-f", "raw", str(root / "base.raw"), "1M"])
    fine = volume(root, backing=str(root / "base.raw"))
    storage.create(fine)
    found = {one.path: one for one in storage.read(str(root)).volumes}
    assert all(found[paths[name]].why for name in ways if name != "no format"), found
    kept = next(one for one in found.values() if one.volume_id == fine.volume_id)
    assert kept.chain == (str(root / "base.raw"),) and not kept.why
