"""Disks that belong to nobody, as tasks: made, made larger, handed to a VM, removed."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.errors import Impossible, Invalid
from backend.storage.models import Disk
from backend.vms.commands.disk_sizes import ResizeDisk
from backend.vms.commands.disks import AttachDisk, CreateDisk, RemoveDisk
from backend.vms.commands.power import StartVm
from backend.vms.commands.snapshots import SnapshotVm
from tests.conftest import ToldClock
from tests.tasks.bench import Bench


@pytest.fixture
def bench(sessions: Sessions, clock: ToldClock) -> Bench:
    return Bench(sessions, clock)


def disk(bench: Bench, name: str) -> Disk:
    with bench.sessions() as tx:
        return tx.scalars(sa.select(Disk).where(Disk.name == name)).one()


def capacity(bench: Bench, id: UUID) -> int:
    return bench.world.folder("/srv/disks").volumes[id].capacity_mib


def test_a_disk_grows_alone_and_under_a_vm_that_runs(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.submit(CreateDisk("data", bench.domain_id, 64, preallocated=True))
    bench.settle()
    data = disk(bench, "data")
    assert data.state == "ok" and bench.world.folder("/srv/disks").volumes[data.id].preallocated
    bench.submit(ResizeDisk(data.id, 128))
    bench.settle()
    assert disk(bench, "data").capacity_mib == capacity(bench, data.id) == 128
    bench.submit(StartVm(vm_id))
    bench.settle()
    bench.submit(AttachDisk(data.id, vm_id))
    bench.settle()
    bench.submit(ResizeDisk(data.id, 256))
    bench.settle()
    assert disk(bench, "data").capacity_mib == capacity(bench, data.id) == 256, bench.story()
    with pytest.raises(Impossible, match="detach it first"):
        bench.submit(RemoveDisk(data.id))


def test_what_a_disk_is_not_resized_to(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    with bench.sessions() as tx:
        own, base = (tx.scalars(sa.select(Disk.id).where(column.is_not(None))).one() for column in (Disk.vm_id, Disk.template_id))
    with pytest.raises(Invalid, match="only be made larger"):
        bench.submit(ResizeDisk(own, 1))
    with pytest.raises(Impossible, match="template"):
        bench.submit(ResizeDisk(base, 1 << 20))
    bench.submit(SnapshotVm(vm_id, "before"))
    bench.settle()
    with pytest.raises(Impossible, match="has snapshots"):
        bench.submit(ResizeDisk(own, 1 << 20))


def test_a_disk_that_takes_its_room_at_once_needs_it(bench: Bench) -> None:
    with pytest.raises(Impossible, match="MiB free"):
        bench.submit(CreateDisk("data", bench.domain_id, 1 << 22, preallocated=True))
