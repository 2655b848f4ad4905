"""The collection of how busy hosts were."""

from __future__ import annotations

import sqlalchemy as sa

from backend.hosts.models import Host, HostSample
from backend.search.query import Field, Kind
from backend.search.tables import ID, below, name_of

_cluster = sa.select(Host.cluster_id).where(Host.id == HostSample.host_id).scalar_subquery()

HOSTSAMPLES = Kind("hostsamples", "hostsample", HostSample.id, {
    "id": Field(HostSample.id, ID), "host": Field(name_of(Host, HostSample.host_id)), "host_id": Field(HostSample.host_id, ID),
    "at": Field(HostSample.at, "time"), "cpu_percent": Field(HostSample.cpu_percent, "number"),
    "memory_percent": Field(HostSample.memory_percent, "number"), "swap_percent": Field(HostSample.swap_percent, "number"),
    "network_mib_s": Field(HostSample.network_mib_s, "number", about="in and out"),
    "storage_percent": Field(HostSample.storage_percent, "number", about="of the fullest of its own storage domains"),
}, below("host", host=HostSample.host_id, cluster=_cluster), name="host", order=(("at", True),))
