"""Typed JSON both ways, made from the verbs' signatures; the error envelope and the version handshake."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from hostapi import types
from hostapi.types import Failure, Outcome, Secret
from hostapi.verbs import QUESTIONS, STEPS, HostAgent

API_HEADER = "Leasehold-Host-Api"  # both sides say which API they speak, in every request and answer


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    """POST /ask: start this step, or say how it is."""

    uid: UUID
    verb: str
    args: msgspec.Raw
    wait_s: float = 0.0


class Cancel(msgspec.Struct, forbid_unknown_fields=True):
    """POST /cancel: this step is no longer wanted."""

    uid: UUID


class Watch(msgspec.Struct, forbid_unknown_fields=True):
    """POST /watch: say which of these steps are still being done, as soon as one is not."""

    uids: list[UUID]
    wait_s: float = 0.0


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """POST /question: something that changes nothing."""

    verb: str
    args: msgspec.Raw = msgspec.Raw(b"{}")


class Answer(msgspec.Struct, omit_defaults=True):
    """What comes back: a value, or why not."""

    value: Any = None
    error: Failure | None = None


class BadRequest(ValueError):
    """The request does not fit the verb's signature; `str()` says where."""


@functools.cache
def args_type(verb: str) -> type[msgspec.Struct]:
    """The arguments of a verb as one type, made from its signature."""
    if verb not in STEPS and verb not in QUESTIONS:
        raise BadRequest(f"There is no verb {verb!r}.")
    method = getattr(HostAgent, verb)
    hints = typing.get_type_hints(method)
    names = [name for name in inspect.signature(method).parameters if name not in ("self", "steering")]
    return msgspec.defstruct(
        f"{verb}_args", [(name, hints[name]) for name in names], forbid_unknown_fields=True
    )


@functools.cache
def result_type(verb: str) -> Any:
    """What a verb answers."""
    args_type(verb)  # refuses a name that is no verb
    return typing.get_type_hints(getattr(HostAgent, verb))["return"]


def decode_args(verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Typed arguments by name, from builtins (a JSONB row, JSON) or from what is typed already."""
    try:
        typed = msgspec.convert(msgspec.to_builtins(dict(args)), args_type(verb))
    except msgspec.ValidationError as wrong:
        raise BadRequest(f"The arguments of {verb} are wrong: {wrong}") from wrong
    return {name: getattr(typed, name) for name in typed.__struct_fields__}


def encode_args(verb: str, args: Mapping[str, Any], reveal: Callable[[str], str]) -> dict[str, Any]:
    """A step row's arguments ready to travel: checked against the verb, every `Secret` filled in."""
    filled: dict[str, Any] = msgspec.to_builtins(_fill(decode_args(verb, args), reveal))
    return filled


def decode_result(verb: str, value: Any) -> Any:
    """A verb's answer from builtins, typed as its signature says."""
    return msgspec.convert(value, result_type(verb))


def decode_outcome(verb: str, body: bytes) -> Outcome:
    """The answer to /ask, its result typed when the step is done."""
    outcome = msgspec.json.decode(body, type=Outcome)
    if outcome.state == "done":
        return dataclasses.replace(outcome, result=decode_result(verb, outcome.result))
    return outcome


@functools.cache
def api_version() -> str:
    """A hash of the paths, every verb's signature and every travelling type's fields: the same text, the same API."""
    lines = ["/ask /cancel /question /watch"]
    lines += [f"{verb}{inspect.signature(getattr(HostAgent, verb))}" for verb in sorted(STEPS + QUESTIONS)]
    for name, kind in sorted(vars(types).items()):
        if dataclasses.is_dataclass(kind):
            fields = ", ".join(f"{field.name}: {field.type}" for field in dataclasses.fields(kind))
            lines.append(f"{name}({fields})")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _fill(value: Any, reveal: Callable[[str], str]) -> Any:
    if isinstance(value, Secret):
        return value if value.value else Secret(value.name, reveal(value.name))
    if isinstance(value, dict):
        return {key: _fill(one, reveal) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_fill(one, reveal) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {
            field.name: _fill(getattr(value, field.name), reveal) for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changes)
    return value
