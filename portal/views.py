"""What all pages share: who looks, which words and icons, times as people read them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from flask import Flask, flash, g, redirect, request
from flask_login import current_user
from werkzeug.wrappers import Response

from backend.directory import rights
from backend.directory.rights import see_permit
from backend.directory.rules import Grant, places
from pools.models import Booking, Pool
from portal import assets, auth, words
from portal.auth import own_address
from portal.parts import parts
from portal.transaction import tx


def now() -> datetime:
    """The time, one for the whole request."""
    if "now" not in g:
        g.now = parts().clock.now()
    return g.now  # type: ignore[no-any-return]


def zone() -> ZoneInfo:
    """The time zone of the reader's browser, which its pages' script tells by a cookie; UTC when nobody has told."""
    if "zone" not in g:
        g.zone = words.zone(request.cookies.get("timezone", ""))
    return g.zone  # type: ignore[no-any-return]


def grants() -> list[Grant]:
    """What the person who asks may do, read once a request."""
    if "grants" not in g:
        g.grants = auth.grants()
    return g.grants  # type: ignore[no-any-return]


def may_anywhere(permit: str) -> bool:
    """Whether the person has the permit on anything at all: then the page about such things is theirs to see."""
    return bool(places(grants(), permit, now()))


def bookable() -> bool:
    """Whether there is anything to book for anybody: then pages lead to the bookings."""
    if "bookable" not in g:
        some = sa.select(sa.or_(sa.exists().where(Pool.book_desktops > 0), sa.exists(sa.select(Booking.id))))
        g.bookable = bool(tx().scalar(some))
    return g.bookable  # type: ignore[no-any-return]


def may_on(permit: str, kind: str, id: Any) -> bool:
    """Whether the person has the permit on this thing."""
    from backend.directory.rules import may

    return may(grants(), permit, rights.path_of(tx(), kind, id), now())


# below which objects things of a kind are; those not named here are below everything, or the system alone
_POOLED = frozenset({"system", "datacenter", "cluster", "pool"})
_BELOW = {
    "pool": _POOLED,
    "member": _POOLED,
    "rollout": _POOLED,
    "lease": _POOLED,
    "booking": _POOLED,
    "decision": _POOLED,
    "vm": _POOLED | {"vm"},
    "console": _POOLED | {"vm"},
    "host": frozenset({"system", "datacenter", "cluster", "host"}),
    "cluster": frozenset({"system", "datacenter", "cluster"}),
    "template": frozenset({"system", "datacenter", "cluster", "template", "pool"}),
    "datacenter": frozenset({"system", "datacenter"}),
    "storagedomain": frozenset({"system", "datacenter", "storagedomain"}),
    "disk": frozenset({"system", "datacenter", "storagedomain"}),
    "evacuation": frozenset({"system", "datacenter", "cluster", "host"}),
    "reach": frozenset({"system", "datacenter", "storagedomain", "host"}),
    **dict.fromkeys(("user", "group", "permission", "session", "token"), frozenset({"system"})),
}


def may_see(kind: str) -> bool:
    """Whether there may be anything of this kind for the person to see."""
    held = places(grants(), see_permit(kind), now())
    if kind == "directory":  # who entitles people looks for them there
        held |= places(grants(), "directory.search", now())
    return any(kind not in _BELOW or where in _BELOW[kind] for where, _ in held)


def say(sentence: str, kind: str = "success") -> None:
    """Tell the person on the next page they see."""
    flash(sentence, kind)


def back(address: str) -> Response:
    """To the page this was asked from when it is ours, else to `address`."""
    return redirect(own_address(request.form.get("back", "")) or address, 303)


class _Me:
    """Who looks, for templates."""

    def __getattr__(self, name: str) -> Any:
        return getattr(current_user.facts, name)

    @property
    def administers(self) -> bool:
        """Whether any role but a plain user's is theirs."""
        return any(g.role != "user" and g.holds(now()) for g in grants())


def install(app: Flask) -> None:
    """Filters and names for all templates."""
    assets.install(app)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(
        iso=words.iso,
        utc=words.utc,
        size=words.size,
        duration=words.length,
        about=words.about,
        initials=words.initials,
        zip=zip,
        ago=lambda value: words.ago(value, now()),
        left=lambda value: words.left(value, now()),
        clock=lambda value: words.clock(value, zone(), now()),
        told=lambda sentence: words.told(sentence, zone(), now()),
    )
    app.jinja_env.globals.update(
        state_look=words.look, server_time=lambda: words.iso(now()), zone=zone, may_see=may_see, may_on=may_on, bookable=bookable
    )  # fmt: skip

    @app.context_processor
    def who() -> dict[str, Any]:
        return {"me": _Me() if current_user.is_authenticated else None, "area": ""}
