"""How much of a host is used, as expressions over its row."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from backend.hosts.models import Host
from backend.storage.models import StorageDomain


def memory_percent() -> Any:
    """How much of a host's memory is used."""
    return 100.0 * (Host.memory_mib - Host.memory_free_mib) / sa.func.nullif(Host.memory_mib, 0)


def swap_percent() -> Any:
    """How much of its swap is used; nothing when it has none."""
    return 100.0 * (Host.swap_mib - Host.swap_free_mib) / sa.func.nullif(Host.swap_mib, 0)


def storage_percent() -> Any:
    """How full the fullest storage domain is that is a folder of it; nothing when there is none."""
    used = 100.0 * (StorageDomain.total_mib - StorageDomain.free_mib) / sa.func.nullif(StorageDomain.total_mib, 0)
    return sa.select(sa.func.max(used)).where(StorageDomain.host_id == Host.id).correlate(Host).scalar_subquery()
