"""For how many more desktops of a pool there is room, and what is in the way of the next one: looked at, not tried.

The scheduler says where they would go. Starts that are under way and have no host yet are placed before them, and so are
people of other pools of the cluster who wait for room and asked before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from uuid import UUID

import sqlalchemy as sa

from backend import facts as places
from backend.db import Tx, get
from backend.scheduling.facts import VmFacts
from backend.scheduling.place import fill, look
from backend.storage.models import StorageDomain
from backend.tasks.models import Task
from backend.vms.commands.power import StartVm
from backend.vms.commands.suspend import ResumeVm
from backend.vms.models import Template, Vm
from pools.models import Lease, Pool
from pools.trouble_rules import ROOM, Obstacle, no_host, no_storage, of_any

LAST = 2**63  # the place of who asks now, and of spares: after everybody who waits
MOST = 64  # starts of single VMs, and people who wait elsewhere, that are thought of
_NAME = "of the pool"  # stands for a desktop in the scheduler's sentences


@dataclass(frozen=True)
class Room:
    """How many of the desktops that are wanted find room, and what is in the way of the others."""

    starts: int
    obstacle: Obstacle | None = None


def room(tx: Tx, pool: Pool, queue_places: Sequence[int] = (LAST,)) -> Room:
    """For how many of these there is room now; each stands at its place in the order of asking."""
    domain = get(tx, StorageDomain, pool.domain_id)
    bad = no_storage(domain.name, domain.state, domain.why, domain.total_mib, domain.free_mib)
    if bad is not None:
        return Room(0, bad)
    mine, before, claims = _desktop(tx, pool), _under_way(tx, pool), _waiting_elsewhere(tx, pool)
    rules = places.policy(tx, pool.cluster_id)
    hosts = places.of_hosts(tx, pool.cluster_id, wanted=mine if not before and not claims else None)
    for vm, count in before:
        _, hosts = fill(vm, hosts, rules, count)
    asked = sorted([*claims, *((at, None) for at in queue_places)], key=lambda one: one[0])
    found = 0
    for other, several in groupby(vm for _, vm in asked):
        placed, hosts = fill(other or mine, hosts, rules, len(list(several)))
        found += placed if other is None else 0
    if found == len(queue_places):
        return Room(found)
    against = [one._replace(why=of_any(one.why, _NAME)) for one in look(mine, hosts, rules)]
    return Room(found, no_host(mine, hosts, [one for one in against if one.score is None], rules))


def in_the_way(tx: Tx, vm: Vm) -> Obstacle | None:
    """What keeps this very VM from being started now; None: nothing that can be seen."""
    wanted, rules, hosts, candidates = places.looked_at(tx, vm)
    if any(one.score is not None for one in candidates):
        return None
    return no_host(wanted, hosts, [one._replace(why=of_any(one.why, vm.name)) for one in candidates], rules)


def lacking(tx: Tx, cluster_id: UUID) -> int:
    """How many pools of the cluster want desktops for which no host has room: what a start in vain would say."""
    short = sa.and_(Pool.trouble_code.in_((*ROOM, "hosts")), Pool.retry_at.is_(None))
    wants = sa.or_(Pool.spares > 0, sa.exists().where(Lease.pool_id == Pool.id, Lease.state == "queued"))
    rows = sa.select(sa.func.count()).select_from(Pool).where(Pool.cluster_id == cluster_id, Pool.state == "up", short, wants)
    return tx.scalar(rows) or 0


def _desktop(tx: Tx, pool: Pool) -> VmFacts:
    return places.of_template(tx, get(tx, Template, pool.template_id), pool.cluster_id, pool.domain_id, _NAME)


def _under_way(tx: Tx, pool: Pool) -> list[tuple[VmFacts, int]]:
    """VMs of the cluster that are about to be started and have been promised nothing yet: so many of each kind."""
    starting = sa.and_(Task.command.in_((StartVm.name, ResumeVm.name)), Task.state.in_(("queued", "running")))
    here = sa.and_(Vm.cluster_id == pool.cluster_id, Vm.state.in_(("down", "suspended")))
    of_pools = tx.execute(
        sa.select(Vm.pool_id, Vm.memory_mib, Vm.vcpus, sa.func.count()).join(Task, sa.and_(Task.object_id == Vm.id, starting))
        .where(here, Vm.pool_id.is_not(None)).group_by(Vm.pool_id, Vm.memory_mib, Vm.vcpus)
    ).all()  # fmt: skip
    alone = tx.scalars(
        sa.select(Vm).join(Task, sa.and_(Task.object_id == Vm.id, starting)).where(here, Vm.pool_id.is_(None))
        .order_by(Task.id).limit(MOST)
    ).all()  # fmt: skip
    known = {id: _desktop(tx, get(tx, Pool, id)) for id in {row.pool_id for row in of_pools}}
    found = [(replace(known[id], memory_mib=mib, vcpus=vcpus), count) for id, mib, vcpus, count in of_pools]
    return [*found, *((places.of_vm(tx, vm), 1) for vm in alone)]


def _waiting_elsewhere(tx: Tx, pool: Pool) -> list[tuple[int, VmFacts | None]]:
    """People of other pools of the cluster who wait for room there, by when they asked, with what each of them wants."""
    rows = tx.execute(
        sa.select(Lease.queue_place, Lease.pool_id).join(Pool, Pool.id == Lease.pool_id)
        .where(Lease.state == "queued", Pool.id != pool.id, Pool.cluster_id == pool.cluster_id, Pool.state == "up",
               Pool.trouble_code.in_(ROOM), Pool.retry_at.is_(None))
        .order_by(Lease.queue_place).limit(MOST)
    ).all()  # fmt: skip
    known = {pool_id: _desktop(tx, get(tx, Pool, pool_id)) for pool_id in {row.pool_id for row in rows}}
    return [(row.queue_place, known[row.pool_id]) for row in rows]
