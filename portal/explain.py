"""REST and pages: why a lease is as it is, for administrators in full, for its holder without other people's names."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Response

from broker.explain import Explanation, explain
from broker.timeline import Moment
from portal.auth import person
from portal.collections import viewer
from portal.routes import Routes, answer, plain, read_uuid
from portal.transaction import tx

routes = Routes("leases")

MOMENT = {"type": "object", "required": ["at", "kind", "what", "sentence"], "properties": {
    "at": {"type": "string", "format": "date-time"}, "kind": {"enum": ["decision", "event"]}, "what": {"type": "string"},
    "sentence": {"type": "string"}, "severity": {"type": "string"}, "who": {"type": "string"}, "candidates": {"type": "object"}}}
EXPLANATION = {"type": "object", "required": ["id", "state", "sentence", "moments"], "properties": {
    "id": {"type": "string"}, "state": {"type": "string"}, "pool": {"type": "string"}, "sentence": {"type": "string"},
    "end_reason": {"type": ["string", "null"]}, "asked_at": {"type": "string"}, "ended_at": {"type": ["string", "null"]},
    "moments": {"type": "array", "items": MOMENT}}}


def explanation(lease_id: UUID) -> Explanation:
    """The lease's story as who asks may read it."""
    seen = viewer(tx())
    return explain(tx(), lease_id, user_id=person().user_id, grants=seen.grants, now=seen.now)


@routes.route("GET", "/leases/<id>/explain", "Why a lease is as it is: what was decided, what happened, why it ended.",
              answers={200: EXPLANATION})
def lease_explain(id: str) -> Response:
    """The whole story, in order; the holder reads it without other people's names."""
    got = explanation(read_uuid(id, "lease"))
    lease = got.lease
    return answer({
        "id": str(lease.id), "state": lease.state, "pool": got.pool, "sentence": got.sentence, "end_reason": lease.end_reason,
        "asked_at": plain(lease.asked_at), "ended_at": plain(lease.ended_at),
        "moments": [_moment(moment) for moment in got.moments],
    })  # fmt: skip


def _moment(moment: Moment) -> dict[str, Any]:
    told = {"at": plain(moment.at), "kind": moment.kind, "what": moment.what, "sentence": moment.sentence}
    told |= {"severity": moment.severity, "who": moment.who}
    return told | ({"candidates": dict(moment.candidates)} if moment.candidates.get("members") else {})

