"""REST: a person's bookings, the calendar of a pool, and both as files for calendar programs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from flask import Response, make_response, request

from backend.errors import Invalid
from broker import bookings
from broker.bookings import Shown
from pools.booking_rules import Wish
from portal import ical
from portal.auth import person
from portal.parts import parts
from portal.routes import Moment, Routes, answer, body, now, plain, read_uuid
from portal.transaction import tx

routes = Routes("bookings")

_TEXT, _WHEN = {"type": "string"}, {"type": "string", "format": "date-time"}
BOOKING = {"type": "object", "required": ["id", "pool_id", "state", "desktops", "starts_at", "ends_at"], "properties": {
    "id": _TEXT, "pool_id": _TEXT, "pool": _TEXT, "name": _TEXT, "state": _TEXT, "why": _TEXT, "desktops": {"type": "integer"},
    "kept": {"type": "integer"}, "starts_at": _WHEN, "ends_at": _WHEN, "user": _TEXT, "group": _TEXT,
    "series_id": {"type": ["string", "null"]}, "yours": {"type": "boolean"}, "editable": {"type": "boolean"}}}
BOOKINGS = {"type": "object", "required": ["items"], "properties": {"items": {"type": "array", "items": BOOKING}}}
CALENDAR = {"type": "object", "required": ["size", "items", "free"], "properties": {
    "pool": _TEXT, "size": {"type": "integer"}, "from": _WHEN, "until": _WHEN, "may_book": {"type": "boolean"},
    "groups": {"type": "array", "description": "those that you may book for", "items": {
        "type": "object", "properties": {"id": _TEXT, "name": _TEXT}}},
    "items": {"type": "array", "items": BOOKING},
    "free": {"type": "array", "items": {"type": "object", "properties": {
        "from": _WHEN, "until": _WHEN, "desktops": {"type": "integer"}}}}}}
PERIOD = {"from": {**_WHEN, "description": "left out: now"}, "until": {**_WHEN, "description": "left out: a week after `from`"}}
CALENDAR_TYPE = "text/calendar"


class Book(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Desktops of a pool, for the person alone or for a group of theirs. `rule` (RFC 5545, with an end, such as
    FREQ=WEEKLY;COUNT=10) makes one booking after the other, on the clock of `timezone`."""

    pool_id: UUID
    starts_at: Moment
    ends_at: Moment
    desktops: int = 1
    name: str = ""
    group_id: UUID | None = None
    rule: str = ""
    timezone: str = "UTC"


class Change(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What to change of a booking; what is left out stays."""

    name: str | None = None
    desktops: int | None = None
    starts_at: Moment | None = None
    ends_at: Moment | None = None


class Cancel(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`series`: also all others that the same rule made and that have not begun."""

    series: bool = False


@routes.route("GET", "/me/bookings", "Your bookings that are not over or ended within a week, the next one first.",
              answers={200: BOOKINGS})
def my_bookings() -> Response:
    """Made by the person, or for a group of theirs."""
    return answer({"items": [booking_json(shown) for shown in bookings.mine(tx(), person().user_id, now())]})


@routes.route("POST", "/me/bookings", "Book desktops of a pool, within its policy; who runs the pool, any number.", body=Book,
              answers={201: {"type": "object", "required": ["booking", "items"], "properties": {"booking": BOOKING, **BOOKINGS[
                  "properties"]}}})
def book() -> Response:
    """The booking, or all that the rule makes; one that is not possible makes none."""
    given = body(Book)
    wish = Wish(given.desktops, given.starts_at, given.ends_at, given.group_id is None, given.name)
    made = bookings.book(
        tx(), user_id=person().user_id, pool_id=given.pool_id, wish=wish, group_id=given.group_id, rule=given.rule,
        timezone=given.timezone, now=now(),
    )
    items = [booking_json(_one(booking.id)) for booking in made]
    return answer({"booking": items[0], "items": items}, 201)


@routes.route("POST", "/me/bookings/<id>/edit", "Change a booking of yours.", body=Change, endpoint="my_booking_edit",
              answers={200: {"type": "object", "properties": {"booking": BOOKING}}})
def edit(id: str) -> Response:
    """Within the pool's policy."""
    given, booking_id = body(Change), read_uuid(id, "booking")
    bookings.change(
        tx(), user_id=person().user_id, booking_id=booking_id, title=given.name, desktops=given.desktops,
        starts_at=given.starts_at, ends_at=given.ends_at, now=now(),
    )
    return answer({"booking": booking_json(_one(booking_id))})


@routes.route("POST", "/me/bookings/<id>/cancel", "Cancel a booking of yours; with `series`, all that one rule made.",
              body=Cancel, endpoint="my_booking_cancel",
              answers={200: {"type": "object", "properties": {"cancelled": {"type": "integer"}, "sentence": _TEXT}}})
def cancel(id: str) -> Response:
    """Who has a desktop of it keeps it until the end."""
    given, booking_id = body(Cancel), read_uuid(id, "booking")
    count = bookings.cancel(tx(), user_id=person().user_id, booking_id=booking_id, series=given.series, now=now())
    return answer({"cancelled": count, "sentence": cancelled(count)})


@routes.route("GET", "/pools/<id>/calendar", "A pool's bookings, and how many desktops can be booked when.", tag="pools",
              query=PERIOD, answers={200: CALENDAR})
def pool_calendar(id: str) -> Response:
    """Of other people's bookings one sees the number of desktops alone, unless one may see the pool's leases."""
    since, until = _period()
    seen = bookings.calendar(tx(), user_id=person().user_id, pool_id=read_uuid(id, "pool"), since=since, until=until, now=now())
    groups = bookings.groups(tx(), person().user_id, seen.runs) if seen.may_book else []
    return answer({
        "pool": seen.pool.name, "size": seen.size, "from": plain(since), "until": plain(until), "may_book": seen.may_book,
        "groups": [{"id": str(group.id), "name": group.name} for group in groups],
        "items": [booking_json(shown) for shown in seen.bookings],
        "free": [{"from": plain(a), "until": plain(b), "desktops": n} for a, b, n in seen.free],
    })


@routes.route("GET", "/pools/<id>/calendar.ics", "A pool's bookings as a file for calendar programs.", tag="pools",
              query=PERIOD, answers={200: _TEXT}, media=CALENDAR_TYPE)
def pool_ics(id: str) -> Response:
    """A month back and a month ahead, when nothing else is asked for."""
    since, until = _period() if request.args else (now() - timedelta(days=30), now() + timedelta(days=30))
    seen = bookings.calendar(tx(), user_id=person().user_id, pool_id=read_uuid(id, "pool"), since=since, until=until, now=now())
    return ics(f"Bookings of {seen.pool.name}", seen.bookings)


@routes.route("GET", "/bookings/<id>/calendar.ics", "One booking as a file for calendar programs.", answers={200: _TEXT},
              media=CALENDAR_TYPE)
def booking_ics(id: str) -> Response:
    """Fetched again after a change, it takes the old one's place."""
    shown = _one(read_uuid(id, "booking"))
    return ics(shown.name, [shown])


def ics(name: str, shown: list[Shown]) -> Response:
    """The file, for the person who asks alone: it is signed in for, and kept by nobody on the way."""
    host = parts().public_host.partition(":")[0]
    response = make_response(ical.calendar(name, shown, host, now()))
    response.content_type = f"{CALENDAR_TYPE}; charset=utf-8"
    response.headers["Content-Disposition"] = 'attachment; filename="bookings.ics"'
    return response


def cancelled(count: int) -> str:
    """What a person is told."""
    return "The booking is cancelled." if count == 1 else f"{count} bookings are cancelled."


def _one(id: UUID) -> Shown:
    return bookings.one(tx(), person().user_id, id, now())


def booking_json(shown: Shown) -> dict[str, Any]:
    """A booking as this person may see it."""
    b = shown.booking
    told = {"id": str(b.id), "pool_id": str(b.pool_id), "pool": shown.pool, "name": shown.name, "state": b.state,
            "desktops": b.desktops, "kept": b.kept, "starts_at": plain(b.starts_at), "ends_at": plain(b.ends_at),
            "user": shown.who, "group": shown.group, "yours": shown.theirs, "editable": shown.editable}
    known = bool(shown.who)
    return told | {"why": b.why if known else "", "series_id": plain(b.series_id) if known else None}


def _period() -> tuple[datetime, datetime]:
    since = _moment("from") or now()
    return since, _moment("until") or since + timedelta(days=7)


def _moment(name: str) -> datetime | None:
    text = request.args.get(name)
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text.replace(" ", "+"))  # a plus sign that was not quoted
        if at.tzinfo is None or not 1970 < at.year < 9000:
            raise ValueError
    except ValueError:
        raise Invalid("bad_time", f"{name} must be a time such as 2026-11-23T08:30:00Z.", fields=[name]) from None
    return at
