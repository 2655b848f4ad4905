"""REST: every command of the registry is an address: `vm.start` is POST /vms/<id>/start, `pool.create` is POST /pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints
from uuid import UUID

from flask import Response

from backend.db import get
from backend.directory import rights
from backend.errors import Denied, Invalid
from backend.tasks.models import Task
from backend.tasks.submit import cancel, submit
from portal.auth import actor, person
from portal.collections import BY_KIND
from portal.collections import found as found_row
from portal.parts import parts
from portal.routes import Route, Routes, accepted, convert, fields_of, now, read_json, read_uuid, require_known
from portal.transaction import tx

# these have a route of their own: what they are given is a secret, or comes from a domain controller
SEALED = "_sealed"  # a secret: it comes in clear and goes into the command sealed
BY_HAND = frozenset({"host.create", "host.reinstall", "lease.extend", "directory.add", "directory.edit", "user.create",
                     "user.import", "permission.grant", "device.create", "device.renew"})
MAKES = frozenset({"create", "add", "import"})
BESIDE = frozenset({"storagedomain.import"})  # another way to make what is made by `create`

TASK = {"type": "object", "required": ["task"], "properties": {"task": {
    "type": "object", "required": ["id", "href", "state"], "properties": {
        "id": {"type": "string"}, "href": {"type": "string"}, "state": {"type": "string"}, "result": {}}}}}


@dataclass(frozen=True)
class Shape:
    """How a command looks over REST: its address, the field the address gives, and fields called otherwise outside."""

    noun: str
    verb: str
    path: str
    id_field: str | None
    renamed: Mapping[str, str]


def shape_of(name: str, cls: type) -> Shape | None:
    """The command's REST form; None for one that is not offered."""
    noun, _, verb = name.partition(".")
    if noun not in BY_KIND or name in BY_HAND:
        return None
    plural, fields = BY_KIND[noun].plural, fields_of(cls)
    id_field = f"{noun}_id" if f"{noun}_id" in fields else None
    names = [f for f in fields if f.endswith("_name")]
    renamed = {"name": names[0]} if len(names) == 1 and "name" not in fields else {}
    renamed |= {f.removesuffix(SEALED): f for f in fields if f.endswith(SEALED)}
    path = f"/{plural}/<id>/{verb}" if id_field else f"/{plural}" if verb in MAKES and name not in BESIDE else f"/{plural}/{verb}"
    return Shape(noun, verb, path, id_field, renamed)


def command_of(cls: type, shape: Shape, given: Mapping[str, Any], id: str | None) -> Any:
    """The command for this body; `Invalid` for what is unknown, missing or of the wrong kind."""
    # what the path says, or what has another name outside, is no field of the body
    require_known(given, [name for name in fields_outside(cls, shape) if name != shape.id_field])
    inside = sealed({shape.renamed.get(key, key): value for key, value in given.items()})
    if shape.id_field is not None and id is not None:
        hint = get_type_hints(cls)[shape.id_field]
        inside[shape.id_field] = read_uuid(id, shape.noun) if hint is UUID else id
    return convert(inside, cls, shape.renamed)


def sealed(inside: dict[str, Any]) -> dict[str, Any]:
    """A command's fields with its secrets sealed: a command stands in its task's row."""
    secret = {key: value for key, value in inside.items() if key.endswith(SEALED) and isinstance(value, str)}
    return inside | {key: parts().keyring.seal(value) if value else "" for key, value in secret.items()}


def fields_outside(cls: type, shape: Shape) -> list[str]:
    """The command's fields by their names in JSON."""
    called = {inside: outside for outside, inside in shape.renamed.items()}
    return [called.get(name, name) for name in fields_of(cls)]


def routes(commands: Mapping[str, type]) -> Routes:
    """A route for every command that has one, and for the wish to end a task."""
    made = Routes("commands")
    for name, cls in sorted(commands.items()):
        shape = shape_of(name, cls)
        if shape is None:
            continue
        made.add(Route(
            "POST", shape.path, name.replace(".", "_"), _first_sentence(cls), BY_KIND[shape.noun].plural, body=cls,
            answers={202: TASK}, command=name, hidden=(shape.id_field,) if shape.id_field else (), renamed=shape.renamed,
        ), _view(cls, shape))
    made.route("POST", "/tasks/<id>/cancel", "Wish a task away: it stops before its next step, or within it.", tag="tasks",
               answers={202: TASK})(cancel_task)
    return made


def _view(cls: type, shape: Shape) -> Callable[..., Response]:
    def act(id: str | None = None) -> Response:
        command = command_of(cls, shape, read_json(), id)
        try:
            return accepted(submit(tx(), command, actor(), now()))
        except Invalid as no:  # the command knows its fields by their inside names
            called = {inside: outside for outside, inside in shape.renamed.items()}
            if isinstance(fields := no.facts.get("fields"), list):
                no.facts["fields"] = [called.get(name, name) for name in fields]
            raise

    return act


def cancel_task(id: str) -> Response:
    """The person's own task, or one on a thing that they administer."""
    read_json()
    found_row(tx(), "tasks", id)
    task = get(tx(), Task, int(id), lock=True)
    if task.actor_id != person().user_id:
        permit = "task.cancel"
        kind = task.object_kind if task.object_kind in _PATHS else None
        try:
            rights.require(tx(), actor(), permit, kind or "system", task.object_id if kind else None, now())
        except Denied:
            raise Denied("denied", "Only who asked for this task, or an administrator, may cancel it.", permit=permit) from None
    cancel(tx(), task, now())
    return accepted(task)


_PATHS = frozenset({"vm", "pool", "template", "host", "cluster", "storagedomain", "lease", "member", "rollout"})


def _first_sentence(cls: type) -> str:
    return (cls.__doc__ or cls.__name__).strip().split("\n")[0]


