"""Old uploads (a loop): one that nobody goes on with is removed, what is done or failed is forgotten."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
import structlog

from backend.clock import Clock
from backend.db import Tx
from backend.errors import Refused
from backend.loops import FromRows
from backend.storage.models import Disk, Transfer
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from backend.vms.commands.disks import RemoveDisk

log = structlog.get_logger("uploads")
KEEP = timedelta(days=1)  # after the last piece


class ForgetUploads(FromRows):
    """Nothing half stays for longer than a day."""

    name = "uploads"

    def __init__(self, clock: Clock, every_s: float = 60.0) -> None:
        self.clock, self.every_s = clock, every_s

    def apply(self, tx: Tx, found: None) -> None:
        now = self.clock.now()
        old = sa.select(Transfer.disk_id).where(Transfer.moved_at < now - KEEP)
        tx.execute(sa.delete(Transfer).where(Transfer.disk_id.in_(old), Transfer.state == "done"))
        half = sa.select(Disk.id).where(Disk.id.in_(old), Disk.state.in_(("locked", "illegal")), Disk.vm_id.is_(None))
        for disk_id in tx.scalars(half).all():
            try:
                with tx.begin_nested():
                    submit(tx, RemoveDisk(disk_id), SYSTEM, now)
            except Refused as no:  # it is being removed, or made a disk of, or its storage is away: next time
                log.info("an old upload stays for now", disk=str(disk_id), why=no.message)
