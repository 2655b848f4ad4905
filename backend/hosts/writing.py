"""What a round of monitoring writes, in as few statements as it takes however many hosts there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx
from backend.events import move
from backend.hosts.models import Host
from backend.hosts.rules import Change, Usage
from backend.storage.models import StorageDomain
from backend.vms.models import Vm
from hostapi.types import StorageReport

Runs = dict[UUID, tuple[datetime | None, UUID]]  # when the run began that a host spoke of, and that host, by VM


def set_columns(tx: Tx, changes: Iterable[Change], runs: Runs) -> None:
    """Columns alone, of things whose state is still the one that was known, and of the same run."""
    groups: dict[tuple[str, tuple[str, ...]], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.kind, tuple(sorted(change.sets))), []).append(change)
    for (kind, columns), some in groups.items():
        rows = [{"id": one.id, "was": one.was, **_run(runs, one.id), **one.sets} for one in some]
        if kind == "host":
            _update(tx, Host, columns, rows)
        else:
            for id, pool_id in _update(tx, Vm, columns, rows, of_the_run=True, only_news=True):
                touch(tx, "vm", id, pool_id=pool_id)


def sample(tx: Tx, found: Sequence[Usage], runs: Runs, now: datetime) -> None:
    """What VMs take, of runs that are not over; nobody is told of a change, for there is one every few seconds."""
    rows = [
        {"id": one.vm_id, **_run(runs, one.vm_id), "cpu_s": one.cpu_s, "cpu_usage": one.cpu_usage,
         "memory_given_mib": one.memory_given_mib, "cpu_at": now}
        for one in found
    ]  # fmt: skip
    _update(tx, Vm, ("cpu_s", "cpu_usage", "memory_given_mib", "cpu_at"), rows, any_state=True, of_the_run=True)


def count_silences(tx: Tx, host_ids: Sequence[UUID], now: datetime) -> None:
    """These hosts did not answer once more."""
    if host_ids:
        counted = {"silences": Host.silences + 1, "reported_at": sa.func.coalesce(Host.reported_at, now)}
        tx.execute(sa.update(Host).where(Host.id.in_(host_ids)).values(**counted).execution_options(synchronize_session=False))


def hear_local_storage(tx: Tx, said: Sequence[tuple[UUID, Sequence[StorageReport]]]) -> None:
    """What hosts report of their own folders."""
    by_host = {host_id: {report.path: report for report in reports} for host_id, reports in said if reports}
    known = StorageDomain.host_id.is_not(None), StorageDomain.state.in_(("active", "inactive"))
    for domain in tx.scalars(sa.select(StorageDomain).where(*known)) if by_host else ():
        report = by_host.get(domain.host_id, {}).get(domain.path) if domain.host_id else None
        if report is None:
            continue
        if (domain.total_mib, domain.free_mib) != (report.total_mib, report.free_mib):
            domain.total_mib, domain.free_mib = report.total_mib, report.free_mib
        if domain.state == "active" and not report.ok:
            move(tx, domain, "vanished", why=report.why)
        elif domain.state == "inactive" and report.ok:
            move(tx, domain, "came_back", why="")


def _update(
    tx: Tx,
    cls: Any,
    columns: Sequence[str],
    rows: Sequence[dict[str, Any]],
    *,
    any_state: bool = False,
    of_the_run: bool = False,
    only_news: bool = False,
) -> list[tuple[UUID, UUID | None]]:
    """One statement for all rows, which travel as one JSON text; answers ids (and pools) of those that it changed."""
    if not rows:
        return []
    table: sa.Table = cls.__table__
    types = {name: table.c[name].type.compile(tx.get_bind().dialect) for name in columns}
    given = ", ".join(f'"{name}" {type}' for name, type in types.items())
    sets = ", ".join(f'"{name}" = x."{name}"' for name in columns)
    where = [f"{table.name}.id = x.id"]
    if not any_state:
        where.append(f"{table.name}.state = x.was")
    if of_the_run:
        where.append(f"{table.name}.started_at IS NOT DISTINCT FROM x.run AND {table.name}.host_id = x.host")
    if only_news:
        where.append("(" + " OR ".join(f'{table.name}."{name}" IS DISTINCT FROM x."{name}"' for name in columns) + ")")
    answer = f"{table.name}.id, " + (f"{table.name}.pool_id" if "pool_id" in table.c else "NULL")
    statement = (
        f"UPDATE {table.name} SET {sets} FROM jsonb_to_recordset(CAST(:rows AS jsonb)) "  # names are the models', not people's
        f"AS x(id uuid, was text, run timestamptz, host uuid, {given}) WHERE {' AND '.join(where)}"
    )
    if only_news:
        return [tuple(row) for row in tx.execute(sa.text(f"{statement} RETURNING {answer}"), {"rows": _json(rows)})]
    tx.execute(sa.text(statement), {"rows": _json(rows)})
    return []


def _run(runs: Runs, id: UUID) -> dict[str, Any]:
    began, host_id = runs.get(id, (None, None))
    return {"run": began, "host": host_id}


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return json.dumps(rows, default=str)
