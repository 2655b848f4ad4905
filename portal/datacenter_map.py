"""REST and page: the map of the data centers: what runs where, and how full it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, render_template, request

from backend.clusters.models import Cluster, DataCenter
from backend.errors import Denied, Invalid
from backend.hosts.models import Host
from backend.vms.machine import NOT_RUNNING
from backend.vms.models import Vm
from portal.collections import COLLECTIONS, viewer
from portal.errors import is_partial
from portal.routes import Routes, answer
from portal.transaction import tx
from portal.views import may_see

routes = Routes("map")
pages = Blueprint("map", __name__, url_prefix="/admin")

NAMED = 600  # up to so many VMs each is shown by itself; beyond, they are counted by state
TILES = 120  # up to so many hosts of a cluster each is a tile; beyond, a small square

STATES = {"type": "object", "additionalProperties": {"type": "integer"}}
USE = {"cpus": {"type": "integer"}, "cpu_usage": {"type": ["number", "null"]}, "memory_mib": {"type": "integer"},
       "memory_free_mib": {"type": "integer"}, "memory_promised_mib": {"type": "integer"}, "vms": STATES}
NAMES = {"id": {"type": "string"}, "name": {"type": "string"}}
VM = {"type": "object", "properties": {**NAMES, "state": {"type": "string"}}}
HOST = {"type": "object", "properties": {**NAMES, "state": {"type": "string"}, **USE,
        "running": {"type": ["array", "null"], "items": VM, "description": f"null beyond {NAMED} VMs"}}}
CLUSTER = {"type": "object", "properties": {**NAMES, **USE, "hosts": {"type": "array", "items": HOST}}}
DATACENTER = {"type": "object", "properties": {**NAMES, **USE, "clusters": {"type": "array", "items": CLUSTER}}}
MAP = {"type": "object", "properties": {"datacenters": {"type": "array", "items": DATACENTER}}}


def draw() -> list[dict[str, Any]]:
    """Data centers with their clusters, hosts and VMs, as far as who asks may see them. What an empty host takes is there
    too; a cluster without a host that they see is left out."""
    seen = viewer(tx())
    hosts = tx().execute(
        sa.select(Host.id, Host.name, Host.state, Host.cluster_id, Host.cpus, Host.load1, Host.memory_mib, Host.memory_free_mib)
        .where(COLLECTIONS["hosts"].visible(seen)).order_by(Host.name)
    ).all()
    mine = sa.and_(
        Vm.host_id.in_(sa.select(Host.id).where(COLLECTIONS["hosts"].visible(seen))), Vm.state.not_in(NOT_RUNNING)
    )
    counts, promised = defaultdict[UUID, dict[str, int]](dict), defaultdict[UUID, int](int)
    for host_id, state, number, mib in tx().execute(
        sa.select(Vm.host_id, Vm.state, sa.func.count(), sa.func.sum(Vm.memory_mib)).where(mine).group_by(Vm.host_id, Vm.state)
    ):
        counts[host_id][state] = number
        promised[host_id] += int(mib)
    running = defaultdict[UUID, list[dict[str, Any]]](list)
    named = sum(sum(states.values()) for states in counts.values()) <= NAMED
    if named:
        shown = sa.select(Vm.id, Vm.name, Vm.state, Vm.host_id).where(mine, COLLECTIONS["vms"].visible(seen)).order_by(Vm.name)
        for vm in tx().execute(shown):
            running[vm.host_id].append({"id": vm.id, "name": vm.name, "state": vm.state})
    by_cluster = defaultdict[UUID, list[dict[str, Any]]](list)
    for host in hosts:
        by_cluster[host.cluster_id].append({
            "id": host.id, "name": host.name, "state": host.state, "cpus": host.cpus,
            "cpu_usage": round(100 * host.load1 / host.cpus, 1) if host.cpus else None,
            "memory_mib": host.memory_mib, "memory_free_mib": host.memory_free_mib,
            "memory_promised_mib": promised[host.id], "vms": counts[host.id],
            "running": running[host.id] if named else None,
        })  # fmt: skip
    return _stand(by_cluster)


def _stand(hosts: dict[UUID, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = tx().execute(
        sa.select(Cluster.id, Cluster.name, DataCenter.id.label("center_id"), DataCenter.name.label("center"))
        .join(DataCenter, DataCenter.id == Cluster.data_center_id)
        .where(Cluster.id.in_(list(hosts))).order_by(DataCenter.name, Cluster.name)
    ).all()
    centers: dict[UUID, dict[str, Any]] = {}
    for row in rows:
        center = centers.setdefault(row.center_id, {"id": row.center_id, "name": row.center, "clusters": []})
        center["clusters"].append({"id": row.id, "name": row.name, **_sum(hosts[row.id]), "hosts": hosts[row.id]})
    return [{**center, **_sum(center["clusters"])} for center in centers.values()]


def _sum(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What the parts take together; the use of processors is weighed by their number."""
    parts = list(parts)
    total = {key: sum(part[key] for part in parts) for key in ("cpus", "memory_mib", "memory_free_mib", "memory_promised_mib")}
    vms = defaultdict[str, int](int)
    for part in parts:
        for state, number in part["vms"].items():
            vms[state] += number
    busy = sum((part["cpu_usage"] or 0) * part["cpus"] for part in parts)
    return {**total, "cpu_usage": round(busy / total["cpus"], 1) if total["cpus"] else None, "vms": dict(vms)}


@routes.route("GET", "/map", "What runs where, and how full it is: data centers, clusters, hosts and their VMs.",
              answers={200: MAP})
def read_map() -> Response:
    """The map as JSON."""
    return answer({"datacenters": draw()})


@pages.get("/map")
def page() -> str:
    """The map as a page, one data center or cluster of it when it is asked for."""
    if not may_see("host"):
        raise Denied("denied", "You may not see hosts: it needs the right “host.see”. Ask your administrator.")
    centers, only = draw(), request.args.get("cluster", "")
    every = [(cluster["id"], cluster["name"]) for center in centers for cluster in center["clusters"]]
    if only:
        if only not in {str(id) for id, _ in every}:
            raise Invalid("no_cluster", "There is no such cluster with hosts that you may see.", fields=["cluster"])
        centers = [{**center, "clusters": [c for c in center["clusters"] if str(c["id"]) == only]} for center in centers]
        centers = [center for center in centers if center["clusters"]]
    template = "admin/map_body.html" if is_partial() else "admin/map.html"
    return render_template(template, centers=centers, clusters=every, only=only, tiles=TILES)
