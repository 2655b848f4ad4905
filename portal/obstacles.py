"""What keeps a pool from making or starting desktops, as REST and its page tell it."""

from __future__ import annotations

from typing import Any

from backend.db import get
from pools import troubles
from pools.models import Pool
from portal.routes import plain, read_uuid
from portal.transaction import tx
from portal.views import may_see

_TEXT = {"type": "string"}
_TIME = {"type": ["string", "null"], "format": "date-time"}
OBSTACLE = {"type": ["object", "null"], "required": ["code", "sentence", "since", "retry_at", "hosts"], "properties": {
    "code": _TEXT, "sentence": _TEXT, "since": _TIME,
    "retry_at": _TIME | {"description": "when it is tried again; null while what is in the way can be seen, and its end too"},
    "hosts": {"type": "array", "items": {"type": "object", "required": ["host_id", "host", "why"], "properties": {
        "host_id": _TEXT, "host": _TEXT, "why": _TEXT}}}}}


def obstacle_of(pool_id: str) -> dict[str, Any] | None:
    """What is in the pool's way and since when, with the reason of every host for who may see hosts; None: nothing."""
    pool = get(tx(), Pool, read_uuid(pool_id, "pool"))
    found = troubles.obstacle(tx(), pool)
    if found is None:
        return None
    hosts = found.hosts if may_see("host") else ()
    return {
        "code": found.code, "sentence": pool.trouble, "since": plain(pool.trouble_since), "retry_at": plain(pool.retry_at),
        "hosts": [{"host_id": str(host.host_id), "host": host.name, "why": host.why} for host in hosts],
    }  # fmt: skip
