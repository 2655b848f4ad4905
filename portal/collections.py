"""Every collection of the console and of REST by its plural name: the backend's, the pools' and the broker's."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from backend.calendars.models import Calendar
from backend.clusters.models import Cluster
from backend.db import Tx
from backend.devices.models import Device
from backend.directory.models import Group
from backend.directory.rights import grants_of, see_permit, visible
from backend.errors import NotFound
from backend.hosts.models import Host
from backend.search.hosts import HOSTSAMPLES
from backend.search.placement import PLACEMENT
from backend.search.power import POWERAGENTS, POWERKINDS
from backend.search.query import Field, Kind, Page, Viewer, one, page
from backend.search.tables import BACKEND, anywhere, below, name_of, or_own, person_name
from backend.storage.models import StorageDomain
from backend.vms.models import Template, Vm
from broker.access import EFFECTS
from broker.models import AccessRule, ConsoleSession
from pools.booking_rules import OPEN
from pools.machine import BOOKING, LEASE, MEMBER, POOL, ROLLOUT
from pools.models import LIVE, Assignment, Booking, Decision, Lease, Pool, PoolMember, Rollout, SparePlan
from pools.models import OPEN as UNDER_WAY
from pools.policy import SPARE_KINDS
from pools.quiet import ACTIONS
from pools.rollout_rules import MODES
from portal.auth import person
from portal.parts import parts

ID = "id"


def _cluster_of_pool(pool_id: Any) -> Any:
    pool = sa.orm.aliased(Pool)
    return sa.select(pool.cluster_id).where(pool.id == pool_id).scalar_subquery()


def _pool_of_vm(vm_id: Any) -> Any:
    vm = sa.orm.aliased(Vm)
    return sa.select(vm.pool_id).where(vm.id == vm_id).scalar_subquery()


def _template_of_member(column: Any) -> Any:
    on = sa.select(column).join(Vm, Vm.template_id == Template.id).where(Vm.id == PoolMember.vm_id)
    return on.correlate(PoolMember).scalar_subquery()


def _host_of_member(column: Any) -> Any:
    on = sa.select(column).join(Vm, Vm.host_id == Host.id).where(Vm.id == PoolMember.vm_id)
    return on.correlate(PoolMember).scalar_subquery()


def _count(of: Any, where: Any) -> Any:
    return sa.select(sa.func.count()).select_from(of).where(where).correlate(Pool).scalar_subquery()


def _version(template_id: Any) -> Any:
    template = sa.orm.aliased(Template)
    return sa.select(template.version).where(template.id == template_id).scalar_subquery()


def _rollout() -> Any:
    under_way = sa.select(Rollout.state).where(Rollout.pool_id == Pool.id, sa.text(f"rollout.{UNDER_WAY}"))
    return sa.func.coalesce(under_way.correlate(Pool).scalar_subquery(), "")


POOLS = Kind("pools", "pool", Pool.id, {
    "id": Field(Pool.id, ID), "name": Field(Pool.name), "description": Field(Pool.description),
    "state": Field(Pool.state, "choice", tuple(POOL.states)), "type": Field(Pool.type, "choice", ("floating", "dedicated")),
    "stateless": Field(Pool.stateless, "yesno"),
    "cluster": Field(name_of(Cluster, Pool.cluster_id)), "cluster_id": Field(Pool.cluster_id, ID),
    "template": Field(name_of(Template, Pool.template_id)), "template_id": Field(Pool.template_id, ID),
    "version": Field(_version(Pool.template_id), "number", about="of its template"),
    "domain": Field(name_of(StorageDomain, Pool.domain_id)), "domain_id": Field(Pool.domain_id, ID),
    "size": Field(Pool.size, "number"), "spares": Field(Pool.spares, "number"),
    "spare_kind": Field(Pool.spare_kind, "choice", SPARE_KINDS),
    "members": Field(_count(PoolMember, PoolMember.pool_id == Pool.id), "number"),
    "leased": Field(_count(Lease, sa.and_(Lease.pool_id == Pool.id, Lease.state.not_in(("queued", "ended")))), "number"),
    "waiting": Field(_count(Lease, sa.and_(Lease.pool_id == Pool.id, Lease.state == "queued")), "number"),
    "broken": Field(_count(PoolMember, sa.and_(PoolMember.pool_id == Pool.id, PoolMember.state == "broken")), "number"),
    "lease_s": Field(Pool.lease_s, "number"), "extend_s": Field(Pool.extend_s, "number"),
    "extensions": Field(Pool.extensions, "number"), "warn_s": Field(Pool.warn_s, "number"),
    "grace_s": Field(Pool.grace_s, "number"), "shutdown_s": Field(Pool.shutdown_s, "number"),
    "per_user": Field(Pool.per_user, "number"), "call_s": Field(Pool.call_s, "number"),
    "spares_learn": Field(Pool.spares_learn, "yesno"),
    "extend_while_waiting": Field(Pool.extend_while_waiting, "yesno"), "pause_why": Field(Pool.pause_why),
    "idle_s": Field(Pool.idle_s, "number"), "idle_action": Field(Pool.idle_action, "choice", ACTIONS),
    "disconnect_s": Field(Pool.disconnect_s, "number"), "disconnect_action": Field(Pool.disconnect_action, "choice", ACTIONS),
    "trouble": Field(Pool.trouble, about="why desktops cannot be made or started just now"),
    "trouble_code": Field(Pool.trouble_code, about="its cause in a word: memory, hosts, storage_full …"),
    "trouble_since": Field(Pool.trouble_since, "time"),
    "book_desktops": Field(Pool.book_desktops, "number"), "book_ahead_s": Field(Pool.book_ahead_s, "number"),
    "book_longest_s": Field(Pool.book_longest_s, "number"), "book_open": Field(Pool.book_open, "number"),
    "book_hold_s": Field(Pool.book_hold_s, "number"),
    "bookings": Field(_count(Booking, sa.and_(Booking.pool_id == Pool.id, Booking.state.in_(OPEN))), "number"),
    "rollout": Field(_rollout(), "choice", ("running", "halted", "rolling_back", ""), about="the state of the one under way"),
    "rights": Field(Pool.rights, "texts"), "protocols": Field(Pool.protocols, "texts"),
}, below("pool", pool=Pool.id, cluster=Pool.cluster_id))

MEMBERS = Kind("members", "member", PoolMember.id, {
    "id": Field(PoolMember.id, ID), "vm": Field(name_of(Vm, PoolMember.vm_id)), "vm_id": Field(PoolMember.vm_id, ID),
    "pool": Field(name_of(Pool, PoolMember.pool_id)), "pool_id": Field(PoolMember.pool_id, ID),
    "state": Field(PoolMember.state, "choice", tuple(MEMBER.states)), "why": Field(PoolMember.why),
    "pool_type": Field(sa.select(Pool.type).where(Pool.id == PoolMember.pool_id).correlate(PoolMember).scalar_subquery()),
    "vm_state": Field(sa.select(Vm.state).where(Vm.id == PoolMember.vm_id).correlate(PoolMember).scalar_subquery()),
    "user": Field(person_name(
        sa.select(Lease.user_id).where(Lease.vm_id == PoolMember.vm_id, sa.text(LIVE)).correlate(PoolMember).scalar_subquery())),
    "owner": Field(person_name(sa.select(Assignment.user_id).where(Assignment.vm_id == PoolMember.vm_id)
                               .correlate(PoolMember).scalar_subquery()), about="whom a dedicated pool's desktop belongs to"),
    "template": Field(_template_of_member(Template.name)), "template_id": Field(_template_of_member(Template.id), ID),
    "version": Field(_template_of_member(Template.version), "number"),
    "host": Field(_host_of_member(Host.name)), "host_id": Field(_host_of_member(Host.id), ID),
    "task_id": Field(PoolMember.task_id, ID),
}, below("member", pool=PoolMember.pool_id, cluster=_cluster_of_pool(PoolMember.pool_id)), name="vm", order=(("vm", False),))

ROLLOUTS = Kind("rollouts", "rollout", Rollout.id, {
    "id": Field(Rollout.id, ID), "state": Field(Rollout.state, "choice", tuple(ROLLOUT.states)), "why": Field(Rollout.why),
    "pool": Field(name_of(Pool, Rollout.pool_id)), "pool_id": Field(Rollout.pool_id, ID),
    "template": Field(name_of(Template, Rollout.to_template_id)), "template_id": Field(Rollout.to_template_id, ID),
    "version": Field(_version(Rollout.to_template_id), "number"),
    "from_template": Field(name_of(Template, Rollout.from_template_id)), "from_template_id": Field(Rollout.from_template_id, ID),
    "from_version": Field(_version(Rollout.from_template_id), "number"),
    "mode": Field(Rollout.mode, "choice", MODES), "batch": Field(Rollout.batch, "number"),
    "progress": Field(sa.case((Rollout.total > 0, 100 * Rollout.done // Rollout.total), else_=0), "number", about="in per cent"),
    "done": Field(Rollout.done, "number"), "total": Field(Rollout.total, "number"), "proved": Field(Rollout.proved, "yesno"),
    "failures": Field(Rollout.failures, "number"), "max_failures": Field(Rollout.max_failures, "number"),
    "message": Field(Rollout.message), "who": Field(Rollout.who),
    "created_at": Field(Rollout.created_at, "time"), "ended_at": Field(Rollout.ended_at, "time"),
}, below("rollout", pool=Rollout.pool_id, cluster=_cluster_of_pool(Rollout.pool_id)),
    name="template", order=(("created_at", True),))

SPAREPLANS = Kind("spareplans", "spareplan", SparePlan.id, {
    "id": Field(SparePlan.id, ID), "pool": Field(name_of(Pool, SparePlan.pool_id)), "pool_id": Field(SparePlan.pool_id, ID),
    "calendar": Field(name_of(Calendar, SparePlan.calendar_id)), "calendar_id": Field(SparePlan.calendar_id, ID),
    "spares": Field(SparePlan.spares, "number"),
}, below("pool", pool=SparePlan.pool_id, cluster=_cluster_of_pool(SparePlan.pool_id)), name="calendar",
    order=(("calendar", False),))

LEASES = Kind("leases", "lease", Lease.id, {
    "id": Field(Lease.id, ID), "state": Field(Lease.state, "choice", tuple(LEASE.states)), "why": Field(Lease.why),
    "pool": Field(name_of(Pool, Lease.pool_id)), "pool_id": Field(Lease.pool_id, ID),
    "user": Field(person_name(Lease.user_id)), "user_id": Field(Lease.user_id, ID),
    "vm": Field(name_of(Vm, Lease.vm_id)), "vm_id": Field(Lease.vm_id, ID),
    "asked_at": Field(Lease.asked_at, "time"), "starts_at": Field(Lease.starts_at, "time"),
    "ends_at": Field(Lease.ends_at, "time"), "grace_until": Field(Lease.grace_until, "time"),
    "ended_at": Field(Lease.ended_at, "time"), "end_reason": Field(Lease.end_reason),
    "priority": Field(Lease.priority, "number"), "called_until": Field(Lease.called_until, "time"),
    "extensions_used": Field(Lease.extensions_used, "number"), "booking_id": Field(Lease.booking_id, ID),
}, or_own("lease", Lease.user_id, pool=Lease.pool_id, cluster=_cluster_of_pool(Lease.pool_id)),
    name="user", order=(("asked_at", True),))

BOOKINGS = Kind("bookings", "booking", Booking.id, {
    "id": Field(Booking.id, ID), "name": Field(Booking.title), "state": Field(Booking.state, "choice", tuple(BOOKING.states)),
    "why": Field(Booking.why), "pool": Field(name_of(Pool, Booking.pool_id)), "pool_id": Field(Booking.pool_id, ID),
    "user": Field(person_name(Booking.user_id)), "user_id": Field(Booking.user_id, ID),
    "group": Field(name_of(Group, Booking.group_id)), "group_id": Field(Booking.group_id, ID),
    "desktops": Field(Booking.desktops, "number"), "kept": Field(Booking.kept, "number"),
    "starts_at": Field(Booking.starts_at, "time"), "ends_at": Field(Booking.ends_at, "time"),
    "made_at": Field(Booking.made_at, "time"), "series_id": Field(Booking.series_id, ID),
}, or_own("booking", Booking.user_id, pool=Booking.pool_id, cluster=_cluster_of_pool(Booking.pool_id)),
    name="user", order=(("starts_at", True),))

CONSOLES = Kind("consoles", "console", ConsoleSession.id, {
    "id": Field(ConsoleSession.id, ID), "user": Field(person_name(ConsoleSession.user_id)),
    "user_id": Field(ConsoleSession.user_id, ID), "vm": Field(name_of(Vm, ConsoleSession.vm_id)),
    "vm_id": Field(ConsoleSession.vm_id, ID), "lease_id": Field(ConsoleSession.lease_id, ID),
    "protocol": Field(ConsoleSession.protocol), "client": Field(ConsoleSession.client),
    "address": Field(ConsoleSession.address), "gateway": Field(ConsoleSession.gateway),
    "started_at": Field(ConsoleSession.started_at, "time"), "input_at": Field(ConsoleSession.input_at, "time"),
    "seen_at": Field(ConsoleSession.seen_at, "time"),
    "ended_at": Field(ConsoleSession.ended_at, "time"), "end_reason": Field(ConsoleSession.end_reason),
    "bytes_to_client": Field(ConsoleSession.bytes_to_client, "number"),
    "bytes_to_vm": Field(ConsoleSession.bytes_to_vm, "number"),
}, or_own("console", ConsoleSession.user_id, vm=ConsoleSession.vm_id, pool=_pool_of_vm(ConsoleSession.vm_id)),
    name="vm", order=(("started_at", True),))


def _who_sees_decisions(viewer: Viewer) -> Any:
    return visible(viewer.grants, see_permit("decision"), viewer.now,
                   columns={"pool": Decision.pool_id, "cluster": _cluster_of_pool(Decision.pool_id)})


DECISIONS = Kind("decisions", "decision", Decision.id, {
    "id": Field(Decision.id, ID), "at": Field(Decision.at, "time"), "outcome": Field(Decision.outcome),
    "sentence": Field(Decision.sentence), "user": Field(person_name(Decision.user_id)),
    "user_id": Field(Decision.user_id, ID), "pool": Field(name_of(Pool, Decision.pool_id)),
    "pool_id": Field(Decision.pool_id, ID), "lease_id": Field(Decision.lease_id, ID), "vm_id": Field(Decision.vm_id, ID),
    # the candidates name other people's desktops: for who runs the pool, not for the person who asked
    "candidates": Field(Decision.candidates, "private"),
}, lambda viewer: sa.or_(_who_sees_decisions(viewer), Decision.user_id == viewer.user_id),
    name="sentence", order=(("at", True),), trusted=_who_sees_decisions)

ACCESSRULES = Kind("accessrules", "accessrule", AccessRule.id, {
    "id": Field(AccessRule.id, ID), "position": Field(AccessRule.position, "number"), "name": Field(AccessRule.name),
    "effect": Field(AccessRule.effect, "choice", EFFECTS), "pool": Field(name_of(Pool, AccessRule.pool_id)),
    "pool_id": Field(AccessRule.pool_id, ID), "network": Field(AccessRule.network),
    "device": Field(name_of(Device, AccessRule.device_id)), "device_id": Field(AccessRule.device_id, ID),
    "enrolled": Field(AccessRule.enrolled, "yesno", about="at enrolled devices alone"),
    "protocols": Field(AccessRule.protocols, "texts"), "sentence": Field(AccessRule.sentence),
}, anywhere("accessrule"), order=(("position", False),))

COLLECTIONS: dict[str, Kind] = {
    kind.plural: kind
    for kind in (*BACKEND, *PLACEMENT, HOSTSAMPLES, POWERAGENTS, POWERKINDS, POOLS, MEMBERS, ROLLOUTS, SPAREPLANS, LEASES,
                 BOOKINGS, CONSOLES, DECISIONS, ACCESSRULES)
}
BY_KIND: dict[str, Kind] = {kind.kind: kind for kind in COLLECTIONS.values()}


def viewer(tx: Tx) -> Viewer:
    """Who looks in this request."""
    who = person()
    return Viewer(who.user_id, grants_of(tx, who.user_id, who.roles), parts().clock.now())


def collection(name: str) -> Kind:
    """The collection of this plural name; `NotFound` when there is none."""
    if name not in COLLECTIONS:
        raise NotFound("not_found", f"There is no collection named {name[:40]}.", kind="collection")
    return COLLECTIONS[name]


def listed(tx: Tx, name: str, *, search: str = "", max: int = 100, after: str | None = None, where: Any = None) -> Page:
    """A page of the collection as the person of this request may see it; pages of the console use it too."""
    return page(tx, collection(name), viewer(tx), search=search, max=max, after=after, where=where)


def found(tx: Tx, name: str, id: str) -> dict[str, Any]:
    """One row of the collection as JSON, if the person may see it."""
    return one(tx, collection(name), viewer(tx), id)
