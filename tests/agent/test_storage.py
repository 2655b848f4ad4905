"""Volumes as files: what a full, a read-only, a torn and a hostile storage do to them."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from agent.storage import Storage
from hostapi.types import VolumeSpec
from hostapi.verbs import HostRefused


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def storage(root: Path, tmp_path: Path) -> Storage:
    return Storage([str(root)], tmp_path / "domains.json", lambda _: [])


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tiny", str(folder)], check=False).returncode:
        pytest.skip("may not mount here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def volume(root: Path, **more: object) -> VolumeSpec:
    return replace(VolumeSpec(uuid4(), str(root / "domain"), 16), **more)  # type: ignore[arg-type]


def info(path: str) -> dict[str, object]:
    made = subprocess.run(["qemu-img", "info", "--output=json", path], capture_output=True, check=True)
    answer: dict[str, object] = json.loads(made.stdout)
    return answer


def test_an_overlay_is_what_was_asked_for(storage: Storage, root: Path) -> None:
    storage.attach(str(root / "domain"))
    base = storage.create(volume(root))
    path = storage.create(volume(root, backing=base, capacity_mib=32))
    found = info(path)
    assert (found["virtual-size"], found["full-backing-filename"], found["format"]) == (32 << 20, base, "qcow2")
    assert found["backing-filename-format"] == "qcow2"


def test_a_raw_base_stays_raw(storage: Storage, root: Path) -> None:
    storage.attach(str(root / "domain"))
    (root / "base.raw").write_bytes(b"\0" * (1 << 20))
    path = storage.create(volume(root, backing=str(root / "base.raw")))
    assert info(path)["backing-filename-format"] == "raw"


def test_reset_throws_away_what_was_written(storage: Storage, root: Path) -> None:
    storage.attach(str(root / "domain"))
    wanted = volume(root)
    path = storage.create(wanted)
    empty = os.path.getsize(path)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4M", path], check=True, capture_output=True)
    assert os.path.getsize(path) > empty
    assert storage.reset(wanted) == path
    assert os.path.getsize(path) == empty
    name = os.path.basename(path)  # nothing is left lying about
    assert sorted(os.listdir(os.path.dirname(path))) == [name.replace(".qcow2", ".meta"), name]


def test_reset_makes_a_volume_that_is_not_there_or_torn(storage: Storage, root: Path) -> None:
    storage.attach(str(root / "domain"))
    wanted = volume(root)
    path = Path(storage.reset(wanted))
    path.write_bytes(b"torn")
    assert info(storage.reset(wanted))["format"] == "qcow2"


def test_a_volume_that_another_process_has_open_is_in_use(storage: Storage, root: Path) -> None:
    storage.attach(str(root / "domain"))
    wanted = volume(root)
    path = storage.create(wanted)
    qemu = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert qemu.stdin is not None and qemu.stdout is not None
    qemu.stdin.write(b"read 0 512\n")
    qemu.stdin.flush()
    qemu.stdout.readline()  # it has the file open now
    try:
        with pytest.raises(HostRefused) as no:
            storage.reset(wanted)
        assert no.value.failure.code == "volume_in_use"
        with pytest.raises(HostRefused):
            storage.delete(wanted.domain_path, wanted.volume_id)
        assert os.path.exists(path)
    finally:
        qemu.communicate()


@pytest.mark.parametrize("trick", ["link", "dots", "neighbor", "relative", "backing link"])
def test_no_path_leads_out_of_the_roots(storage: Storage, root: Path, tmp_path: Path, trick: str) -> None:
    outside = tmp_path / "root-neighbor"  # begins with the root's own name
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "link").symlink_to(outside)
    domain = {"link": f"{root}/link", "dots": f"{root}/../root-neighbor", "neighbor": str(outside), "relative": "root"}
    with pytest.raises(HostRefused) as no:
        if trick == "backing link":
            storage.attach(str(root / "domain"))
            storage.create(volume(root, backing=f"{root}/link/secret"))
        else:
            storage.create(VolumeSpec(uuid4(), domain[trick], 16))
    assert no.value.failure.code == "path_refused"
    assert os.listdir(outside) == ["secret"]


def test_a_full_storage_is_said_and_leaves_nothing_torn(tiny: Path, tmp_path: Path) -> None:
    storage = Storage([str(tiny)], tmp_path / "domains.json", lambda _: [])
    storage.attach(str(tiny))
    kept = storage.create(VolumeSpec(uuid4(), str(tiny), 16))
    before = info(kept)
    codes = set()
    for _ in range(8):
        try:
            storage.create(VolumeSpec(uuid4(), str(tiny), 16))
        except HostRefused as no:
            codes.add(no.failure.code)
            assert "full" in no.failure.message
    assert codes == {"storage_full"}
    for name in (one.name for one in (tiny / "volumes").iterdir() if one.suffix != ".meta"):
        assert info(str(tiny / "volumes" / name))["virtual-size"] == 16 << 20, name
    assert info(kept) == before


def test_a_read_only_storage_is_said(tiny: Path, tmp_path: Path) -> None:
    storage = Storage([str(tiny)], tmp_path / "domains.json", lambda _: [])
    storage.attach(str(tiny))
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    with pytest.raises(HostRefused) as no:
        storage.create(VolumeSpec(uuid4(), str(tiny), 16))
    assert no.value.failure.code == "no_permission" and "read-only" in no.value.failure.message
    report = storage.reports()[0]
    assert not report.ok and report.why.endswith(".")


def test_domains_are_reported_after_a_restart(storage: Storage, root: Path, tmp_path: Path) -> None:
    storage.attach(str(root / "domain"))
    again = Storage([str(root)], tmp_path / "domains.json", lambda _: [])
    assert [(one.path, one.ok) for one in again.reports()] == [(str(root / "domain"), True)]
    (root / "domain" / "volumes").rmdir()
    (root / "domain").rmdir()
    assert [one.ok for one in again.reports()] == [False]


def test_two_who_create_the_same_volume_get_one(storage: Storage, root: Path) -> None:
    storage.attach(str(root / "domain"))
    wanted, paths = volume(root), []
    threads = [threading.Thread(target=lambda: paths.append(storage.create(wanted))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8 and len(set(paths)) == 1
    assert len(os.listdir(os.path.dirname(paths[0]))) == 2  # and what is noted of it


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host's that is none of any guest's business."""
    path = tmp_path / "shadow"
    path.write_bytes(b"root:secret" * 6000)
    return path


def image(path: Path, *more: str) -> str:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, str(path), "1M"], check=True)
    return str(path)


def test_an_image_that_rests_on_a_file_of_the_host_is_refused(storage: Storage, root: Path, secret: Path) -> None:
    storage.attach(str(root / "domain"))
    fine = image(root / "fine.qcow2")
    bad = image(root / "bad.qcow2", "-b", str(secret), "-F", "raw")
    over = image(root / "over.qcow2", "-b", bad, "-F", "qcow2")
    assert storage.create(volume(root, backing=image(root / "good.qcow2", "-b", fine, "-F", "qcow2")))
    for backing in (bad, over):
        with pytest.raises(HostRefused, match="outside of this host's storage folders"):
            storage.create(volume(root, backing=backing))


def test_an_image_whose_data_lie_in_another_file_is_refused(storage: Storage, root: Path, secret: Path) -> None:
    storage.attach(str(root / "domain"))
    bad = image(root / "bad.qcow2", "-o", f"data_file={root / 'data.raw'},data_file_raw=on")
    subprocess.run(["qemu-img", "amend", "-q", "-f", "qcow2", "-o", f"data_file={secret}", bad], check=False)
    with pytest.raises(HostRefused) as no:
        storage.create(volume(root, backing=bad))
    assert no.value.failure.code == "backing_refused"


def test_an_image_of_a_kind_that_names_other_files_is_refused(storage: Storage, root: Path, secret: Path) -> None:
    storage.attach(str(root / "domain"))
    bad = root / "bad.vmdk"
    bad.write_text(f'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
                   f'RW 128 FLAT "{secret}" 0\nddb.virtualHWVersion = "4"\nddb.geometry.cylinders = "1"\n'
                   'ddb.geometry.heads = "16"\nddb.geometry.sectors = "63"\nddb.adapterType = "ide"\n')
    with pytest.raises(HostRefused) as no:
        storage.create(volume(root, backing=str(bad)))
    assert no.value.failure.code == "backing_refused"


def test_an_image_that_rests_on_itself_is_refused(storage: Storage, root: Path) -> None:
    first, second = root / "first.qcow2", root / "second.qcow2"
    for image, base in ((first, second), (second, first)):
        subprocess.check_call(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "8M"])
        subprocess.check_call(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(image)])
    for image in (first, second):
        with pytest.raises(HostRefused) as no:
            storage.create(VolumeSpec(uuid4(), str(root), 8, str(image)))
        assert no.value.failure.code == "backing_refused" and "rests on itself" in str(no.value)
    subprocess.check_call(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(first), str(first)])
    with pytest.raises(HostRefused, match="rests on itself"):
        storage.create(VolumeSpec(uuid4(), str(root), 8, str(first)))
