"""REST's tools: routes with what OpenAPI must know of them, how bodies are read and answers written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from flask import Response, jsonify, make_response, request

from backend.errors import Invalid, NotFound, Refused
from backend.tasks.models import Task
from portal.parts import parts

PREFIX = "/api/v1"
T = TypeVar("T")
Moment = Annotated[datetime, msgspec.Meta(tz=True)]  # a time in a body says in which time zone


@dataclass(frozen=True)
class Route:
    """An operation, as OpenAPI describes it. `body` is a type that msgspec decodes; `command` its wire name if it is one."""

    method: str
    path: str
    endpoint: str
    summary: str
    tag: str
    body: Any = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    signed_in: bool = True
    command: str = ""
    hidden: tuple[str, ...] = ()  # fields of the body that the path gives
    renamed: Mapping[str, str] = field(default_factory=dict)  # name in JSON -> field of the body's class
    media: str = "application/json"


View = Callable[..., Any]


class Routes:
    """Routes as they are declared in the modules below, until an app takes them."""

    def __init__(self, tag: str) -> None:
        self.tag, self.found = tag, list[tuple[Route, View]]()

    def route(self, method: str, path: str, summary: str, **known: Any) -> Callable[[View], View]:
        """Declare the view; it is called only for a signed-in person unless `signed_in` is false."""

        def declare(view: View) -> View:
            endpoint, tag = known.pop("endpoint", view.__name__), known.pop("tag", self.tag)
            self.add(Route(method, path, endpoint, summary, tag, **known), view)
            return view

        return declare

    def add(self, route: Route, view: View) -> None:
        """Take the route."""
        self.found.append((route, view))


class BadJson(Refused):
    """The body is not JSON at all."""

    status = 400


class NotJson(Refused):
    """The body says that it is something else than JSON."""

    status = 415


def read_json() -> dict[str, Any]:
    """The body as a JSON object; no body is an empty one."""
    raw = request.get_data()
    if not raw:
        return {}
    if not request.is_json:
        raise NotJson("not_json", "Send the body as JSON, with the header Content-Type: application/json.")
    try:
        given = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadJson("bad_json", f"The body is not JSON: {str(error).rstrip('.')}.") from None
    if not isinstance(given, dict):
        raise Invalid("bad_body", "The body must be a JSON object: {…}.", fields=[])
    _no_zeros(given)
    return given


def _no_zeros(value: Any, name: str = "") -> None:
    """PostgreSQL's text cannot hold a zero character, so no field may."""
    if isinstance(value, str) and "\0" in value:
        raise Invalid("bad_field", f"The field “{name}” holds a zero character.", fields=[name])
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        _no_zeros(key, "")
        _no_zeros(inner, name or str(key))


def body(cls: type[T]) -> T:
    """The body as this type; `Invalid` names the fields that are missing, unknown or wrong."""
    return convert(read_json(), cls)


def convert(given: Mapping[str, Any], cls: type[T], names: Mapping[str, str] | None = None) -> T:
    """The object as this type; `names` tells what a field is called outside."""
    called = {inside: outside for outside, inside in (names or {}).items()}
    require_known(given, fields_of(cls))
    try:
        return msgspec.convert(given, cls)
    except msgspec.ValidationError as error:
        raise _wrong(str(error), called) from None


def require_known(given: Mapping[str, Any], known: list[str]) -> None:
    """Refuse what is none of the known fields."""
    if unknown := sorted(set(given) - set(known)):
        which = ", ".join(f"“{name[:40]}”" for name in unknown[:5])
        there = f"the fields are {', '.join(known)}" if known else "there are none"
        raise Invalid("unknown_field", f"There is no field {which} here; {there}.", fields=unknown)


def fields_of(cls: Any) -> list[str]:
    """The names of the type's fields, in order."""
    return list(cls.__dataclass_fields__) if is_dataclass(cls) else list(cls.__struct_fields__)


_WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "null": "null",
          "array": "a list", "object": "an object", "uuid": "an id", "datetime": "a time such as 2026-11-23T08:30:00Z"}


def _wrong(said: str, called: Mapping[str, str]) -> Invalid:
    """msgspec's message as a sentence with the field's name."""
    if missing := re.match(r"Object missing required field `(\w+)`", said):
        name = called.get(missing[1], missing[1])
        return Invalid("missing_field", f"The field “{name}” is missing.", fields=[name])
    at = re.search(r" - at `\$\.?(\w*)", said)
    name = called.get(at[1], at[1]) if at else ""
    if kinds := re.match(r"Expected `([^`]+)`, got `([^`]+)`", said):
        want = " or ".join(_WORDS.get(word, word) for word in kinds[1].split(" | "))
        return Invalid("bad_field", f"The field “{name}” must be {want}, not {_WORDS.get(kinds[2], kinds[2])}.", fields=[name])
    return Invalid("bad_field", f"The field “{name}” is wrong: {said.split(' - at')[0].rstrip('.')}.", fields=[name])


def read_uuid(text: str, kind: str) -> UUID:
    """The id in the path; what cannot be an id is of nothing."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound("not_found", f"There is no {kind} with the id {text[:60]}.", kind=kind, id=text[:60]) from None


def plain(value: Any) -> Any:
    """Dataclasses, ids and times as JSON has them."""
    return msgspec.to_builtins(value)


def answer(value: Any, status: int = 200) -> Response:
    """JSON with this status."""
    return make_response(jsonify(value), status)


def accepted(task: Task) -> Response:
    """202 with the task's address; a command without steps is done already and has its result there."""
    told: dict[str, Any] = {"id": str(task.id), "href": f"{PREFIX}/tasks/{task.id}", "state": task.state}
    if task.result is not None:
        told["result"] = task.result
    return answer({"task": told}, 202)


def now() -> datetime:
    """The time of the portal's clock."""
    return parts().clock.now()
