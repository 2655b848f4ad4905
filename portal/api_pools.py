"""REST: a pool with what keeps it from starting desktops, and who is entitled to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from flask import Response

from backend.db import get
from backend.directory.commands import TakeRole
from backend.directory.models import Permission
from backend.directory.rights import require
from backend.errors import NotFound
from backend.search.query import MOST, page
from backend.tasks.submit import submit
from portal.api_commands import TASK
from portal.api_directories import Grant, grant
from portal.auth import actor
from portal.collections import COLLECTIONS, found, viewer
from portal.obstacles import OBSTACLE, obstacle_of
from portal.routes import Moment, Routes, accepted, answer, body, now, read_uuid
from portal.schemas import item_schema, list_schema
from portal.transaction import tx

routes = Routes("pools")


class Entitlement(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A pool for a user or group known here, or for one of a domain by SID; always, or for a period,
    or in the hours of a calendar. The higher priority goes first in the queue."""

    user_id: UUID | None = None
    group_id: UUID | None = None
    directory_id: UUID | None = None
    kind: str = "user"
    external_id: str | None = None
    valid_from: Moment | None = None
    valid_until: Moment | None = None
    calendar_id: UUID | None = None
    priority: int = 0


@routes.route("GET", "/pools/<id>", "A pool, with what keeps it from making or starting desktops, and why.", answers={200: {
    "allOf": [item_schema(COLLECTIONS["pools"]), {"required": ["obstacle"], "properties": {"obstacle": OBSTACLE}}]}})
def pool_get(id: str) -> Response:
    """The reasons are those of now, of every host of the cluster."""
    return answer(found(tx(), "pools", id) | {"obstacle": obstacle_of(id)})


@routes.route("GET", "/pools/<id>/entitlements", "Who may take desktops of this pool.",
              answers={200: list_schema(COLLECTIONS["permissions"])})
def entitlements(id: str) -> Response:
    """People and groups with the role `user` on the pool itself."""
    pool_id = read_uuid(id, "pool")
    require(tx(), actor(), "pool.see", "pool", pool_id, now())
    # who runs a pool sees its entitlements, though not everybody's permissions everywhere
    kind = replace(COLLECTIONS["permissions"], visible=lambda _: _of(pool_id))
    got = page(tx(), kind, viewer(tx()), max=MOST)
    return answer({"items": got.items, "next": got.next, "total": got.total})


def _of(pool_id: UUID) -> Any:
    return sa.and_(Permission.object_type == "pool", Permission.object_id == pool_id, Permission.role == "user")


@routes.route("POST", "/pools/<id>/entitlements", "Entitle a user or a group to this pool.", body=Entitlement,
              answers={202: TASK})
def entitle(id: str) -> Response:
    """The role `user` on the pool; given again, the new period takes the place of the old one."""
    given = body(Entitlement)
    wanted = Grant(role="user", object_type="pool", object_id=read_uuid(id, "pool"), **msgspec.structs.asdict(given))
    return accepted(grant(wanted))


@routes.route("DELETE", "/pools/<id>/entitlements/<permission_id>", "Take an entitlement back.", answers={202: TASK})
def disentitle(id: str, permission_id: str) -> Response:
    """What they hold already stays theirs until it is returned or taken back."""
    given = get(tx(), Permission, read_uuid(permission_id, "permission"))
    if (given.object_type, given.object_id, given.role) != ("pool", read_uuid(id, "pool"), "user"):
        raise NotFound("not_found", f"There is no such entitlement of this pool: {permission_id}.", kind="permission")
    return accepted(submit(tx(), TakeRole(given.id), actor(), now()))
