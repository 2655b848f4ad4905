"""The way to each host over the wire."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from uuid import UUID

from hostapi.client import HostClient
from hostapi.tls import host_name

Doors = Callable[[UUID, str, int], HostClient]


def host_doors(context: ssl.SSLContext, *, by_id: bool = True) -> Doors:
    """The door of each host, kept so that its connections are used again; a new address makes a new one."""
    doors: dict[tuple[UUID, str, int], HostClient] = {}
    lock = threading.Lock()

    def door(host_id: UUID, address: str, port: int) -> HostClient:
        with lock:
            name = host_name(host_id) if by_id else None
            return doors.setdefault((host_id, address, port), HostClient(address, port, context, name=name))

    return door
