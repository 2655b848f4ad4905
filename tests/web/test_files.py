"""Disks over HTTP, on simulated hosts: uploads that break off and go on, what is no image, downloads from anywhere."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

import assembly
from backend.config import Settings
from backend.db import Sessions
from backend.directory import internal, sessions
from backend.loops import tick
from backend.secrets import Keyring
from backend.storage.models import Disk, Transfer
from backend.tasks.models import Task
from backend.vms.commands.power import StartVm
from backend.vms.uploads import ForgetUploads
from portal import Parts, create_app
from sim import make
from tests.conftest import ToldClock
from tests.tasks.bench import Bench
from tests.web.place import BASE, KEY, Asker

DATA = bytes(range(256)) * 70_000  # three pieces
SUM = sha256(DATA).hexdigest()


class Files(Bench):
    """The bench with a portal before it, and its administrator."""

    def __post_init__(self) -> None:
        super().__post_init__()
        with self.sessions.begin() as tx:
            internal.directory(tx)
            root = make.a_user(tx, "root")
            make.a_permission(tx, root, role="system_admin")
            _, token, _ = sessions.create(tx, root.id, client="api", address="192.0.2.1", now=self.clock.now())
        self.parts = Parts(Settings(public_url=BASE), self.sessions, Keyring(KEY), self.clock, assembly.COMMANDS, self.doors)
        self.root = Asker(create_app(self.parts).test_client(), token)

    def upload(self, name: str = "brought", **other: Any) -> tuple[UUID, str]:
        """The disk, and where its bytes go."""
        wanted = {"name": name, "domain_id": str(self.domain_id), "format": "raw", "size_bytes": len(DATA), "sha256": SUM}
        told = self.root.post("/api/v1/disks/upload", wanted | other)
        assert told.status_code == 202, told.json
        result = told.json["task"]["result"]  # type: ignore[index]
        return UUID(result["id"]), f"/api/v1/transfers/{result['transfer_id']}"

    def send(self, where: str, data: bytes, at: int | None = None, size: int = len(DATA)) -> TestResponse:
        headers = {} if at is None else {"Content-Range": f"bytes {at}-{at + len(data) - 1}/{size}"}
        return self.root.ask("PUT", where, data=data, headers=headers)

    def disk(self, id: UUID) -> Disk:
        with self.sessions() as tx:
            return tx.get_one(Disk, id)


@pytest.fixture
def files(sessions: Sessions, clock: ToldClock) -> Files:
    return Files(sessions, clock)


def test_an_upload_goes_on_where_it_stopped_and_comes_back(files: Files) -> None:
    id, where = files.upload()
    assert files.disk(id).state == "locked"
    assert files.send(where, DATA[:5_000_000], 0).json["offset"] == 5_000_000  # type: ignore[index]
    told = files.send(where, DATA[6_000_000:], 6_000_000)
    assert (told.status_code, told.json["error"]["code"]) == (409, "wrong_offset")  # type: ignore[index]
    told = files.root.get(where)
    assert told.headers["Upload-Offset"] == "5000000" and told.json["offset"] == 5_000_000  # type: ignore[index]
    told = files.send(where, DATA[5_000_000:], 5_000_000)
    assert told.status_code == 202 and told.json["task"], told.json  # type: ignore[index]
    files.settle()
    disk = files.disk(id)
    assert (disk.state, disk.capacity_mib, files.root.get(where).json["state"]) == ("ok", 18, "done"), files.story()  # type: ignore[index]
    assert disk.path == f"/srv/disks/volumes/{id}.qcow2"
    whole = files.root.get(f"/api/v1/disks/{id}/content")
    assert whole.data == DATA and whole.headers["Content-Disposition"] == 'attachment; filename="brought.qcow2"'
    part = {"Range": "bytes=5000000-5000009", "If-Range": whole.headers["ETag"]}
    some = files.root.get(f"/api/v1/disks/{id}/content", headers=part)
    assert (some.status_code, some.data) == (206, DATA[5_000_000:5_000_010])
    assert some.headers["Content-Range"] == "bytes 5000000-5000009/17920000"
    assert files.root.get(f"/api/v1/disks/{id}/content", headers={"Range": "bytes=99999999-"}).status_code == 416
    assert files.root.get(f"/api/v1/disks/{id}/content", headers={"Range": "bytes=5-", "If-Range": '"old"'}).data == DATA


@pytest.mark.parametrize("other, data, code", [
    ({"sha256": "0" * 64}, DATA, "checksum"), ({"format": "qcow2"}, DATA, "not what it is said"),
])  # fmt: skip
def test_what_is_not_what_it_says_is_refused_and_forgotten(files: Files, other: dict[str, Any], data: bytes, code: str) -> None:
    id, where = files.upload(**other)
    assert files.send(where, data).status_code == 202
    files.settle()
    told = files.root.get(where).json
    assert told and told["state"] == "failed" and code in told["why"]
    assert files.disk(id).state == "illegal"
    assert files.root.post(f"/api/v1/disks/{id}/remove").status_code == 202
    files.settle()
    assert files.root.get(where).status_code == 404


def test_one_that_nobody_goes_on_with_is_removed_after_a_day(files: Files) -> None:
    id, where = files.upload()
    files.send(where, DATA[:1000], 0)
    done, elsewhere = files.upload("done")
    files.send(elsewhere, DATA)
    files.settle()
    tick(files.sessions, ForgetUploads(files.clock))
    files.settle()
    assert files.disk(id).state == "locked" and files.world.folder("/srv/disks").parts
    files.clock.sleep(timedelta(days=1, minutes=1).total_seconds())
    tick(files.sessions, ForgetUploads(files.clock))
    files.settle()
    assert not files.world.folder("/srv/disks").parts, files.story()
    assert files.disk(done).state == "ok"
    with files.sessions() as tx:
        assert tx.get(Disk, id) is None and not tx.scalars(sa.select(Transfer)).all()


def test_a_host_that_is_away_loses_nothing(files: Files) -> None:
    id, where = files.upload()
    files.send(where, DATA[:1000], 0)
    files.world.do("network alpha off")
    assert files.send(where, DATA[1000:], 1000).status_code == 503
    files.world.do("network alpha on")
    assert files.send(where, DATA[1000:], 1000).status_code == 202
    files.world.do("storage /srv/disks full")
    files.settle()
    told = files.root.get(where).json
    assert told and (told["state"], told["offset"]) == ("receiving", len(DATA)) and "full" in told["why"], told
    files.world.do("storage /srv/disks ok")
    assert files.root.ask("PUT", where, headers={"Content-Range": f"bytes */{len(DATA)}"}).status_code == 202
    files.settle()
    assert files.disk(id).state == "ok", files.story()


@pytest.mark.parametrize("wrong, field", [
    ({"sha256": "short"}, "sha256"), ({"format": "vmdk"}, "format"), ({"size_bytes": 0}, "size_bytes"), ({"name": "a /"}, "name"),
])  # fmt: skip
def test_an_upload_that_cannot_be(files: Files, wrong: dict[str, Any], field: str) -> None:
    wanted = {"name": "x", "domain_id": str(files.domain_id), "format": "raw", "size_bytes": 512, "sha256": SUM}
    told = files.root.post("/api/v1/disks/upload", wanted | wrong)
    assert told.status_code == 422 and told.json["error"]["facts"]["fields"] == [field], told.json  # type: ignore[index]


def test_more_than_was_announced_is_refused(files: Files) -> None:
    _, where = files.upload(size_bytes=512)
    assert files.send(where, b"x" * 512, 1, 512).status_code == 422
    assert files.send(where, b"x" * 10, 0, 999).status_code == 422
    assert files.send(where, bytes(513)).status_code == 422
    assert files.send(where, DATA).status_code == 413


def test_a_cd_is_given_to_a_run_by_its_name(files: Files) -> None:
    id, where = files.upload("tools.iso", format="iso")
    files.send(where, DATA)
    files.settle()
    vm_id = files.a_vm("w1")
    assert files.root.post(f"/api/v1/disks/{id}/attach", {"vm_id": str(vm_id)}).json["error"]["code"] == "is_cd"  # type: ignore[index]
    wanted = {"boot_from": ["cd", "disk"], "iso_domain_id": str(files.domain_id), "iso": "tools.iso"}
    assert files.root.post(f"/api/v1/vms/{vm_id}/run_once", wanted).status_code == 202
    files.settle()
    run = files.world.host("alpha").runs[vm_id]
    assert run.spec.cd == f"/srv/disks/volumes/{id}.iso"


def test_a_disk_that_a_vm_runs_on_is_not_downloaded(files: Files) -> None:
    vm_id = files.a_vm("w1")
    with files.sessions() as tx:
        id = tx.scalars(sa.select(Disk.id).where(Disk.vm_id == vm_id)).one()
    assert files.root.get(f"/api/v1/disks/{id}/content").json["error"]["code"] == "has_base"  # type: ignore[index]
    files.submit(StartVm(vm_id))
    files.settle()
    assert files.root.get(f"/api/v1/disks/{id}/content").json["error"]["code"] == "wrong_state"  # type: ignore[index]
    with files.sessions() as tx:
        assert not tx.scalars(sa.select(Task).where(Task.state == "failed")).all()
