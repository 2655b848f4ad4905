"""Where a VM could be migrated to, and why not elsewhere; how many migrations hosts are at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from backend import facts
from backend.db import Tx
from backend.scheduling.place import score, why_not
from backend.vms.models import Vm

PLANNING = 7_316_301  # one migration is planned at a time, so that two never both take a host's last place


@dataclass(frozen=True)
class Destination:
    """Another host of the VM's cluster; `why` is a sentence when it cannot take the VM."""

    host_id: UUID
    host: str
    why: str
    score: float


def destinations(tx: Tx, vm: Vm) -> list[Destination]:
    """Every other host of the cluster, those that can take the VM first, the best one on top."""
    wanted, rules = facts.of_vm(tx, vm), facts.policy(tx, vm.cluster_id)
    others = [host for host in facts.of_hosts(tx, vm.cluster_id, wanted=wanted) if host.host_id != vm.host_id]
    found = [
        Destination(host.host_id, host.name, why_not(wanted, host, rules) or "", round(score(wanted, host, rules), 3))
        for host in others
    ]
    return sorted(found, key=lambda one: (bool(one.why), -one.score, one.host))


def under_way(tx: Tx) -> Mapping[UUID, int]:
    """How many migrations each host is at, in and out. Who plans one on it holds the lock until it is written down."""
    tx.execute(sa.text(f"SELECT pg_advisory_xact_lock({PLANNING})"))
    count: Counter[UUID] = Counter()
    for hosts in tx.execute(sa.select(Vm.host_id, Vm.destination_id).where(Vm.state == "migrating")):
        count.update(id for id in hosts if id is not None)
    return count
