"""REST: lists with a search, and one thing with what belongs to it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Response, request

from backend.directory.rules import ROLES
from backend.errors import Invalid
from backend.hosts.models import Host
from backend.search.completions import completions
from backend.search.query import json_value
from backend.tasks.models import Step
from pools.models import PoolMember
from portal.collections import COLLECTIONS, collection, found, listed
from portal.routes import Routes, answer, read_uuid
from portal.schemas import item_schema, list_schema
from portal.transaction import tx

routes = Routes("lists")

QUERY = {
    "search": {"type": "string", "description": "in the console's language: `status = up and cpu_usage > 80 sortby name`"},
    "max": {"type": "integer", "minimum": 1, "maximum": 500, "default": 100},
    "after": {"type": "string", "description": "the `next` of the page before"},
}


def page_answer(name: str, where: Any = None) -> Response:
    """A page of the collection for the query string of this request."""
    wanted = request.args.get("max", "100")
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 6):
        raise Invalid("bad_max", "max must be a whole number between 1 and 500.", fields=["max"])
    got = listed(tx(), name, search=request.args.get("search", ""), max=int(wanted), after=request.args.get("after"), where=where)
    return answer({"items": got.items, "next": got.next, "total": got.total})


def _declare(name: str) -> None:
    kind = COLLECTIONS[name]
    noun = kind.kind

    def many() -> Response:
        return page_answer(name)

    def single(id: str) -> Response:
        return answer(found(tx(), name, id))

    routes.route("GET", f"/{name}", f"The {name} you may see.", endpoint=f"{name}_list", tag=name, query=QUERY,
                 answers={200: list_schema(kind)})(many)
    if name not in ("tasks", "pools"):  # they have more to tell
        routes.route("GET", f"/{name}/<id>", f"One {noun}.", endpoint=f"{noun}_get", tag=name,
                     answers={200: item_schema(kind)})(single)


for _name in COLLECTIONS:
    _declare(_name)


@routes.route("GET", "/pools/<id>/members", "The desktops of a pool, with their state.", tag="pools", query=QUERY,
              answers={200: list_schema(COLLECTIONS["members"])})
def pool_members(id: str) -> Response:
    """Members of one pool."""
    found(tx(), "pools", id)
    return page_answer("members", PoolMember.pool_id == read_uuid(id, "pool"))


STEP = {"type": "object", "properties": {
    "uid": {"type": "string"}, "name": {"type": "string"}, "state": {"type": "string"}, "verb": {"type": ["string", "null"]},
    "host": {"type": ["string", "null"]}, "progress": {"type": "integer"}, "message": {"type": "string"},
    "error": {"type": ["object", "null"]}, "attempts": {"type": "integer"},
    "asked_at": {"type": "string"}, "ended_at": {"type": ["string", "null"]},
}}


@routes.route("GET", "/tasks/<id>", "A task with its steps.", tag="tasks", answers={200: {
    "allOf": [item_schema(COLLECTIONS["tasks"]), {"properties": {"steps": {"type": "array", "items": STEP}}}]}})
def task_get(id: str) -> Response:
    """A task, how far it is, and its steps in order."""
    task = found(tx(), "tasks", id)
    columns = (Step.uid, Step.name, Step.state, Step.verb, Host.name.label("host"), Step.progress, Step.message, Step.error,
               Step.attempts, Step.asked_at, Step.ended_at)
    steps = tx().execute(
        sa.select(*columns).outerjoin(Host, Host.id == Step.host_id).where(Step.task_id == int(id)).order_by(Step.ordinal)
    )
    return answer(task | {"steps": [{name: json_value(value) for name, value in row._mapping.items()} for row in steps]})


@routes.route("GET", "/roles", "The roles and what each permits.", tag="roles", answers={200: {"type": "object"}})
def roles_list() -> Response:
    """Roles are part of the program: there is nothing to page or to search."""
    items = [{"name": name, "permits": sorted(permits)} for name, permits in ROLES.items()]
    return answer({"items": items, "next": None, "total": len(items)})


@routes.route("GET", "/completions/<name>", "What may come next in a search that is being typed.", tag="lists",
              query={"text": {"type": "string"}}, answers={200: {"type": "object"}})
def search_completions(name: str) -> Response:
    """Whole search texts, best first."""
    return answer({"items": completions(request.args.get("text", ""), collection(name).language())})
