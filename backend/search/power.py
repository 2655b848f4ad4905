"""The collections of hosts' power agents and of their kinds."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from backend.ha.models import PowerAgent, PowerKindRow
from backend.hosts.models import Host
from backend.search.query import Field, Kind
from backend.search.tables import ID, anywhere, below, name_of


def _options(column: Any) -> Any:
    """{"plug": "3"} as plug=3, in a list."""
    pairs = sa.func.jsonb_each_text(column).table_valued("key", "value")
    return sa.func.array(sa.select(pairs.c.key + "=" + pairs.c.value).order_by(pairs.c.key).scalar_subquery())


_cluster = sa.select(Host.cluster_id).where(Host.id == PowerAgent.host_id).scalar_subquery()

POWERAGENTS = Kind("poweragents", "poweragent", PowerAgent.id, {
    "id": Field(PowerAgent.id, ID), "host": Field(name_of(Host, PowerAgent.host_id)), "host_id": Field(PowerAgent.host_id, ID),
    "type": Field(PowerAgent.type), "address": Field(PowerAgent.address), "port": Field(PowerAgent.port, "number"),
    "username": Field(PowerAgent.username), "has_password": Field(PowerAgent.password_sealed != "", "yesno"),
    "options": Field(_options(PowerAgent.options), "texts"), "encrypt": Field(PowerAgent.encrypt, "yesno"),
    "order": Field(PowerAgent.order, "number", about="agents of one number belong together; the next are tried when they fail"),
}, below("host", host=PowerAgent.host_id, cluster=_cluster), name="address", order=(("order", False), ("address", False)))

POWERKINDS = Kind("powerkinds", "powerkind", PowerKindRow.name, {
    "id": Field(PowerKindRow.name), "name": Field(PowerKindRow.name), "about": Field(PowerKindRow.about),
    "options": Field(PowerKindRow.options, "json", about="what it can be told: null until a host has said so"),
}, anywhere("host"))
