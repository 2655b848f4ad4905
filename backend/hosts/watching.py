"""Watch (a loop): hosts are listened to all the time, so that what happens to a VM is known at once, not in the next round."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import sqlalchemy as sa
import structlog

from backend.clock import Clock
from backend.db import Tx
from backend.hosts.loop import Address, Monitor, ReportDoor
from backend.hosts.models import Host
from backend.hosts.rules import Heard, KnownHost
from backend.shares import SHARDS, shard_of
from hostapi.client import HostUnreachable

log = structlog.get_logger("watch")
SPEAKING = ("up", "preparing_for_maintenance", "non_operational", "error")  # VMs may run there
LISTEN_S = 10  # how long a host may keep its answer back
MOST = 500  # listened to by one manager, a thread each; the others are heard in their rounds
LOOK_EVERY = timedelta(seconds=3)  # for hosts that came or went
AGAIN_S = 2.0


class WatchDoor(ReportDoor, Protocol):
    """How a host is listened to."""

    def listen(self, seen: int, wait_s: int) -> int: ...


class _Ear:
    """Listens to one host in a thread of its own, until it is told to stop."""

    def __init__(self, door: WatchDoor, heard: Callable[[], None]) -> None:
        self._door, self._heard = door, heard
        self.stopping, self.hears = threading.Event(), False
        threading.Thread(target=self._listen, name="watch", daemon=True).start()

    def _listen(self) -> None:
        seen: int | None = None
        while not self.stopping.is_set():
            try:
                now = self._door.listen(-1 if seen is None else seen, LISTEN_S)
            except HostUnreachable as silent:
                log.debug("host cannot be listened to", why=str(silent))
                self.stopping.wait(AGAIN_S)
                continue
            self.hears = True
            if seen is not None and now != seen:
                self._heard()
            seen = now


class Watch:
    """One more round of monitoring for each host that says that something happened, as soon as it says so."""

    name = "watch"

    def __init__(self, doors: Callable[[UUID, str, int], WatchDoor], clock: Clock, every_s: float = 0.2) -> None:
        self.doors, self.clock, self.every_s = doors, clock, every_s
        self.shards = frozenset(range(SHARDS))
        self._monitor = Monitor(doors, clock)
        self._ears: dict[Address, _Ear] = {}
        self._told: set[UUID] = set()
        self._looked_at: datetime | None = None
        self._lock = threading.Lock()

    def read(self, tx: Tx) -> list[tuple[Address, KnownHost]]:
        now = self.clock.now()
        if self._looked_at is None or now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            self._listen_to(tx)
        with self._lock:
            told, self._told = self._told, set()
        return self._monitor.read(tx, only=told) if told else []

    def gather(self, wanted: list[tuple[Address, KnownHost]]) -> list[tuple[KnownHost, Heard]]:
        return self._monitor.gather(wanted)

    def apply(self, tx: Tx, found: list[tuple[KnownHost, Heard]]) -> None:
        """As in a round; a host that does not answer is the round's business."""
        if said := [(known, report) for known, report in found if report is not None]:
            self._monitor.apply(tx, said)

    @property
    def listening(self) -> int:
        """How many hosts have answered and are being listened to."""
        return sum(ear.hears for ear in self._ears.values())

    def stop(self) -> None:
        """Listen to nobody any more."""
        for ear in self._ears.values():
            ear.stopping.set()
        self._ears.clear()

    def _listen_to(self, tx: Tx) -> None:
        up = sa.select(Host.id, Host.address, Host.port).where(Host.state.in_(SPEAKING))
        ours: list[Address] = [(id, address, port) for id, address, port in tx.execute(up) if shard_of(id) in self.shards]
        wanted = set(sorted(ours)[:MOST])
        for gone in self._ears.keys() - wanted:
            self._ears.pop(gone).stopping.set()
        for new in wanted - self._ears.keys():
            self._ears[new] = _Ear(self.doors(*new), self._hear(new[0]))

    def _hear(self, host_id: UUID) -> Callable[[], None]:
        def heard() -> None:
            with self._lock:
                self._told.add(host_id)

        return heard
