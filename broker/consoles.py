"""Console sessions as rows: opened, counted, wished away, ended; who of the living must be closed, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx
from backend.devices.models import Device
from backend.directory.models import Directory, User, WebSession
from backend.directory.names import full_name
from backend.directory.rights import grants_of_many
from backend.directory.rules import Path, may
from backend.events import record
from backend.vms.models import Vm
from broker.models import ConsoleSession, Ticket
from pools.models import Lease
from pools.quiet import Watched

SILENT_AFTER = timedelta(seconds=60)  # a gateway says every few seconds that its consoles live
LOST_AFTER = timedelta(seconds=15)  # a new SPICE session of a VM waits no longer than this for one whose gateway is silent
NOT_ENROLLED = "This device is not enrolled any more: your administrator revoked it, or sets it up anew."
_LIVE = ConsoleSession.ended_at.is_(None)


def open(
    tx: Tx, ticket: Ticket, id: UUID, *, vm_name: str, user_name: str, address: str, gateway: str, now: datetime,
) -> None:
    """Write down that a console is being opened. A SPICE console ends the VM's other ones: a VM has one at a time."""
    if ticket.protocol == "spice":
        others = sa.select(ConsoleSession.ticket_id).where(
            _LIVE, ConsoleSession.vm_id == ticket.vm_id, ConsoleSession.protocol == "spice")
        want_end(tx, others, "This console was opened again somewhere else.")
    console = ConsoleSession(
        id=id, ticket_id=ticket.id, user_id=ticket.user_id, vm_id=ticket.vm_id, lease_id=ticket.lease_id,
        protocol=ticket.protocol, client=ticket.client, address=address, gateway=gateway, started_at=now, seen_at=now,
        input_at=now,
    )
    tx.add(console)
    record(tx, "console.opened", console, user=user_name, protocol=ticket.protocol.upper(), vm=vm_name, address=address)
    touch(tx, "console", id, user_id=ticket.user_id)


def others_live(tx: Tx, vm_id: UUID, *, but: UUID, now: datetime) -> bool:
    """Whether another SPICE console of this VM, opened earlier, is not over yet."""
    me = sa.select(ConsoleSession.started_at).where(ConsoleSession.id == but).scalar_subquery()
    other = sa.select(ConsoleSession.id).where(
        _LIVE, ConsoleSession.vm_id == vm_id, ConsoleSession.protocol == "spice", ConsoleSession.id != but,
        sa.tuple_(ConsoleSession.started_at, ConsoleSession.id) < sa.tuple_(me, sa.literal(but)),
        ConsoleSession.seen_at > now - LOST_AFTER,
    )
    return tx.execute(other.limit(1)).first() is not None


def elsewhere(tx: Tx, user_id: UUID, vm_id: UUID, session_id: UUID) -> list[ConsoleSession]:
    """The person's own open consoles of this VM that belong to another sign-in, which is not over: another browser or device."""
    c, s = ConsoleSession, WebSession
    return list(tx.scalars(
        sa.select(c).join(Ticket, Ticket.id == c.ticket_id).join(s, s.id == Ticket.session_id)
        .where(_LIVE, c.end_wanted.is_(None), s.ended_at.is_(None), c.user_id == user_id, c.vm_id == vm_id,
               Ticket.session_id != session_id)
        .order_by(c.started_at)
    ))


def want_end(tx: Tx, ticket_ids: sa.Select[UUID], why: str) -> None:
    """Have the live consoles of these tickets closed; the first reason given stays."""
    rows = tx.execute(
        sa.update(ConsoleSession).where(_LIVE, ConsoleSession.end_wanted.is_(None), ConsoleSession.ticket_id.in_(ticket_ids))
        .values(end_wanted=why).returning(ConsoleSession.id, ConsoleSession.user_id)
        .execution_options(synchronize_session=False)
    )
    for id, user_id in rows.all():
        touch(tx, "console", id, user_id=user_id)


def end(tx: Tx, id: UUID, *, why: str, now: datetime, to_client: int | None = None, to_vm: int | None = None) -> bool:
    """Write down that a console is over and why; False when that was known already."""
    counts = {"bytes_to_client": to_client, "bytes_to_vm": to_vm}
    row = tx.execute(
        sa.update(ConsoleSession).where(ConsoleSession.id == id, _LIVE)
        .values(ended_at=now, seen_at=now, end_reason=why, **{k: v for k, v in counts.items() if v is not None})
        .returning(ConsoleSession.user_id, ConsoleSession.vm_id, ConsoleSession.protocol)
        .execution_options(synchronize_session=False)
    ).first()
    if row is None:
        return False
    whose = tx.execute(
        sa.select(User.name, Directory.name.label("directory"), Vm.name.label("vm"), Vm.pool_id)
        .select_from(User).join(Directory, Directory.id == User.directory_id).join(Vm, Vm.id == row.vm_id)
        .where(User.id == row.user_id)
    ).one()
    console = ConsoleSession(id=id, user_id=row.user_id)  # only to say which thing the event is about
    record(tx, "console.closed", console, pool_id=whose.pool_id, user=full_name(whose.name, whose.directory),
           protocol=row.protocol.upper(), vm=whose.vm, why=why)
    touch(tx, "console", id, user_id=row.user_id, pool_id=whose.pool_id)
    return True


def watched(tx: Tx, pool_id: UUID) -> dict[UUID, Watched]:
    """For each running lease of the pool whose present desktop was ever opened: how it is watched."""
    c = ConsoleSession
    rows = tx.execute(
        sa.select(c.lease_id, sa.func.bool_or(_LIVE), sa.func.max(c.ended_at), sa.func.max(c.input_at))
        .join(Lease, sa.and_(Lease.id == c.lease_id, Lease.vm_id == c.vm_id))
        .where(Lease.pool_id == pool_id, Lease.state.in_(("active", "expiring"))).group_by(c.lease_id)
    )
    return {lease_id: Watched(open_, left_at, input_at) for lease_id, open_, left_at, input_at in rows}


def unwanted(tx: Tx, gateway: str, now: datetime) -> list[tuple[UUID, str]]:
    """Live consoles of this gateway that must be closed, each with the sentence for its person."""
    c, s, lease = ConsoleSession, WebSession, Lease
    signed_out = sa.or_(s.ended_at.is_not(None), s.expires_at <= now)  # of a device that is revoked, too
    # a lease that waits for another desktop has none: then its old console is over too
    elsewhere = sa.and_(lease.id.is_not(None), lease.vm_id.is_distinct_from(c.vm_id))
    lease_over = sa.or_(lease.state.in_(("returning", "ended")), elsewhere)
    reason: Any = sa.case(
        (c.end_wanted.is_not(None), c.end_wanted),
        # why it ended, in words: an administrator's message, an expired period
        (lease_over, sa.func.coalesce(sa.func.nullif(lease.why, ""), "Your lease on this desktop is over.")),
        (sa.and_(Device.id.is_not(None), Device.state != "enrolled"), NOT_ENROLLED),
        (signed_out, "You signed out, or your sign-in has expired."),
        else_="Your account was disabled.",
    )
    rows = tx.execute(
        sa.select(c.id, reason).join(Ticket, Ticket.id == c.ticket_id).join(s, s.id == Ticket.session_id)
        .join(User, User.id == c.user_id).outerjoin(lease, lease.id == c.lease_id)
        .outerjoin(Device, Device.id == s.device_id)
        .where(_LIVE, c.gateway == gateway, sa.or_(c.end_wanted.is_not(None), lease_over, signed_out, User.enabled.is_(False)))
    )
    return [(id, why) for id, why in rows]


def seen(tx: Tx, counts: Mapping[UUID, tuple[int, int]], touched: Collection[UUID], now: datetime) -> set[UUID]:
    """Write down that these consoles live, how many bytes went to client and VM, and which a person has used; answers
    those whose row had been ended by somebody else, which must be closed."""
    if not counts:
        return set()
    downs, ups = [down for down, _ in counts.values()], [up for _, up in counts.values()]
    arrays = ((list(counts), sa.Uuid), (downs, sa.BigInteger), (ups, sa.BigInteger))
    unnested = sa.func.unnest(*(sa.cast(values, pg.ARRAY(kind)) for values, kind in arrays))
    now_counts = unnested.table_valued("id", "down", "up").render_derived(name="counts")  # PostgreSQL gives no such names itself
    alive = tx.scalars(
        sa.update(ConsoleSession).where(ConsoleSession.id == now_counts.c.id, _LIVE)
        .values(seen_at=now, input_at=sa.case((ConsoleSession.id.in_(touched), now), else_=ConsoleSession.input_at),
                bytes_to_client=now_counts.c.down, bytes_to_vm=now_counts.c.up).returning(ConsoleSession.id)
        .execution_options(synchronize_session=False)
    )
    return set(counts) - set(alive)


def left_behind(tx: Tx, gateway: str, living: Collection[UUID]) -> list[UUID]:
    """Consoles of this gateway that its process no longer has: an earlier process was killed."""
    rows = tx.scalars(sa.select(ConsoleSession.id).where(_LIVE, ConsoleSession.gateway == gateway))
    return [id for id in rows if id not in living]


def end_unentitled(tx: Tx, now: datetime) -> None:
    """Have consoles of people's own VMs closed when the VM is theirs no more. (With a lease, the lease says.)"""
    c = ConsoleSession
    rows = tx.execute(
        sa.select(c.ticket_id, c.user_id, Vm.id, Vm.cluster_id, Cluster.data_center_id)
        .join(Vm, Vm.id == c.vm_id).join(Cluster, Cluster.id == Vm.cluster_id)
        .where(_LIVE, c.lease_id.is_(None), c.end_wanted.is_(None))
    ).all()
    grants = grants_of_many(tx, (row.user_id for row in rows), "user")
    gone = []
    for ticket_id, user_id, vm_id, cluster_id, center_id in rows:
        path: Path = (("vm", vm_id), ("cluster", cluster_id), ("datacenter", center_id), ("system", None))
        if not may(grants[user_id], "desktop.use", path, now):
            gone.append(ticket_id)
    if gone:
        want_end(tx, sa.select(Ticket.id).where(Ticket.id.in_(gone)), "This desktop is not yours any more.")


def silent(tx: Tx, now: datetime) -> list[ConsoleSession]:
    """Consoles that no gateway has vouched for lately."""
    return list(tx.scalars(sa.select(ConsoleSession).where(_LIVE, ConsoleSession.seen_at < now - SILENT_AFTER)))
