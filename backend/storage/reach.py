"""Which hosts reach which storage: a local domain's own host, and of a shared domain those whose last report said so."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import move
from backend.hosts.models import Host
from backend.storage.models import Disk, DomainReach, StorageDomain
from hostapi.types import StorageReport

NOT_TOLD = "Its agent does not use the folder yet."
LOST_AFTER = timedelta(seconds=20)  # of not reaching a domain: a shorter hiccup takes no host out of use
ALIKE_MIB = 64  # a free space that differs by less is not written down anew


def reached(tx: Tx, domains: Collection[UUID] | None = None) -> dict[UUID, set[UUID]]:
    """The active storage domains (or those of these that are active) that each host reaches, by host."""
    found: dict[UUID, set[UUID]] = {}
    if domains is not None and not domains:
        return found
    active = sa.and_(StorageDomain.state == "active", sa.true() if domains is None else StorageDomain.id.in_(domains))
    local = sa.select(StorageDomain.id, StorageDomain.host_id).where(active, StorageDomain.host_id.is_not(None))
    shared = (
        sa.select(DomainReach.domain_id, DomainReach.host_id)
        .join(StorageDomain, StorageDomain.id == DomainReach.domain_id)
        .where(active, DomainReach.ok)
    )
    for domain_id, host_id in tx.execute(local.union_all(shared)):
        if host_id is not None:
            found.setdefault(host_id, set()).add(domain_id)
    return found


def unreached(tx: Tx, now: datetime) -> dict[UUID, str]:
    """What hosts say that have not reached a shared domain for a while which others do reach; of the first of them by name."""
    rows = (
        sa.select(DomainReach.host_id, StorageDomain.name, DomainReach.why)
        .join(StorageDomain, StorageDomain.id == DomainReach.domain_id)
        .where(StorageDomain.state == "active", DomainReach.ok.is_(False), DomainReach.lost_at <= now - LOST_AFTER)
        .order_by(StorageDomain.name.desc())
    )
    return {host_id: f"It does not reach storage domain {name}: {why}" for host_id, name, why in tx.execute(rows)}


def host_of(tx: Tx, disk: Disk) -> UUID:
    """The host to ask about this disk; `Impossible` while no host that is up reaches its domain. Disks of a shared domain
    are spread over the hosts that reach it, the same disk as long as it may to the same host."""
    domain = get(tx, StorageDomain, disk.domain_id)
    if domain.state != "active":
        raise Impossible(
            "domain_not_active", f"Storage domain {domain.name} is {domain.state}; activate it first. {domain.why}".strip()
        )
    if domain.host_id is not None:
        return domain.host_id
    hosts = tx.scalars(
        sa.select(Host.id)
        .join(DomainReach, DomainReach.host_id == Host.id)
        .where(DomainReach.domain_id == domain.id, DomainReach.ok, Host.state == "up")
        .order_by(Host.name)
    ).all()
    if not hosts:
        raise Impossible("domain_not_reached", f"No host that is up reaches storage domain {domain.name} at the moment.")
    return hosts[disk.id.int % len(hosts)]


def require_readable(tx: Tx, domain_id: UUID, base_id: UUID, field: str = "domain_id") -> None:
    """`Invalid` unless every host that reaches the domain reaches that of the base, too: disks are laid over it."""
    if domain_id == base_id:
        return
    domain, base = get(tx, StorageDomain, domain_id), get(tx, StorageDomain, base_id)
    if base.host_id not in (None, domain.host_id):
        raise Invalid(
            "wrong_domain",
            f"The template's disk lies in storage domain {base.name}, a folder of one host; what lies over it must lie on that "
            f"host, too, so storage domain {domain.name} cannot be used.",
            fields=[field],
        )


def hear(tx: Tx, said: Sequence[tuple[UUID, Sequence[StorageReport]]], now: datetime) -> None:
    """What hosts report of the shared domains. One is usable as long as a host that answers reaches it."""
    shared = {
        domain.id: domain
        for domain in tx.scalars(
            sa.select(StorageDomain).where(StorageDomain.host_id.is_(None), StorageDomain.state.in_(("active", "inactive")))
        )
    }
    if not shared or not said:
        return
    rows: dict[UUID, list[DomainReach]] = {id: [] for id in shared}
    for row in tx.scalars(sa.select(DomainReach).where(DomainReach.domain_id.in_(shared))):
        rows[row.domain_id].append(row)
    answers = {host_id: {report.path: report for report in reports} for host_id, reports in said}
    for domain_id, domain in shared.items():
        for row in rows[domain_id]:
            if row.host_id in answers:
                _note(tx, row, answers[row.host_id].get(domain.path), now)
        _judge(tx, domain, rows[domain_id])


def note(tx: Tx, domain_id: UUID, host_id: UUID, report: StorageReport, now: datetime) -> None:
    """What a host answered that was told to use a shared domain."""
    fresh = pg.insert(DomainReach).values(domain_id=domain_id, host_id=host_id, ok=False, told_at=now)
    tx.execute(fresh.on_conflict_do_update(index_elements=["domain_id", "host_id"], set_={"told_at": now}))
    here = sa.select(DomainReach).where(DomainReach.domain_id == domain_id, DomainReach.host_id == host_id)
    _note(tx, tx.scalars(here.execution_options(populate_existing=True)).one(), report, now)


def _note(tx: Tx, row: DomainReach, report: StorageReport | None, now: datetime) -> None:
    ok, why = (report.ok, report.why) if report is not None else (False, NOT_TOLD)
    if report is None and not row.ok:
        why = row.why or why  # what it said when it was told is worth more
    if ok or row.lost_at is None:
        row.lost_at = None if ok else now
    if (row.ok, row.why) != (ok, why):
        row.ok, row.why = ok, why
        touch(tx, "storagedomain", row.domain_id)
    if report is not None and (abs(row.free_mib - report.free_mib) >= ALIKE_MIB or row.total_mib != report.total_mib):
        row.total_mib, row.free_mib = report.total_mib, report.free_mib
    tx.flush()


def _judge(tx: Tx, domain: StorageDomain, rows: Sequence[DomainReach]) -> None:
    well = [row for row in rows if row.ok]
    if well:
        size = (well[0].total_mib, well[0].free_mib)
        if (domain.total_mib, domain.free_mib) != size:
            domain.total_mib, domain.free_mib = size
        if domain.state == "inactive":
            move(tx, domain, "came_back", why="")
    elif domain.state == "active" and rows:
        move(tx, domain, "vanished", why=rows[0].why)
