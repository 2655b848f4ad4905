"""Pages of the administration: a dashboard, and for every kind of thing one table, one detail page and its buttons."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Flask, abort, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as Answer

from backend.directory.rights import path_of, see_permit
from backend.directory.rules import may, places
from backend.errors import Denied, Impossible, Invalid, NotFound, Refused
from backend.hosts.models import Host
from backend.tasks.models import Step
from backend.tasks.submit import submit
from portal import admin_actions, admin_devices, admin_people, admin_vms, datacenter_map, forms, views
from portal.api_commands import cancel_task, sealed
from portal.auth import actor, person
from portal.collections import found, listed
from portal.errors import is_partial
from portal.parts import parts
from portal.routes import convert
from portal.thing import Button, Part, Thing
from portal.things import BY_KIND, SIDE_BAR, THINGS
from portal.transaction import rollback, tx
from portal.views import grants, may_see, now, say

pages = Blueprint("admin", __name__, url_prefix="/admin")
PAGE = 50
PART = 8
"""Rows of a table's page, and of a part of a detail page."""


# ---- who may what -----------------------------------------------------------------------------------------
def may_do(permit: str, kind: str, row: dict[str, Any]) -> bool:
    """Whether the person has the permit on this row, from what the row says of where it hangs when that is enough."""
    held = places(grants(), permit, now())
    if ("system", None) in held or not held:
        return bool(held)
    here = [(kind, row.get("id"))] + [(k, row.get(f"{k}_id")) for k in ("pool", "cluster", "vm", "host", "datacenter")]
    if any((k, UUID(str(id))) in held for k, id in here if id and k not in ("task", "event")):
        return True
    try:
        return may(grants(), permit, path_of(tx(), kind, UUID(str(row["id"]))), now())
    except (NotFound, ValueError):
        return False


def permit_of(command: str) -> str:
    """The permit that a command needs; those of the pages' own actions are named there."""
    if command in admin_actions.PERMITS:
        return admin_actions.PERMITS[command]
    return parts().commands[command].permission  # type: ignore[attr-defined, no-any-return]


def buttons(thing: Thing, row: dict[str, Any]) -> list[Button]:
    """What this person may do to this row now."""
    return [b for b in thing.buttons if b.when(row) and may_do(permit_of(b.command), thing.kind, row)]


def creations(thing: Thing) -> list[tuple[str, str]]:
    """What this person may make of this kind."""
    return [(command, word) for command, word in thing.creates if views.may_anywhere(permit_of(command))]


def side_bar() -> list[tuple[str, list[Thing]]]:
    """The things whose pages are this person's to see."""
    groups = [(title, [THINGS[name] for name in names if may_see(THINGS[name].kind)]) for title, names in SIDE_BAR]
    return [(title, things) for title, things in groups if things]


def thing_of(plural: str) -> Thing:
    """The description of this collection; a page that does not exist otherwise."""
    if plural not in THINGS:
        abort(404)
    return THINGS[plural]


def _require_area(thing: Thing | None = None) -> None:
    """The administration is for who has a role besides a plain user's."""
    if not any(g.role != "user" and g.holds(now()) for g in grants()):
        person()
        raise Denied("denied", "The administration is for administrators. Your own desktops are on your own page.")
    if thing is not None and not may_see(thing.kind):
        raise Denied("denied", f"You may not see this: it needs the right “{see_permit(thing.kind)}”. Ask your administrator.")


# ---- pages ------------------------------------------------------------------------------------------------
@pages.get("/")
def dashboard() -> str:
    """How it is: counts, what runs, what happened, how the hosts are."""
    _require_area()
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
    _require_area(thing)
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
    _require_area(thing)
    row = found(tx(), plural, id)
    shown = [(part, THINGS[part.plural], _part(part, row)) for part in thing.parts if may_see(THINGS[part.plural].kind)]
    context = {"thing": thing, "row": row, "parts": shown, "steps": _steps(id) if thing.kind == "task" else None}
    context |= admin_people.beside(thing, row) | admin_devices.beside(thing.kind) | admin_vms.beside(thing, row)
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


# ---- forms and commands -----------------------------------------------------------------------------------------
@pages.get("/do/<command>")
def ask(command: str) -> str:
    """The command's form; what it is about comes in the address."""
    form, about = _form(command)
    return _form_page(form, about)


@pages.get("/question")
def question() -> str:
    """The question before a button's command, as a dialog for the page to show."""
    thing, id = thing_of(request.args.get("plural", "")), request.args.get("id", "")
    _require_area(thing)
    row = found(tx(), thing.plural, id)
    wanted = (request.args.get("command"), request.args.get("word"))
    button = next((b for b in buttons(thing, row) if (b.command, b.word) == wanted), None)
    if button is None:
        raise Impossible("not_now", "This is not possible any more: it changed meanwhile. Look again.")
    return render_template(
        "admin/question.html", thing=thing, row=row, button=button, back=request.args.get("back", ""), own=admin_actions.ACTIONS
    )


@pages.post("/do/<command>")
def do(command: str) -> Answer:
    """Want it: from its form, or by a button."""
    _require_area()
    if command == "task.cancel":
        return _cancel()
    if command in admin_actions.ACTIONS:
        return _try(lambda: admin_actions.ACTIONS[command](request.form["id"]))
    if "asked" not in request.form:
        return _try(lambda: _submit(command, {k: v for k, v in request.form.items() if k not in ("csrf_token", "back")}))
    form, about = _form(command)
    values = forms.read(form, request.form)
    if not forms.wrong(form):
        try:
            return _try(lambda: _submit(command, values | about), keep=True)
        except Refused as no:
            rollback()
            form.blame(no.message, no.facts.get("fields"))
    return make_response(_form_page(form, about), 422)


def _form(command: str) -> tuple[forms.Form, dict[str, str]]:
    _require_area()
    if command not in parts().commands or command not in admin_actions.FORMS:
        abort(404)
    noun = command.partition(".")[0]
    id = request.values.get(f"{noun}_id")
    about = {f"{noun}_id": id} if id else {}
    form = forms.form_of(command, parts().commands[command], _options, but=(f"{noun}_id",))
    if command == "vm.migrate" and id:
        admin_vms.choose_host(form, id)
    if id and request.method == "GET" and command != "vm.migrate":
        row = found(tx(), BY_KIND[noun].plural, id)
        forms.fill(form, row | (row.get("next_run") or {}))
    elif request.method == "GET":
        forms.fill(form, {k: v for k, v in request.args.items() if k in form.inputs})
    return form, about


def _options(plural: str, search: str) -> tuple[tuple[str, str], ...]:
    rows = listed(tx(), plural, search=search, max=500).items
    return tuple((row["id"], f"{row['name']} {row['version']}" if "version" in row else row["name"]) for row in rows)


def _form_page(form: forms.Form, about: dict[str, str]) -> str:
    noun = form.command.partition(".")[0]
    thing = BY_KIND[noun]
    row = found(tx(), thing.plural, next(iter(about.values()))) if about else None
    words = dict(thing.creates) | {b.command: b.word for b in thing.buttons if b.form}
    cls = parts().commands[form.command]
    return render_template(
        "admin/form.html",
        thing=thing,
        form=form,
        about=about,
        row=row,
        title=words.get(form.command, form.command),
        explain=(cls.__doc__ or "").strip().partition(".")[0] + ".",
        length=forms.as_length,
        units=forms.UNITS,
    )


def _submit(command: str, values: dict[str, Any]) -> Answer:
    cls = parts().commands.get(command)
    if cls is None or command not in admin_actions.OFFERED:
        abort(404)
    task = submit(tx(), convert(sealed(_typed(cls, values)), cls), actor(), now())
    say(f"{task.title}: " + ("done." if task.state == "succeeded" else "begun."))
    made = (task.result or {}).get("id") if task.state == "succeeded" else None
    noun = command.partition(".")[0]
    if made and noun in BY_KIND and BY_KIND[noun].detail:
        return redirect(url_for("admin.detail", plural=BY_KIND[noun].plural, id=made), 303)
    if command.endswith(".remove") and noun in BY_KIND:
        return redirect(url_for("admin.table", plural=BY_KIND[noun].plural), 303)
    if task.state != "succeeded" and request.form.get("asked"):
        return redirect(url_for("admin.detail", plural="tasks", id=task.id), 303)
    return views.back(url_for("admin.dashboard"))


def _typed(cls: Any, values: dict[str, Any]) -> dict[str, Any]:
    """A button's fields are text; switches and numbers among them become what the command wants."""
    form = forms.form_of("", cls, lambda plural, search: ())
    typed = {}
    for name, value in values.items():
        made = form.inputs.get(name.partition(".")[0])
        if made is None or not isinstance(value, str):
            typed[name] = value
        elif made.kind == "switch":
            typed[name] = value in ("true", "on", "1")
        elif made.kind == "number" and value.removeprefix("-").isdecimal():
            typed[name] = int(value)
        elif made.kind == "length" and "." not in name:
            factor = dict((u, n) for u, n, _ in forms.UNITS).get(values.get(f"{name}.unit", "s"), 1)
            try:
                typed[name] = round(float(value) * factor)
            except (ValueError, OverflowError):
                raise Invalid("bad_field", f"“{value[:40]}” is no number.", fields=[name]) from None
        elif "." not in name:
            typed[name] = value
    return typed


def _cancel() -> Answer:
    cancel_task(request.form["id"])
    say("The task is asked to stop.")
    return views.back(url_for("admin.table", plural="tasks"))


def _try(work: Any, *, keep: bool = False) -> Answer:
    """Do it; a refusal becomes a sentence on the page it was asked from, or is left to the form that asked."""
    try:
        return work()  # type: ignore[no-any-return]
    except Refused as no:
        if keep:
            raise
        rollback()
        say(no.message, "danger")
        return views.back(url_for("admin.dashboard"))


def install(app: Flask) -> None:
    """Register the pages."""
    app.register_blueprint(pages)
    for more in (admin_people.pages, admin_devices.pages, datacenter_map.pages):
        app.register_blueprint(more)
        # their pages look people up and show empty forms before any command asks for a right
        app.before_request_funcs.setdefault(more.name, []).append(_require_area)

    @app.context_processor
    def administration() -> dict[str, Any]:
        return {"side_bar": side_bar, "buttons": buttons, "creations": creations, "things": THINGS, "thing_of_kind": BY_KIND.get}
