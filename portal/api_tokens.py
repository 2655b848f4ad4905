"""REST: API tokens: make, list and revoke my own; revoke anybody's as administrator."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from flask import Response, request

from backend.directory import tokens
from backend.directory.models import WebSession
from backend.errors import Invalid
from portal import auth
from portal.api_lists import QUERY, page_answer
from portal.collections import COLLECTIONS
from portal.routes import Moment, Routes, answer, body, now, plain, read_uuid
from portal.schemas import list_schema
from portal.transaction import tx

routes = Routes("tokens")
DAYS = 90
CREATED = {"type": "object", "required": ["id", "name", "token", "expires_at"], "properties": {
    "id": {"type": "string"}, "name": {"type": "string"},
    "token": {"type": "string", "description": "for `Authorization: Bearer`; told only here"},
    "expires_at": {"type": "string", "format": "date-time"}}}


class NewToken(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A token of mine: good until `expires_at`, or for so many `days` (90 when neither is said)."""

    name: str
    days: int | None = None
    expires_at: Moment | None = None
    read_only: bool = False
    roles: tuple[str, ...] | None = None  # it gives no more than these roles would; none: all that I may


def end_of(given: NewToken, now: datetime) -> datetime:
    """When the token is to end."""
    if given.days is not None and given.expires_at is not None:
        raise Invalid("two_ends", "Say days or expires_at, not both.", fields=["days", "expires_at"])
    if given.days is not None and not 1 <= given.days <= tokens.LONGEST.days:
        raise Invalid("bad_end", "A token ends within 366 days.", fields=["days"])
    return given.expires_at or now + timedelta(days=given.days or DAYS)


@routes.route("POST", "/me/tokens", "Make an API token of mine: no more rights than I have when it is used, or fewer.",
              body=NewToken, answers={201: CREATED})
def token_create() -> Response:
    """The token stands in no row: only its SHA-256 does."""
    auth.in_person()
    given = body(NewToken)
    id, text, ends = make(given)
    return answer({"id": str(id), "name": given.name.strip(), "token": text, "expires_at": plain(ends)}, 201)


def make(given: NewToken) -> tuple[object, str, datetime]:
    """The new token's id, its text and its end."""
    ends = end_of(given, now())
    id, text = tokens.create(tx(), auth.actor(), given.name, expires_at=ends, read_only=given.read_only, roles=given.roles,
                             address=request.remote_addr or "", now=now())
    return id, text, ends


@routes.route("GET", "/me/tokens", "My API tokens, with the time each was used last.", query=QUERY,
              answers={200: list_schema(COLLECTIONS["tokens"])})
def my_tokens() -> Response:
    """Never their text: only a hash of it is kept."""
    return page_answer("tokens", WebSession.user_id == auth.person().user_id)


@routes.route("POST", "/tokens/<id>/revoke", "Revoke an API token: my own, or as administrator anybody's.", answers={204: None})
def token_revoke(id: str) -> tuple[str, int]:
    """It is worth nothing from now on, and consoles that were opened with it are closed."""
    auth.in_person()
    tokens.revoke(tx(), read_uuid(id, "token"), auth.actor(), now())
    return "", 204
