"""Forms, questions and buttons of the administration: each wants a command of one thing."""

from __future__ import annotations

from typing import Any

from flask import abort, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as Answer

from backend.errors import Impossible, Invalid, Refused
from backend.tasks.models import Task
from backend.tasks.submit import submit
from portal import admin_actions, admin_vms, forms, views
from portal.admin_rights import buttons, require_area, thing_of
from portal.api_commands import cancel_task, sealed
from portal.auth import actor
from portal.collections import found, listed
from portal.parts import parts
from portal.routes import convert
from portal.things import BY_KIND
from portal.transaction import rollback, tx
from portal.views import now, say


def ask(command: str) -> str:
    """The command's form; what it is about comes in the address."""
    form, about = _form(command)
    return _form_page(form, about)


def question() -> str:
    """The question before a button's command, as a dialog for the page to show."""
    thing, id = thing_of(request.args.get("plural", "")), request.args.get("id", "")
    require_area(thing)
    row = found(tx(), thing.plural, id)
    wanted = (request.args.get("command"), request.args.get("word"))
    button = next((b for b in buttons(thing, row) if (b.command, b.word) == wanted), None)
    if button is None:
        raise Impossible("not_now", "This is not possible any more: it changed meanwhile. Look again.")
    return render_template(
        "admin/question.html", thing=thing, row=row, button=button, back=request.args.get("back", ""), own=admin_actions.ACTIONS
    )


def do(command: str) -> Answer:
    """Want it: from its form, or by a button."""
    require_area()
    if command == "task.cancel":
        return _cancel()
    if command in admin_actions.ACTIONS:
        return _try(lambda: _act(command, request.form["id"]))
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
    require_area()
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
    if request.method == "GET":
        forms.fill(form, {k: v for k, v in request.args.items() if k in form.inputs})
    return form, about


def _options(plural: str, search: str) -> tuple[tuple[str, str], ...]:
    rows = listed(tx(), plural, search=search, max=500).items
    return tuple((row["id"], f"{row['name']} {row['version']}" if "version" in row else row["name"]) for row in rows)


def _form_page(form: forms.Form, about: dict[str, str]) -> str:
    noun = form.command.partition(".")[0]
    thing = BY_KIND[noun]
    row = found(tx(), thing.plural, next(iter(about.values()))) if about else None
    words = dict(thing.creates) | {b.command: b.word for b in reversed(thing.buttons) if b.form}
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


def want(command: str, values: dict[str, Any]) -> Task:
    """Submit this command with the text that a button or a form gave; what the pages do not offer is not there."""
    cls = parts().commands.get(command)
    if cls is None or command not in admin_actions.OFFERED:
        abort(404)
    return submit(tx(), convert(sealed(_typed(cls, values)), cls), actor(), now())


def _submit(command: str, values: dict[str, Any]) -> Answer:
    task = want(command, values)
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


def _act(command: str, id: str) -> Answer:
    say(admin_actions.ACTIONS[command](id))
    return views.back(url_for("admin.dashboard"))


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
