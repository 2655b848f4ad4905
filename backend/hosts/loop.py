"""Monitor: ask every host for its report and apply the changes; fetch screens' pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend.clock import Clock
from backend.clusters.models import Cluster
from backend.db import Tx
from backend.errors import Refused
from backend.events import move
from backend.ha.fence import being_fenced
from backend.ha.proof import want_restart
from backend.hosts import writing
from backend.hosts.models import Host
from backend.hosts.rules import Change, Heard, KnownHost, KnownVm, OtherVersion, changes, guest_news, usages
from backend.shares import SHARDS, shard_of
from backend.storage import reach
from backend.vms import guests
from backend.vms.models import Vm, VmScreen
from hostapi.client import HostUnreachable
from hostapi.types import HostReport, Screen

log = structlog.get_logger("monitor")
ASKED = (
    "connecting", "up", "non_responsive", "non_operational", "preparing_for_maintenance", "maintenance", "reboot", "down",
    "error",
)  # fmt: skip
FELL = ("died", "crashed")  # nobody wanted it
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
        self.shards = frozenset(range(SHARDS))

    def read(self, tx: Tx, only: Collection[UUID] | None = None) -> list[tuple[Address, KnownHost]]:
        """Hosts (`only` these) and their VMs before they are asked: what starts meanwhile is not judged by an older report."""
        vms: dict[UUID, list[KnownVm]] = {}
        logged_in = guests.open_sessions(tx)
        columns = (
            Vm.host_id, Vm.id, Vm.state, Vm.guest, Vm.started_at, Vm.vcpus, Vm.cpu_s, Vm.cpu_at, Vm.cpu_usage,
            Vm.memory_given_mib,
        )  # fmt: skip
        running = sa.select(*columns, Vm.pause, Vm.boots).where(Vm.host_id.is_not(None), Vm.state != "down")
        hosts = (
            sa.select(Host.id, Host.address, Host.port, Host.state, Host.reported_at, Host.cpu_lacks, Host.error_until,
                      Cluster.networks.label("needs"), Host.for_maintenance)
            .join(Cluster, Cluster.id == Host.cluster_id)
            .where(Host.state.in_(ASKED), Host.id.not_in(being_fenced(tx)))
            .order_by(Host.name)
        )
        if only is not None:
            running, hosts = running.where(Vm.host_id.in_(only)), hosts.where(Host.id.in_(only))
        row: Any
        for row in tx.execute(running.order_by(sa.func.length(Vm.name), Vm.name)):
            if shard_of(row.host_id) in self.shards:
                facts: list[Any] = list(row[1:])
                facts.insert(9, logged_in.get(row.id, frozenset()))
                vm = KnownVm(*facts)
                vms.setdefault(row.host_id, []).append(vm)
        now = self.clock.now()

        unreached = reach.unreached(tx, now)

        def known(h: Any) -> KnownHost:
            return KnownHost(
                h.id, h.state, h.reported_at or now, tuple(vms.get(h.id, ())), frozenset(h.needs), h.cpu_lacks,
                unreached.get(h.id, ""), h.error_until, h.for_maintenance,
            )  # fmt: skip

        return [
            ((h.id, h.address, h.port), known(h))
            for h in tx.execute(hosts)
            if shard_of(h.id) in self.shards
        ]

    def gather(self, wanted: list[tuple[Address, KnownHost]]) -> list[tuple[KnownHost, Heard]]:
        known = {address[0]: host for address, host in wanted}
        answers = _ask_all(wanted, lambda address, _: self._report(address))
        return [(known[host_id], report) for host_id, report in answers]

    def _report(self, address: Address) -> Heard:
        try:
            return self.doors(*address).report()
        except HostUnreachable as no:
            if no.code == "version_mismatch":  # not silence: nobody must take it for dead
                return OtherVersion(str(no))
            raise

    def apply(self, tx: Tx, found: Sequence[tuple[KnownHost, Heard]]) -> None:
        """Events one by one, each under its thing's state; everything else in one statement a kind."""
        now = self.clock.now()
        runs: writing.Runs = {vm.vm_id: (vm.started_at, known.host_id) for known, _ in found for vm in known.vms}
        news = [change for known, report in found for change in changes(known, report, now)]
        for change in news:
            told = change.event is not None and (change.kind == "host" or _same_run(tx, change.id, *runs[change.id]))
            if told and _move(tx, change) and change.event in FELL:
                want_restart(tx, tx.get_one(Vm, change.id), now)
        writing.set_columns(tx, [change for change in news if change.event is None], runs)
        answered = [(known, report) for known, report in found if isinstance(report, HostReport)]
        writing.count_silences(tx, [known.host_id for known, report in found if report is None], now)
        writing.sample(tx, [usage for known, report in answered for usage in usages(known, report, now)], runs, now)
        said = [(known.host_id, report.storage) for known, report in answered]
        writing.hear_local_storage(tx, said)
        reach.hear(tx, said, now)
        _apply_guests(tx, answered, now)
        guests.end_where_off(tx, now)


def _apply_guests(tx: Tx, answered: list[tuple[KnownHost, HostReport]], now: datetime) -> None:
    """Who logged in and out inside; not of a VM that began anew since its host was asked."""
    inside = list[UUID]()
    for known, report in answered:
        runs = {vm.vm_id: vm for vm in known.vms}
        for news in guest_news(known, report):
            was = runs[news.vm_id]
            if news.came or news.left:
                vm = tx.get(Vm, news.vm_id, populate_existing=True)
                if vm is not None and vm.started_at == was.started_at and vm.state in (was.state, "up", "unknown"):
                    guests.hear(tx, vm, news.came, news.left, now)
            if was.logged_in - news.left:
                inside.append(news.vm_id)
    guests.seen(tx, inside, now)


def _same_run(tx: Tx, vm_id: UUID, started_at: datetime | None, host_id: UUID) -> bool:
    """Whether the VM was neither started anew nor moved since its host was asked: what was said of the last run is no news
    of this one, and what it left does not run it."""
    here = sa.select(Vm.id).where(Vm.id == vm_id, Vm.started_at.is_not_distinct_from(started_at), Vm.host_id == host_id)
    return tx.scalar(here) is not None


def _move(tx: Tx, change: Change) -> bool:
    """One event, unless somebody moved the thing meanwhile: then the next round sees it afresh. Whether it was made."""
    assert change.event is not None
    cls: Any = Host if change.kind == "host" else Vm
    row = tx.get(cls, change.id, populate_existing=True)
    if row is None or row.state != change.was:
        return False
    try:
        with tx.begin_nested():
            move(tx, row, change.event, **change.sets)
    except Refused as meanwhile:
        log.info("change overtaken", kind=change.kind, id=str(change.id), change=change.event, why=meanwhile.message)
        return False
    return True


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
