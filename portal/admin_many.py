"""One button for many rows: what can be done to all that are chosen in a table, the question before it, and doing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, render_template, request, url_for
from werkzeug.wrappers import Response as Answer

from backend.errors import Impossible, Invalid, NotFound, Refused
from portal import admin_actions, views
from portal.admin_commands import want
from portal.admin_rights import buttons, require_area, thing_of
from portal.collections import found
from portal.thing import Button, Row, Thing
from portal.transaction import tx
from portal.views import say

pages = Blueprint("many", __name__, url_prefix="/admin/many")
MOST = 200
NAMED = 6
"""Rows at once, and how many of them are named in a sentence."""


@dataclass(frozen=True)
class Choice:
    """A button, and the chosen rows that it can be pressed for."""

    button: Button
    rows: list[Row]


@pages.get("/<plural>")
def bar(plural: str) -> str:
    """The buttons for the rows whose ids come in the address, each with the number of rows that bear it now."""
    thing, rows = _asked(plural)
    return render_template("admin/many.html", thing=thing, rows=rows, choices=_choices(thing, rows))


@pages.get("/<plural>/question")
def question(plural: str) -> str:
    """The question before a button is pressed for many rows, with their names."""
    thing, rows = _asked(plural)
    choice = _choice(thing, rows)
    return render_template("admin/many_question.html", thing=thing, choice=choice, most=NAMED, back=request.args.get("back", ""))


@pages.post("/<plural>")
def do(plural: str) -> Answer:
    """Press it for each; what is refused for one row stops no other, and is told by name."""
    thing, rows = _asked(plural)
    choice = _choice(thing, rows)
    kept = ("csrf_token", "back", "id", "command", "word")
    filled = {k: v for k, v in request.form.items() if k not in kept}
    done: list[str] = []
    refused: dict[str, list[str]] = {}
    for row in choice.rows:
        try:
            with tx().begin_nested():
                _press(choice.button, thing, row, filled)
            done.append(_name(thing, row))
        except Refused as no:
            refused.setdefault(no.message, []).append(_name(thing, row))
    if done:
        say(f"{choice.button.word}: begun for {_names(done)}.")
    for message, names in refused.items():
        say(f"{choice.button.word}: not for {_names(names)}. {message}", "danger")
    return views.back(url_for("admin.table", plural=thing.plural))


def _press(button: Button, thing: Thing, row: Row, filled: dict[str, str]) -> None:
    if button.command in admin_actions.ACTIONS:
        admin_actions.ACTIONS[button.command](row["id"])
    else:
        want(button.command, button.given(thing.kind, row) | filled)


def _asked(plural: str) -> tuple[Thing, list[dict[str, Any]]]:
    thing = thing_of(plural)
    require_area(thing)
    ids = list(dict.fromkeys(request.values.getlist("id")))
    if len(ids) > MOST:
        raise Invalid("too_many", f"At most {MOST} rows can be chosen at once. Choose fewer.")
    rows = []
    for id in ids:
        try:
            rows.append(found(tx(), thing.plural, id))
        except NotFound:  # it went away since it was chosen: the others are still meant
            continue
    return thing, rows


def _choices(thing: Thing, rows: list[dict[str, Any]]) -> list[Choice]:
    borne = [(row, buttons(thing, row)) for row in rows]
    every = [Choice(b, [row for row, some in borne if b in some]) for b in thing.buttons if not b.form]
    return [choice for choice in every if choice.rows]


def _choice(thing: Thing, rows: list[dict[str, Any]]) -> Choice:
    wanted = (request.values.get("command"), request.values.get("word"))
    for choice in _choices(thing, rows):
        if (choice.button.command, choice.button.word) == wanted:
            return choice
    raise Impossible("not_now", "This is not possible for any of them any more: they changed meanwhile. Look again.")


def _name(thing: Thing, row: Row) -> str:
    return str(row[thing.name] or row["id"])


def _names(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
