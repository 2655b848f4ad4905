"""Pages: my bookings, book desktops, a booking, and the calendar of a pool."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, Flask, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as Answer

from backend.db import get
from backend.errors import Invalid, Refused
from broker import bookings
from pools.booking_rules import Wish
from pools.models import Pool
from portal import api_bookings, words
from portal import week as weeks
from portal.auth import person
from portal.errors import is_partial
from portal.transaction import rollback, tx
from portal.views import now, say, zone

pages = Blueprint("bookings", __name__)
FIELDS = {"pool_id": "pool", "starts_at": "starts", "ends_at": "ends", "group_id": "group", "rule": "weeks"}
"""What a refusal calls a field, and the input that it stands at; others are called alike."""


@pages.get("/bookings")
def mine() -> str:
    """The person's bookings; asked by the page itself, the list alone."""
    shown = bookings.mine(tx(), person().user_id, now())
    template = "user/booking_list.html" if is_partial() else "user/bookings.html"
    return render_template(template, bookings=shown, pools=bookings.pools(tx(), person().user_id, now()), area="bookings")


@pages.get("/pools/<uuid:id>/calendar")
def calendar(id: UUID) -> str:
    """A week of the pool: bookings, and how many desktops can be booked when."""
    first = weeks.monday(_day(request.args.get("week", "")))
    template = "user/week.html" if is_partial() else "user/calendar.html"
    return render_template(template, **_week(id, first), area="bookings")


def _week(pool_id: UUID, first: date) -> dict[str, Any]:
    since, until = weeks.bounds(first, zone())
    seen = bookings.calendar(tx(), user_id=person().user_id, pool_id=pool_id, since=since, until=until, now=now())
    return {"calendar": seen, "week": weeks.week(seen, first, zone(), now())}


@pages.get("/pools/<uuid:id>/calendar.ics")
def calendar_file(id: UUID) -> Answer:
    """The pool's bookings for calendar programs."""
    return api_bookings.pool_ics(str(id))


@pages.get("/bookings/<uuid:id>/calendar.ics")
def booking_file(id: UUID) -> Answer:
    """One booking for calendar programs."""
    return api_bookings.booking_ics(str(id))


# ---- book -------------------------------------------------------------------------------------------------
@pages.get("/bookings/new")
def ask() -> str:
    """The form; asked by the form itself, what is free on its day."""
    given = _asked()
    return render_template("user/free.html", **_free(given)) if is_partial() else _form(given, {})


@pages.post("/bookings/new")
def book() -> Answer:
    """Book, or the form again with what is wrong."""
    given = {**_asked(), **request.form.to_dict()}
    try:
        start, end = _times(given)
        count = _number(given, "weeks", 1)
        wish = Wish(_number(given, "desktops", 1), start, end, not given["group"], given["title"].strip())
        made = bookings.book(
            tx(), user_id=person().user_id, pool_id=_id(given["pool"], "pool"), wish=wish, now=now(),
            group_id=_id(given["group"], "group") if given["group"] else None,
            rule=f"FREQ=WEEKLY;COUNT={count}" if count != 1 else "", timezone=given["timezone"],
        )
    except Refused as no:
        return _again(given, no)
    say("Booked. The desktops are ready when it begins." if len(made) == 1 else f"{len(made)} bookings are made.")
    return redirect(url_for("bookings.mine"), 303)


@pages.get("/bookings/<uuid:id>")
def one(id: UUID) -> str:
    """A booking, with its form when it is the person's to change."""
    shown = bookings.one(tx(), person().user_id, id, now())
    return _form(_given(shown), {}, shown)


@pages.post("/bookings/<uuid:id>")
def change(id: UUID) -> Answer:
    """Change it, or the form again with what is wrong."""
    shown = bookings.one(tx(), person().user_id, id, now())
    given = {**_given(shown), **request.form.to_dict()}
    try:
        start, end = _times(given)
        desktops = _number(given, "desktops", 1)
        bookings.change(tx(), user_id=person().user_id, booking_id=id, title=given["title"], desktops=desktops, starts_at=start,
                        ends_at=end, now=now())
    except Refused as no:
        return _again(given, no, shown)
    say("The booking is changed.")
    return redirect(url_for("bookings.mine"), 303)


@pages.post("/bookings/<uuid:id>/cancel")
def cancel(id: UUID) -> Answer:
    """Cancel it, or its whole series."""
    try:
        count = bookings.cancel(tx(), user_id=person().user_id, booking_id=id, series="series" in request.form, now=now())
    except Refused as no:
        rollback()
        say(no.message, "danger")
    else:
        say(api_bookings.cancelled(count))
    return redirect(url_for("bookings.mine"), 303)


# ---- the form ------------------------------------------------------------------------------------------------
def _asked() -> dict[str, str]:
    """What stands in the form at first: the next whole hour, two hours long."""
    soon = now().astimezone(zone()).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    after = soon + timedelta(hours=2)
    first = {"pool": "", "day": f"{soon:%Y-%m-%d}", "starts": f"{soon:%H:%M}", "ends": f"{after:%H:%M}", "desktops": "1",
             "group": "", "title": "", "weeks": "1", "timezone": str(zone())}
    return first | {name: value for name, value in request.args.items() if name in first and name != "timezone"}


def _given(shown: bookings.Shown) -> dict[str, str]:
    """A booking in the form's words."""
    b = shown.booking
    start, end = b.starts_at.astimezone(zone()), b.ends_at.astimezone(zone())
    return {"pool": str(b.pool_id), "day": f"{start:%Y-%m-%d}", "starts": f"{start:%H:%M}", "ends": f"{end:%H:%M}",
            "desktops": str(b.desktops), "group": str(b.group_id or ""), "title": b.title, "weeks": "1", "timezone": str(zone()),
            "days": str((end.date() - start.date()).days)}


def _form(given: dict[str, str], wrong: dict[str, str], shown: bookings.Shown | None = None) -> str:
    me, pools = person().user_id, bookings.pools(tx(), person().user_id, now())
    given = given | {"pool": given["pool"] or (str(pools[0].id) if pools else "")}
    chosen = next((pool for pool in pools if str(pool.id) == given["pool"]), None)
    groups = bookings.groups(tx(), me, chosen is not None and bookings.runs(tx(), me, chosen, now()))
    return render_template(
        "user/book.html", given=given, wrong=wrong, pools=pools, groups=groups, shown=shown, area="bookings", **_free(given)
    )


def _free(given: dict[str, str]) -> dict[str, Any]:
    """What is free and booked in the chosen pool on the chosen day."""
    try:
        day, pool_id = _day(given["day"]), _id(given["pool"], "pool")
        since, until = weeks.bounds(day, zone(), 1)
        seen = bookings.calendar(tx(), user_id=person().user_id, pool_id=pool_id, since=since, until=until, now=now())
    except Refused:
        return {"free": None}
    return {"free": seen, "free_day": weeks.week(seen, day, zone(), now()).days[0], "policy": get(tx(), Pool, pool_id)}


def _again(given: dict[str, str], no: Refused, shown: bookings.Shown | None = None) -> Answer:
    rollback()
    if shown is not None:
        shown = bookings.one(tx(), person().user_id, shown.booking.id, now())
    names = [FIELDS.get(str(name), str(name)) for name in no.facts.get("fields") or ()]
    at = names[0] if names and names[0] in given else ""
    return make_response(_form(given, {at: no.message}, shown), no.status)


def _times(given: dict[str, str]) -> tuple[datetime, datetime]:
    """From when until when, on the clock that the form was shown by; an end that is no later is on the next day."""
    clock = words.zone(given["timezone"])
    try:
        day = date.fromisoformat(given["day"])
        starts, ends = time.fromisoformat(given["starts"]), time.fromisoformat(given["ends"])
        last = day + timedelta(days=max(int(given.get("days") or 0), 0) or (1 if ends <= starts else 0))
        return datetime.combine(day, starts, clock).astimezone(UTC), datetime.combine(last, ends, clock).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid("bad_time", "Choose a day, and times such as 14:00.", fields=["day"]) from None


def _day(text: str) -> date:
    """The day, today when it is none that there may be bookings on."""
    today = now().astimezone(zone()).date()
    try:
        day = date.fromisoformat(text) if text else today
    except ValueError:
        return today
    return day if abs((day - today).days) < 700 else today


def _number(given: dict[str, str], name: str, least: int) -> int:
    text = given[name].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 6) or int(text) < least:
        raise Invalid("bad_number", "Write a whole number from 1 on.", fields=[name])
    return int(text)


def _id(text: str, name: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Invalid("bad_id", f"Choose a {name}.", fields=[name]) from None


def install(app: Flask) -> None:
    """Register the pages."""
    app.register_blueprint(pages)
