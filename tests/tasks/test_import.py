"""A storage domain with real qcow2 files, written by the real agent, imported into an empty database: all is there again."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

import assembly
from agent import metadata as notes
from agent.config import AgentConfig
from agent.service import AgentService
from backend.db import Base, Sessions
from backend.errors import Invalid
from backend.events import Event
from backend.hosts.models import Host
from backend.loops import tick
from backend.storage.commands.domains import CreateDomain
from backend.storage.commands.importing import ImportDomain
from backend.storage.keeping import KeepDefinitions
from backend.storage.models import Disk, KeptDefinition, StorageDomain
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.runner import Runner
from backend.tasks.submit import submit
from backend.vms.commands.define import CreateVm
from backend.vms.commands.disks import AttachDisk, CreateDisk
from backend.vms.commands.power import StartVm, StopVm
from backend.vms.commands.snapshots import SnapshotVm
from backend.vms.commands.templates import ImportTemplate
from backend.vms.commands.vnics import CreateVnic
from backend.vms.models import Template, Vm, VmSnapshot, Vnic
from hostapi import metadata
from hostapi.desk import Desk
from hostapi.journal import Journal
from hostapi.types import VolumeAbout, VolumeSpec
from sim import make
from tests.conftest import ToldClock

KEPT = {
    StorageDomain: ("id", "name", "type", "path", "state"),
    Template: ("id", "name", "version", "memory_mib", "vcpus", "boot", "video", "guest_agent", "boot_timeout_s", "state"),
    Vm: ("id", "name", "description", "template_id", "memory_mib", "vcpus", "max_memory_mib", "max_vcpus", "boot", "video",
         "guest_agent", "boot_timeout_s", "protocols", "resume_behaviour", "high_availability", "priority",
         "created_at", "state"),
    Disk: ("id", "name", "domain_id", "vm_id", "template_id", "backing_id", "state", "capacity_mib", "path"),
    Vnic: ("vm_id", "name", "mac", "bridge", "model", "linked", "plugged"),
    VmSnapshot: ("id", "vm_id", "name", "at_rest", "created_at", "state"),
}  # fmt: skip


class Place:
    """A manager over a real agent, on libvirt's test driver, with a folder for a storage domain."""

    def __init__(self, sessions: Sessions, clock: ToldClock, root: Path) -> None:
        self.sessions, self.clock, self.root = sessions, clock, root
        service = AgentService(AgentConfig("alpha", "test:///default", storage_roots=(str(root),)), root / "state")
        self.desk = Desk(service, Journal(None))
        self.runner = Runner(sessions, assembly.COMMANDS, clock, self.door, lambda _: "", "manager")
        self.keep = KeepDefinitions(self.door)
        self.folder = root / "domain"
        self.host_id = self.begin()

    def door(self, *_: object) -> Any:
        return self.desk

    def begin(self) -> UUID:
        with self.sessions.begin() as tx:
            host: Host = make.a_host(tx, "alpha", reported_at=self.clock.now(), virt_type="qemu")
            return host.id

    def throw_the_database_away(self) -> None:
        tables = ", ".join(f'"{table.name}"' for table in Base.metadata.sorted_tables)
        with self.sessions.begin() as tx:
            tx.execute(sa.text(f"TRUNCATE {tables} CASCADE"))
        self.host_id = self.begin()

    def do(self, command: Any) -> Task:
        with self.sessions.begin() as tx:
            task_id = submit(tx, command, SYSTEM, self.clock.now()).id
        self.runner.beat()
        for _ in range(400):
            while self.runner.step():
                pass
            with self.sessions() as tx:
                task = tx.get(Task, task_id)
                if task is not None and task.state in ("succeeded", "failed", "cancelled"):
                    return task
            self.clock.sleep(1)
        raise AssertionError(f"{command} does not end")

    def done(self, command: Any) -> None:
        task = self.do(command)
        assert task.state == "succeeded", task.error

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        with self.sessions() as tx:
            return {cls.__tablename__: sorted(map(tuple, tx.execute(sa.select(*(getattr(cls, name) for name in names)))), key=str)
                    for cls, names in KEPT.items()}  # fmt: skip

    def one(self, cls: Any, name: str) -> Any:
        with self.sessions() as tx:
            return tx.scalars(sa.select(cls.id).where(cls.name == name)).one()

    def told(self) -> list[str]:
        with self.sessions() as tx:
            return list(tx.scalars(sa.select(Event.sentence).where(Event.code == "storagedomain.import_told").order_by(Event.id)))

    def hashes(self) -> dict[str, str]:
        """What a guest reads from each volume, through its whole chain."""
        found = {}
        for path in sorted((self.folder / "volumes").glob("*.qcow2")):
            raw = self.root / "raw"
            subprocess.check_call(["qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", str(path), str(raw)])
            found[path.name] = hashlib.sha256(raw.read_bytes()).hexdigest()
        return found


@pytest.fixture
def place(sessions: Sessions, clock: ToldClock, tmp_path: Path) -> Iterator[Place]:
    root = tmp_path / "root"
    (root / "state").mkdir(parents=True)
    place = Place(sessions, clock, root)
    yield place
    place.desk.close()


def write(place: Place, disk: str, pattern: int) -> None:
    path = place.folder / "volumes" / f"{place.one(Disk, disk)}.qcow2"
    subprocess.check_call(["qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} 0 1M", str(path)], stdout=subprocess.DEVNULL)


def furnish(place: Place, kind: str = "local") -> None:
    """A template over an image, two VMs over it, one with a snapshot, a network card and a further disk, and a disk of nobody."""
    place.done(CreateDomain("disks", place.host_id, str(place.folder), kind))
    image = place.folder / "gold.raw"
    image.write_bytes(b"gold" * (1 << 18))
    domain_id = place.one(StorageDomain, "disks")
    with place.sessions() as tx:
        cluster_id = tx.scalars(sa.select(Host.cluster_id)).one()
    place.done(ImportTemplate("Gold", cluster_id, domain_id, str(image), 16, 64, guest_agent=False))
    for name in ("w1", "w2"):
        gold, protected = place.one(Template, "Gold"), name == "w2"
        place.done(CreateVm(name, gold, description=f"Büro {name}", high_availability=protected, priority=70))
        write(place, f"{name}-1", 7)
    place.done(SnapshotVm(place.one(Vm, "w1"), "before the change"))
    write(place, "w1-1", 8)
    place.done(CreateVnic(place.one(Vm, "w1"), "lan"))
    for disk in ("data", "spare"):
        place.done(CreateDisk(disk, domain_id, 24))
    place.done(AttachDisk(place.one(Disk, "data"), place.one(Vm, "w1")))
    tick(place.sessions, place.keep)


@pytest.mark.parametrize("kind", ["local", "posixfs"])
def test_everything_is_there_again(place: Place, kind: str) -> None:
    furnish(place, kind)
    before, hashes = place.rows(), place.hashes()
    assert len(before["vm"]) == 2 and len(before["disk"]) == 5 and len(before["vm_snapshot"]) == 1 and len(before["vnic"]) == 1
    place.throw_the_database_away()
    assert place.rows()["vm"] == []
    place.done(ImportDomain(place.host_id, str(place.folder)))
    assert place.rows() == before and place.told() == []
    assert place.hashes() == hashes
    tick(place.sessions, place.keep)  # what is written down goes on from where it was
    with place.sessions() as tx:
        assert min(tx.scalars(sa.select(KeptDefinition.generation)).all()) == 2
    place.done(StartVm(place.one(Vm, "w1")))
    with place.sessions() as tx:
        assert tx.scalars(sa.select(Vm.state).where(Vm.name == "w1")).one() in ("up", "powering_up")
    place.done(StopVm(place.one(Vm, "w1")))


def test_conflicts_are_told_one_by_one_and_the_rest_is_there(place: Place) -> None:
    furnish(place)
    w2 = place.one(Vm, "w2")
    place.throw_the_database_away()
    with place.sessions.begin() as tx:
        make.a_vm(tx, "w1")
        make.a_vm(tx, "mine", id=w2)
        make.a_template(tx, "Gold")
    place.done(ImportDomain(place.host_id, str(place.folder), "taken-over"))
    with place.sessions() as tx:
        names = set(tx.scalars(sa.select(Vm.name)))
        assert tx.scalars(sa.select(StorageDomain.name)).one() == "taken-over"
    told = place.told()
    assert {"w1", "mine"} < names and len(names) == 3
    assert any("VM w1 is called w1-" in one for one in told) and any("VM w2 was not imported" in one for one in told)
    assert any("template Gold (version 1) is called Gold " in one for one in told) and all(one.endswith(".") for one in told)
    assert (place.folder / "vms" / f"{w2}.meta").exists(), "what was not imported stays in the storage"
    tick(place.sessions, place.keep)
    assert (place.folder / "vms" / f"{w2}.meta").exists()


def test_a_cd_comes_back_as_one(place: Place) -> None:
    furnish(place)
    id = uuid4()
    file = place.folder / "volumes" / f"{id}.iso"
    file.write_bytes(b"a CD" * 1000)
    notes.settle(str(file), VolumeSpec(id, str(place.folder), 1, about=VolumeAbout("debian.iso")))
    place.throw_the_database_away()
    place.done(ImportDomain(place.host_id, str(place.folder)))
    with place.sessions() as tx:
        disk = tx.get(Disk, id)
        assert disk is not None and (disk.name, disk.format, disk.path, disk.capacity_mib) == ("debian.iso", "iso", str(file), 1)
    assert place.told() == []


def test_hostile_and_torn_files_keep_nothing_else_away(place: Place, tmp_path: Path) -> None:
    furnish(place)
    secret = tmp_path / "shadow"
    secret.write_bytes(b"root:secret" * 6000)
    torn = place.folder / "vms" / f"{place.one(Vm, 'w2')}.meta"
    torn.write_bytes(torn.read_bytes()[:200])
    spare = place.folder / "volumes" / f"{place.one(Disk, 'spare')}.qcow2"
    subprocess.check_call(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(spare)])
    evil = uuid4()
    text = f'{{"id": "{evil}", "name": "a\\u0000b", "version": 1}}'
    (place.folder / "templates" / f"{evil}.meta").write_bytes(metadata.encode("template", 1, text))
    place.throw_the_database_away()
    place.done(ImportDomain(place.host_id, str(place.folder)))
    told = "\n".join(place.told())
    assert "not written to its end" in told and "outside of the storage" in told and str(evil) in told
    assert "Disk w2-1 is attached to nothing now" in told and "secret" not in told
    with place.sessions() as tx:
        assert tx.scalars(sa.select(Vm.name)).all() == ["w1"]
        disks = dict(tx.execute(sa.select(Disk.name, Disk.vm_id)).all())
    assert disks.keys() == {"Gold-1", "w1-1", "data", "w2-1"} and disks["w2-1"] is None


def test_what_cannot_be_imported_is_refused_in_words_and_changes_nothing(place: Place) -> None:
    furnish(place)
    with pytest.raises(Invalid, match="is storage domain disks already"):
        place.do(ImportDomain(place.host_id, str(place.folder)))
    place.throw_the_database_away()
    elsewhere = place.root / "elsewhere"
    place.folder.rename(elsewhere)
    assert "let the host have it there" in str(place.do(ImportDomain(place.host_id, str(elsewhere))).error)
    assert "is no storage domain" in str(place.do(ImportDomain(place.host_id, str(place.root / "state"))).error)
    assert "outside of this host's storage folders" in str(place.do(ImportDomain(place.host_id, "/etc")).error)
    assert all(not rows for rows in place.rows().values())
