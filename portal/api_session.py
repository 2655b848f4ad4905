"""REST: sign in and out, and who I am."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from flask import Response, request

from backend.db import get
from backend.directory import rights, sessions
from backend.directory.models import Group, Membership, User, WebSession
from broker import connect, consoles
from broker.models import ConsoleSession
from portal import auth, devices
from portal.routes import Routes, answer, body, now, plain, read_uuid
from portal.transaction import tx

routes = Routes("session")

ME = {"type": "object", "required": ["id", "name", "display_name", "groups", "permits"], "properties": {
    "id": {"type": "string"}, "name": {"type": "string"}, "display_name": {"type": "string"},
    "auto_launch": {"type": "boolean"}, "groups": {"type": "array", "items": {"type": "string"}},
    "permits": {"type": "array", "items": {"type": "object"}},
    "session": {"type": "object"},
}}
USER = {"type": "object", "properties": {n: {"type": "string"} for n in ("id", "name", "display_name")}}
SIGNED_IN = {"type": "object", "required": ["token", "expires_at", "user", "auto_launch"], "properties": {
    "token": {"type": "string"}, "expires_at": {"type": "string", "format": "date-time"}, "user": USER,
    "auto_launch": {"type": ["object", "null"], "properties": {"desktop": {"type": "string"}}},
}}


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """Name and password, as on the sign-in page: alice, alice@corp.example, CORP\\alice."""

    user: str
    password: str


@routes.route("POST", "/session", "Sign in: answers a token for `Authorization: Bearer`.", signed_in=False, body=SignIn,
              answers={201: SIGNED_IN})
def create_session() -> Response:
    """A new session of a program; told once. On an enrolled device the header Leasehold-Device has its token."""
    given = body(SignIn)
    signed = auth.sign_in(given.user, given.password, client="api", device=devices.by_header())
    facts = signed.facts
    desktop = connect.auto_launch(tx(), facts, now(), request.remote_addr or "")
    return answer({
        "token": signed.token, "expires_at": plain(signed.expires_at),
        "user": {"id": str(facts.user_id), "name": facts.user_name, "display_name": facts.display_name},
        "auto_launch": {"desktop": str(desktop)} if desktop else None,
    }, 201)


@routes.route("DELETE", "/session", "Sign out: the token or cookie is worth nothing from now on.", answers={204: None})
def end_session() -> tuple[str, int]:
    """The end of the session that asks."""
    auth.sign_out()
    return "", 204


@routes.route("GET", "/me", "Who I am, my groups, and what I may do in short.", answers={200: ME})
def me() -> Response:
    """The person of this session."""
    who = auth.person()
    user = tx().get_one(User, who.user_id)
    groups = tx().scalars(
        sa.select(Group.name).join(Membership, Membership.group_id == Group.id)
        .where(Membership.user_id == who.user_id).order_by(Group.name)
    )
    return answer({
        "id": str(who.user_id), "name": who.user_name, "display_name": who.display_name, "auto_launch": user.auto_launch,
        "groups": list(groups), "permits": _permits(),
        "session": {"id": str(who.id), "client": who.client, "expires_at": plain(who.expires_at)},
    })


def _permits() -> list[dict[str, Any]]:
    """Each role held now, on what, and what it permits."""
    held = [g for g in auth.grants() if g.holds(now())]
    return [
        {"role": g.role, "object_type": g.object_type, "object_id": plain(g.object_id), "permits": sorted(g.permits())}
        for g in held
    ]


@routes.route("POST", "/sessions/<id>/end", "End a session: your own, or as administrator anybody's.", tag="sessions",
              answers={204: None})
def session_end(id: str) -> tuple[str, int]:
    """Whoever uses it is signed out, and its consoles close."""
    session = get(tx(), WebSession, read_uuid(id, "session"))
    if session.user_id != auth.in_person().user_id:
        rights.require(tx(), auth.actor(), "user.edit", "user", session.user_id, now())
    sessions.end(tx(), session.id, now())
    return "", 204


@routes.route("POST", "/consoles/<id>/end", "Close a console: your own, or as administrator of its VM.", tag="consoles",
              answers={204: None})
def console_end(id: str) -> tuple[str, int]:
    """The gateway closes it within seconds and tells the person why."""
    console = get(tx(), ConsoleSession, read_uuid(id, "console"))
    mine = console.user_id == auth.person().user_id
    if not mine:
        rights.require(tx(), auth.actor(), "console.end", "vm", console.vm_id, now())
    why = "You closed it." if mine else "Your administrator closed it."
    consoles.want_end(tx(), sa.select(ConsoleSession.ticket_id).where(ConsoleSession.id == console.id), why)
    return "", 204
