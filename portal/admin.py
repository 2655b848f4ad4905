"""Pages of the administration: a dashboard, and for every kind of thing one table, one detail page and its buttons."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Flask, make_response, render_template, request
from werkzeug.wrappers import Response as Answer

from backend.errors import Invalid
from backend.hosts.models import Host
from backend.tasks.models import Step
from portal import admin_commands, admin_devices, admin_hosts, admin_many, admin_people, admin_vms, datacenter_map
from portal.admin_rights import buttons, creations, require_area, side_bar, thing_of
from portal.collections import found, listed
from portal.errors import is_partial
from portal.thing import Part
from portal.things import BY_KIND, THINGS
from portal.transaction import tx
from portal.views import may_see

pages = Blueprint("admin", __name__, url_prefix="/admin")
PAGE = 50
PART = 8
"""Rows of a table's page, and of a part of a detail page."""


# ---- pages ------------------------------------------------------------------------------------------------
@pages.get("/")
def dashboard() -> str:
    """How it is: counts, what runs, what happened, how the hosts are."""
    require_area()
    template = "admin/overview.html" if is_partial() else "admin/dashboard.html"
    return render_template(template, **_overview())


def _overview() -> dict[str, Any]:
    def some(plural: str, search: str, most: int) -> Any:
        return listed(tx(), plural, search=search, max=most) if may_see(THINGS[plural].kind) else None

    def count(plural: str, search: str = "") -> int | None:
        got = some(plural, search, 1)
        return None if got is None else got.total

    tiles = [
        (
            "leases",
            "Desktops in use",
            count("leases", "state != ended and state != queued"),
            "Waiting",
            count("leases", "state = queued"),
            "state = queued",
        ),
        ("pools", "Pools", count("pools"), "Set aside", count("members", "state = broken"), "broken > 0"),
        ("vms", "Running VMs", count("vms", "state = up"), "Unknown", count("vms", "state = unknown"), "state = unknown"),
        (
            "hosts",
            "Hosts up",
            count("hosts", "state = up"),
            "Not answering",
            count("hosts", "state = connecting or state = non_responsive"),
            "state != up",
        ),
        ("consoles", "Open consoles", count("consoles", "not ended_at > 2000-01-01"), "", None, ""),
        ("tasks", "Running tasks", count("tasks", "state = running or state = queued"), "Failed lately", None, ""),
    ]
    return {
        "tiles": [(THINGS[plural], *rest) for plural, *rest in tiles if rest[1] is not None],
        "tasks": some("tasks", "state = running or state = queued", 6),
        "recent": some("tasks", "sortby created_at desc", 5),
        "events": some("events", "severity != info", 8),
        "latest": some("events", "", 8),
        "hosts": some("hosts", "", 12),
        "pools": some("pools", "", 8),
    }


@pages.get("/<plural>")
def table(plural: str) -> Answer | str:
    """The rows that match the search; asked by the page itself, the rows alone."""
    thing = thing_of(plural)
    require_area(thing)
    search, after = request.args.get("search", ""), request.args.get("after") or None
    error, page, status = "", None, 200
    try:
        page = listed(tx(), plural, search=search, max=PAGE, after=after)
    except Invalid as no:
        error, status = no.message, 422
    context = {"thing": thing, "page": page, "search": search, "error": error, "after": after}
    if request.args.get("rows"):
        return make_response(render_template("admin/rows.html", columns=thing.columns, **context), status)
    return make_response(render_template("admin/table.html", columns=thing.columns, **context), 200 if not error else status)


@pages.get("/<plural>/<id>")
def detail(plural: str, id: str) -> str:
    """One thing: its facts, what hangs on it, what may be done to it."""
    thing = thing_of(plural)
    require_area(thing)
    row = found(tx(), plural, id)
    shown = [(part, THINGS[part.plural], _part(part, row)) for part in thing.parts if may_see(THINGS[part.plural].kind)]
    context = {"thing": thing, "row": row, "parts": shown, "steps": _steps(id) if thing.kind == "task" else None}
    context |= admin_people.beside(thing, row) | admin_devices.beside(thing.kind)
    context |= admin_vms.beside(thing, row) | admin_hosts.beside(thing, row)
    return render_template("admin/thing.html" if is_partial() else "admin/detail.html", **context)


def _part(part: Part, row: dict[str, Any]) -> Any:
    return listed(tx(), part.plural, search=part.search.format(**row), max=PART)


def _steps(id: str) -> list[Any]:
    columns = (
        Step.name,
        Step.state,
        Step.verb,
        Host.name.label("host"),
        Step.progress,
        Step.message,
        Step.error,
        Step.asked_at,
        Step.ended_at,
        Step.undoes,
    )
    return list(
        tx().execute(
            sa.select(*columns).outerjoin(Host, Host.id == Step.host_id).where(Step.task_id == int(id)).order_by(Step.ordinal)
        )
    )


pages.add_url_rule("/do/<command>", "ask", admin_commands.ask)
pages.add_url_rule("/do/<command>", "do", admin_commands.do, methods=["POST"])
pages.add_url_rule("/question", "question", admin_commands.question)


def install(app: Flask) -> None:
    """Register the pages."""
    app.register_blueprint(pages)
    for more in (admin_people.pages, admin_devices.pages, admin_many.pages, datacenter_map.pages):
        app.register_blueprint(more)
        # their pages look people up and show empty forms before any command asks for a right
        app.before_request_funcs.setdefault(more.name, []).append(require_area)

    @app.context_processor
    def administration() -> dict[str, Any]:
        return {"side_bar": side_bar, "buttons": buttons, "creations": creations, "things": THINGS, "thing_of_kind": BY_KIND.get}
