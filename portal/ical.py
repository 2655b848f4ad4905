"""Pure: bookings as an iCalendar object (RFC 5545) that calendars take in; fetched again, an event takes its old place."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

import icalendar

from broker.bookings import Shown
from pools.booked import many

_UTC = ZoneInfo("UTC")


def calendar(name: str, bookings: Iterable[Shown], host: str, now: datetime) -> bytes:
    """The text of a calendar of this name. Times are in UTC, which every reader shows by their own clock; an event's UID is
    its booking's id at this portal's name, so it stays the same when the booking is changed."""
    made = icalendar.Calendar()
    made.add("prodid", "-//Leasehold//Bookings//EN")
    made.add("version", "2.0")
    made.add("method", "PUBLISH")
    made.add("x-wr-calname", name)
    for shown in bookings:
        made.add_component(_event(shown, host, now))
    return made.to_ical()


def _event(shown: Shown, host: str, now: datetime) -> icalendar.Event:
    booking, event = shown.booking, icalendar.Event()
    event.add("uid", f"{booking.id}@{host}")
    event.add("dtstamp", now.astimezone(_UTC))
    event.add("dtstart", booking.starts_at.astimezone(_UTC))
    event.add("dtend", booking.ends_at.astimezone(_UTC))
    event.add("summary", f"{shown.name} · {shown.pool}")
    event.add("sequence", booking.revision)
    event.add("created", booking.made_at.astimezone(_UTC))
    event.add("last-modified", booking.changed_at.astimezone(_UTC))
    event.add("status", "CANCELLED" if booking.state == "cancelled" else "CONFIRMED")
    people = " ".join(part for part in (f"Booked by {shown.who}." if shown.who else "",
                                        f"For group {shown.group}." if shown.group else "") if part)
    event.add("description", f"{many(booking.desktops)} of pool {shown.pool}. {people}".strip())
    event.add("location", shown.pool)
    event.add("transp", "OPAQUE" if shown.theirs else "TRANSPARENT")
    return event
