"""Who may see and do what in the administration, and which buttons, forms and pages follow from it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import abort

from backend.directory.rights import path_of, see_permit
from backend.directory.rules import may, places
from backend.errors import Denied, NotFound
from portal import admin_actions, views
from portal.auth import person
from portal.parts import parts
from portal.thing import Button, Thing
from portal.things import SIDE_BAR, THINGS
from portal.transaction import tx
from portal.views import grants, may_see, now


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


def require_area(thing: Thing | None = None) -> None:
    """The administration is for who has a role besides a plain user's."""
    if not any(g.role != "user" and g.holds(now()) for g in grants()):
        person()
        raise Denied("denied", "The administration is for administrators. Your own desktops are on your own page.")
    if thing is not None and not may_see(thing.kind):
        raise Denied("denied", f"You may not see this: it needs the right “{see_permit(thing.kind)}”. Ask your administrator.")
