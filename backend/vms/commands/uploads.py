"""Disks that people bring along: begin an upload, and make a disk of it when all of it has arrived."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import move, record
from backend.storage.machine import DISK, TRANSFER
from backend.storage.models import Disk, StorageDomain, Transfer
from backend.storage.reach import host_of
from backend.tasks.command import Actor, Call, Job, Plain
from backend.vms.disks import about
from backend.vms.rules import require_name
from hostapi.types import Failure, TakenReport, UploadSpec

FORMATS = ("qcow2", "raw", "iso")
MOST_MIB = 64 << 20  # no disk is larger


def transfer_of(tx: Tx, disk_id: UUID) -> Transfer | None:
    """The upload that the disk is made of."""
    return tx.scalars(sa.select(Transfer).where(Transfer.disk_id == disk_id)).first()


@dataclass(frozen=True)
class UploadDisk(Plain):
    """Begin to upload a file that is to become a disk, or a CD to start machines from: its bytes are sent afterwards, to the
    address that this answers."""

    disk_name: str
    domain_id: UUID
    format: str
    size_bytes: int
    sha256: str
    name, permission, steps = "disk.upload", "disk.edit", ()

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "storagedomain", self.domain_id

    def title(self, tx: Tx) -> str:
        return f"Upload disk {self.disk_name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"disk-name:{self.disk_name}"]

    def check(self, tx: Tx) -> None:
        require_name(self.disk_name, "disk")
        if tx.scalar(sa.select(Disk.id).where(Disk.name == self.disk_name)):
            sentence = f"There is a disk named {self.disk_name} already; choose another name."
            raise Invalid("name_taken", sentence, fields=["disk_name"])
        if self.format not in FORMATS:
            raise Invalid("bad_format", f"format is one of {', '.join(FORMATS)}.", fields=["format"])
        if not 0 < self.size_bytes <= MOST_MIB << 20:
            raise Invalid("bad_size", "size_bytes is the size of the file, which is not empty.", fields=["size_bytes"])
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise Invalid("bad_sha256", "sha256 is the file's SHA-256 in 64 hexadecimal digits.", fields=["sha256"])
        domain = get(tx, StorageDomain, self.domain_id)
        if domain.state != "active":
            raise Impossible("domain_not_active", f"Storage domain {domain.name} is {domain.state}; activate it first.")
        if self.size_bytes >> 20 > domain.free_mib:
            sentence = f"Storage domain {domain.name} has {domain.free_mib} MiB free, the file has {self.size_bytes >> 20}."
            raise Impossible("storage_full", sentence)

    def run(self, tx: Tx, actor: Actor, now: Any) -> dict[str, Any]:
        """The rows; the disk is locked until the file has arrived and is what it says."""
        disk = Disk(
            name=self.disk_name, domain_id=self.domain_id, capacity_mib=-(-self.size_bytes >> 20), state=DISK.initial,
            format="iso" if self.format == "iso" else "qcow2",
        )  # fmt: skip
        tx.add(disk)
        tx.flush()
        transfer = Transfer(disk_id=disk.id, format=self.format, size_bytes=self.size_bytes, sha256=self.sha256, moved_at=now,
                            state=TRANSFER.initial)  # fmt: skip
        tx.add(transfer)
        tx.flush()
        record(tx, "disk.upload_began", disk, actor=actor.name)
        touch(tx, "disk", disk.id)
        return {"id": disk.id, "transfer_id": transfer.id}


@dataclass(frozen=True)
class TakeUpload(Plain):
    """Make a disk of a file that has arrived: its checksum is compared, and it must be what it says."""

    disk_id: UUID
    name, permission, steps = "disk.take_upload", "disk.edit", ("take",)

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "storagedomain", get(tx, Disk, self.disk_id).domain_id

    def title(self, tx: Tx) -> str:
        return f"Make disk {get(tx, Disk, self.disk_id).name} of what was uploaded"

    def locks(self, tx: Tx) -> list[str]:
        return [f"disk:{self.disk_id}"]

    def check(self, tx: Tx) -> None:
        disk, transfer = get(tx, Disk, self.disk_id), transfer_of(tx, self.disk_id)
        if transfer is None or transfer.state in ("done", "failed"):
            raise Impossible("no_upload", f"Nothing is being uploaded to disk {disk.name}.")
        if transfer.received_bytes != transfer.size_bytes:
            sentence = f"{transfer.received_bytes} of {transfer.size_bytes} bytes of disk {disk.name} have arrived."
            raise Impossible("part_incomplete", sentence)

    def take(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        disk, transfer = self._both(tx)
        if transfer.state == "receiving":
            move(tx, transfer, "arrived")
        domain = get(tx, StorageDomain, disk.domain_id)
        upload = UploadSpec(disk.id, domain.path, transfer.format, transfer.size_bytes, transfer.sha256, MOST_MIB, about(disk))  # type: ignore[arg-type]
        return Call(host_of(tx, disk), "take_upload", {"upload": upload})

    def take_done(self, tx: Tx, job: Job, taken: TakenReport) -> None:
        disk, transfer = self._both(tx)
        move(tx, disk, "created", path=taken.path, capacity_mib=taken.capacity_mib)
        move(tx, transfer, "taken", moved_at=job.now)
        record(tx, "disk.uploaded", disk, actor=job.actor.name, task_id=job.task_id)

    def take_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        disk, transfer = self._both(tx)
        if failure.code == "checksum_differs" or failure.code.startswith("image_"):  # then its host has deleted it
            move(tx, transfer, "refused", why=failure.message)
            move(tx, disk, "creation_failed")
            record(tx, "disk.upload_refused", disk, task_id=job.task_id, why=failure.message)
        else:
            received = failure.facts.get("size", transfer.received_bytes)
            move(tx, transfer, "incomplete", received_bytes=received, why=failure.message)

    def _both(self, tx: Tx) -> tuple[Disk, Transfer]:
        disk, transfer = get(tx, Disk, self.disk_id), transfer_of(tx, self.disk_id)
        if transfer is None:
            raise Impossible("no_upload", f"Nothing is being uploaded to disk {disk.name}.")
        return disk, transfer
