"""REST and pages: where a VM would go and why not elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Response

from backend.db import get
from backend.placement.explain import Outlook, outlook
from backend.vms.models import Vm
from portal.collections import found
from portal.routes import Routes, answer, plain, read_uuid
from portal.transaction import tx

routes = Routes("vms")

_HOST = {"type": "object", "required": ["host", "score"], "properties": {
    "host_id": {"type": "string"}, "host": {"type": "string"}, "score": {"type": ["number", "null"]},
    "parts": {"type": "object", "additionalProperties": {"type": "number"}},
    "reasons": {"type": "array", "items": {"type": "string"}}, "runs_here": {"type": "boolean"}}}
_LAST = {"type": ["object", "null"], "properties": {
    "at": {"type": "string", "format": "date-time"}, "policy": {"type": "string"}, "host": {"type": ["string", "null"]},
    "sentence": {"type": "string"}, "hosts": {"type": "array", "items": {"type": "object"}}, "possible": {"type": "integer"},
    "impossible": {"type": "integer"}}}
PLACEMENT = {"type": "object", "required": ["policy", "sentence", "hosts", "possible", "last"], "properties": {
    "policy": {"type": "string"}, "sentence": {"type": "string"}, "possible": {"type": "integer"},
    "hosts": {"type": "array", "items": _HOST}, "last": _LAST}}


def looked(vm_id: str) -> Outlook:
    """The outlook of a VM that who asks may see with its hosts."""
    found(tx(), "vms", vm_id)
    return outlook(tx(), get(tx(), Vm, read_uuid(vm_id, "vm")))


@routes.route("GET", "/vms/<id>/placement", "Where a VM would go now, why not elsewhere, and why it is where it is.",
              answers={200: PLACEMENT})
def vm_placement(id: str) -> Response:
    """Every host of its cluster, the best first, and the decision of its last start."""
    told: dict[str, Any] = asdict(looked(id))
    if told["last"]:
        told["last"]["at"] = plain(told["last"]["at"])
    return answer(told)
