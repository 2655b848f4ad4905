"""A host on which one VM after another fails to start is in error for a while, so that others are used."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.events import move
from backend.hosts.models import Host
from hostapi.types import Failure

MOST = 3  # VMs in a row; one VM that starts nowhere must not take host after host away
FOR = timedelta(minutes=30)
ITS_FAULT = (
    "start_failed", "no_memory", "no_kvm", "no_permission", "hypervisor_down", "hypervisor_silent", "hypervisor_error",
    "internal_error",
)  # fmt: skip


def start_failed(tx: Tx, host_id: UUID, vm_id: UUID, failure: Failure, now: datetime) -> None:
    """Note that a VM did not start on this host, and take the host out of use when it was one too many: but not the last
    host of its cluster that is up."""
    if failure.code not in ITS_FAULT:
        return
    host = tx.get_one(Host, host_id, with_for_update=True, populate_existing=True)
    host.failed_vms = [*(one for one in host.failed_vms if one != str(vm_id)), str(vm_id)][-MOST:]
    others = sa.select(Host.id).where(Host.cluster_id == host.cluster_id, Host.state == "up", Host.id != host.id)
    if len(host.failed_vms) >= MOST and host.state == "up" and tx.scalar(others.limit(1)) is not None:
        until = now + FOR
        why = f"The last {MOST} VMs could not be started on it: {failure.message} It is used again from {until:%H:%M} UTC on."
        move(tx, host, "fail", why=why, error_until=until, failed_vms=[])


def started(tx: Tx, host_id: UUID | None) -> None:
    """Note that a VM did start on this host."""
    failed = sa.func.cardinality(Host.failed_vms) > 0
    tx.execute(sa.update(Host).where(Host.id == host_id, failed).values(failed_vms=[]))
