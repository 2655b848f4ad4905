"""Which kinds of power agents hosts have programs for, and what each can be told: asked little by little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql as pg

from backend.changes import touch
from backend.db import Tx
from backend.ha.models import PowerKindRow
from backend.hosts.models import Host
from hostapi.client import HostUnreachable
from hostapi.types import PowerKind

log = structlog.get_logger("power")
AT_ONCE = 10  # kinds that are described in one round: each takes a program's start


class KindDoor(Protocol):
    """How a host is asked for its kinds."""

    def power_kinds(self) -> tuple[str, ...]: ...
    def power_kind(self, name: str) -> PowerKind: ...


Address = tuple[UUID, str, int]


@dataclass
class _Told:
    host_id: UUID
    names: tuple[str, ...]
    kinds: list[PowerKind]


class PowerKinds:
    """Each round asks one host that is up: another one each time, until all kinds that it knows are described."""

    name = "power kinds"

    def __init__(self, doors: Callable[[UUID, str, int], KindDoor], every_s: float = 15.0) -> None:
        self.doors, self.every_s = doors, every_s
        self._last = ""

    def read(self, tx: Tx) -> tuple[Address, frozenset[str]] | None:
        up = sa.select(Host.id, Host.address, Host.port, Host.name).where(Host.state == "up").order_by(Host.name)
        rows = tx.execute(up).all()
        row: Any = next((one for one in rows if one.name > self._last), rows[0] if rows else None)
        if row is None:
            return None
        self._last = row.name
        described = frozenset(tx.scalars(sa.select(PowerKindRow.name).where(PowerKindRow.options.is_not(None))))
        return (row.id, row.address, row.port), described

    def gather(self, wanted: tuple[Address, frozenset[str]] | None) -> _Told | None:
        if wanted is None:
            return None
        address, described = wanted
        door = self.doors(*address)
        try:
            names = door.power_kinds()
            new = [name for name in names if name not in described]
            return _Told(address[0], names, [door.power_kind(name) for name in sorted(new, key=_usual)[:AT_ONCE]])
        except HostUnreachable as silent:
            log.debug("a host does not tell its kinds of power agents", host=str(address[0]), why=str(silent))
            return None

    def apply(self, tx: Tx, told: _Told | None) -> None:
        if told is None:
            return
        for name in told.names:
            tx.execute(pg.insert(PowerKindRow).values(name=name, host_id=told.host_id, about="").on_conflict_do_nothing())
        for kind in told.kinds:
            options = {o.name: {"type": o.type, "default": o.default, "about": o.about} for o in kind.options}
            row = tx.get_one(PowerKindRow, kind.name)
            row.about, row.options = kind.about, options
            touch(tx, "powerkind", kind.name)


def _usual(name: str) -> tuple[bool, str]:
    """The kinds that most people have come first."""
    return name not in ("ipmilan", "ipmilanplus", "redfish", "idrac", "ilo4", "ilo5", "imm", "apc", "apc_snmp", "virsh"), name
