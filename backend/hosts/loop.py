"""Monitor: ask every host for its report and apply the changes; fetch screens' pictures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx
from backend.errors import Refused
from backend.events import move
from backend.hosts.models import Host
from backend.hosts.rules import Change, KnownHost, KnownVm, Usage, changes, guest_news, usages
from backend.storage import reach
from backend.storage.models import StorageDomain
from backend.vms import guests
from backend.vms.models import Vm, VmScreen
from hostapi.client import HostUnreachable
from hostapi.types import HostReport, Screen, StorageReport

log = structlog.get_logger("monitor")
ASKED = ("connecting", "up", "non_responsive", "preparing_for_maintenance", "maintenance")
LOOKED_AT = timedelta(seconds=30)  # a screen is fetched while somebody has asked for it this lately
ASK_AT_ONCE = 64


class ReportDoor(Protocol):
    """How the monitor reaches a host."""

    def report(self) -> HostReport: ...
    def screens(self, vm_ids: tuple[UUID, ...]) -> tuple[Screen, ...]: ...


Doors = Callable[[UUID, str, int], ReportDoor]
Address = tuple[UUID, str, int]


def _ask_all(wanted: list[tuple[Address, Any]], ask: Callable[[Address, Any], Any]) -> list[tuple[UUID, Any]]:
    """Ask every host at once; a host that does not answer answers None."""

    def one(item: tuple[Address, Any]) -> tuple[UUID, Any]:
        try:
            return item[0][0], ask(*item)
        except HostUnreachable as silent:
            log.debug("host silent", host=str(item[0][0]), why=str(silent))
            return item[0][0], None

    if not wanted:
        return []
    with ThreadPoolExecutor(min(ASK_AT_ONCE, len(wanted)), "ask") as pool:
        return list(pool.map(one, wanted))


class Monitor:
    """What every host says of itself, its VMs and its storage, into the rows."""

    name = "monitor"

    def __init__(self, doors: Doors, clock: Clock, every_s: float = 2.0) -> None:
        self.doors, self.clock, self.every_s = doors, clock, every_s

    def read(self, tx: Tx) -> list[tuple[Address, KnownHost]]:
        """Hosts and their VMs before they are asked: a VM that starts meanwhile is not judged by an older report."""
        vms: dict[UUID, list[KnownVm]] = {}
        logged_in = guests.open_sessions(tx)
        for vm_id, state, guest, started_at, host_id, vcpus, cpu_s, cpu_at, pause, boots in tx.execute(
            sa.select(Vm.id, Vm.state, Vm.guest, Vm.started_at, Vm.host_id, Vm.vcpus, Vm.cpu_s, Vm.cpu_at, Vm.pause, Vm.boots)
            .where(Vm.host_id.is_not(None), Vm.state != "down")
            .order_by(sa.func.length(Vm.name), Vm.name)
        ):
            if host_id is not None:
                inside = logged_in.get(vm_id, frozenset())
                vms.setdefault(host_id, []).append(
                    KnownVm(vm_id, state, guest, started_at, vcpus, cpu_s, cpu_at, inside, pause, boots)
                )
        now = self.clock.now()
        return [
            ((h.id, h.address, h.port), KnownHost(h.id, h.state, h.reported_at or now, tuple(vms.get(h.id, ()))))
            for h in tx.execute(
                sa.select(Host.id, Host.address, Host.port, Host.state, Host.reported_at)
                .where(Host.state.in_(ASKED))
                .order_by(Host.name)
            )
        ]

    def gather(self, wanted: list[tuple[Address, KnownHost]]) -> list[tuple[KnownHost, HostReport | None]]:
        known = {address[0]: host for address, host in wanted}
        answers = _ask_all(wanted, lambda address, _: self.doors(*address).report())
        return [(known[host_id], report) for host_id, report in answers]

    def apply(self, tx: Tx, found: list[tuple[KnownHost, HostReport | None]]) -> None:
        now = self.clock.now()
        for known, report in found:
            runs = {vm.vm_id: vm.started_at for vm in known.vms}
            for change in changes(known, report, now):
                if change.kind == "vm" and not _same_run(tx, change.id, runs[change.id], known.host_id):
                    continue
                _apply(tx, change)
            if report is None:
                tx.execute(
                    sa.update(Host)
                    .where(Host.id == known.host_id)
                    .values(silences=Host.silences + 1, reported_at=sa.func.coalesce(Host.reported_at, now))
                )
            else:
                _apply_storage(tx, known.host_id, report.storage)
                _apply_usages(tx, usages(known, report, now), now)
                _apply_guests(tx, known, report, now)
        reach.hear(tx, [(known.host_id, report.storage) for known, report in found if report is not None])
        guests.end_where_off(tx, now)


def _apply_guests(tx: Tx, known: KnownHost, report: HostReport, now: datetime) -> None:
    """Who logged in and out inside; not of a VM that began anew since its host was asked."""
    runs = {vm.vm_id: vm for vm in known.vms}
    told = guest_news(known, report)
    for news in told:
        if news.came or news.left:
            vm = tx.get(Vm, news.vm_id, populate_existing=True)
            was = runs[news.vm_id]
            if vm is not None and vm.started_at == was.started_at and vm.state in (was.state, "up", "unknown"):
                guests.hear(tx, vm, news.came, news.left, now)
    guests.seen(tx, [news.vm_id for news in told], now)


def _same_run(tx: Tx, vm_id: UUID, started_at: datetime | None, host_id: UUID) -> bool:
    """Whether the VM was neither started anew nor moved since its host was asked: what was said of the last run is no news
    of this one, and what it left does not run it."""
    here = sa.select(Vm.id).where(Vm.id == vm_id, Vm.started_at.is_not_distinct_from(started_at), Vm.host_id == host_id)
    return tx.scalar(here) is not None


def _apply(tx: Tx, change: Change) -> None:
    """One change, unless somebody moved the thing meanwhile: then the next round sees it afresh."""
    cls: Any = Host if change.kind == "host" else Vm
    if change.event is None:
        columns = [getattr(cls, name) for name in change.sets]
        before = tx.execute(sa.select(*columns).where(cls.id == change.id)).first() if change.kind == "vm" else None
        tx.execute(
            sa.update(cls)
            .where(cls.id == change.id, cls.state == change.was)
            .values(**change.sets)
            .execution_options(synchronize_session=False)
        )
        if before is not None and tuple(before) != tuple(change.sets.values()):
            vm = tx.get(Vm, change.id)
            touch(tx, "vm", change.id, pool_id=vm.pool_id if vm else None)
        return
    row = tx.get(cls, change.id, populate_existing=True)
    if row is None or row.state != change.was:
        return
    try:
        with tx.begin_nested():
            move(tx, row, change.event, **change.sets)
    except Refused as meanwhile:
        log.info("change overtaken", kind=change.kind, id=str(change.id), change=change.event, why=meanwhile.message)


def _apply_usages(tx: Tx, found: list[Usage], now: datetime) -> None:
    """Samples of runs that are not over; nobody is told of a change, for there is one every few seconds."""
    if not found:
        return
    vm = Vm.__table__
    here = sa.and_(vm.c.id == sa.bindparam("the_vm"), vm.c.started_at.is_not_distinct_from(sa.bindparam("the_run")))
    sets = ("cpu_s", "cpu_usage", "memory_given_mib", "cpu_at")
    tx.connection().execute(
        sa.update(vm).where(here).values(**{name: sa.bindparam(f"new_{name}") for name in sets}),  # type: ignore[arg-type]
        [
            {"the_vm": one.vm_id, "the_run": one.started_at, "new_cpu_s": one.cpu_s, "new_cpu_usage": one.cpu_usage,
             "new_memory_given_mib": one.memory_given_mib, "new_cpu_at": now}
            for one in found
        ],
    )


def _apply_storage(tx: Tx, host_id: UUID, reports: tuple[StorageReport, ...]) -> None:
    by_path = {report.path: report for report in reports}
    for domain in tx.scalars(
        sa.select(StorageDomain).where(StorageDomain.host_id == host_id, StorageDomain.state.in_(("active", "inactive")))
    ):
        report = by_path.get(domain.path)
        if report is None:
            continue
        if (domain.total_mib, domain.free_mib) != (report.total_mib, report.free_mib):
            domain.total_mib, domain.free_mib = report.total_mib, report.free_mib
        if domain.state == "active" and not report.ok:
            move(tx, domain, "vanished", why=report.why)
        elif domain.state == "inactive" and report.ok:
            move(tx, domain, "came_back", why="")


class Screens:
    """Small pictures of the screens that somebody is looking at."""

    name = "screens"

    def __init__(self, doors: Doors, clock: Clock, every_s: float = 5.0) -> None:
        self.doors, self.clock, self.every_s = doors, clock, every_s

    def read(self, tx: Tx) -> list[tuple[Address, tuple[UUID, ...]]]:
        wanted: dict[Address, list[UUID]] = {}
        for vm_id, host_id, address, port in tx.execute(
            sa.select(Vm.id, Host.id, Host.address, Host.port)
            .join(Host, Host.id == Vm.host_id)
            .join(VmScreen, VmScreen.vm_id == Vm.id)
            .where(Vm.state == "up", Host.state == "up", VmScreen.wanted_at > self.clock.now() - LOOKED_AT)
        ):
            wanted.setdefault((host_id, address, port), []).append(vm_id)
        return [(address, tuple(ids)) for address, ids in wanted.items()]

    def gather(self, wanted: list[tuple[Address, tuple[UUID, ...]]]) -> list[Screen]:
        answers = _ask_all(wanted, lambda address, ids: self.doors(*address).screens(ids))
        return [screen for _, screens in answers for screen in screens or ()]

    def apply(self, tx: Tx, found: list[Screen]) -> None:
        now = self.clock.now()
        for screen in found:
            tx.execute(sa.update(VmScreen).where(VmScreen.vm_id == screen.vm_id).values(webp=screen.webp, taken_at=now))
        tx.execute(sa.delete(VmScreen).where(VmScreen.wanted_at < now - timedelta(hours=1)))


__all__ = ["Monitor", "Screens"]
