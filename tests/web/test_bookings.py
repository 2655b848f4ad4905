"""Bookings over pages and REST: the reader's own clock, refusals that lose nothing, calendars without other people's names."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import icalendar
import pytest
import sqlalchemy as sa

from backend.directory.models import User
from pools.models import Booking, Pool
from portal.words import clock, told, zone
from sim import make
from tests.web.place import Asker, Place

BERLIN = ZoneInfo("Europe/Berlin")


def berlin(place: Place, name: str) -> Asker:
    browser = place.browser(name)
    browser.client.set_cookie("timezone", "Europe/Berlin", domain="leasehold.test", secure=True, path="/")
    return browser


def form(place: Place, **more: str) -> dict[str, str]:
    day = (place.clock.now() + timedelta(days=3)).date()
    return {"pool": str(place.ids["pool"]), "day": day.isoformat(), "starts": "14:00", "ends": "16:00", "desktops": "1",
            "group": "", "title": "Exam", "weeks": "1", "timezone": "Europe/Berlin", **more}


def exams(place: Place) -> list[Booking]:
    with place.sessions() as tx:
        return list(tx.scalars(sa.select(Booking).where(Booking.title == "Exam").order_by(Booking.starts_at)))


def send(asker: Asker, path: str, given: dict[str, str]) -> object:
    return asker.ask("POST", path, data=given)


def test_times_are_those_of_the_readers_clock(place: Place) -> None:
    alice = berlin(place, "alice")
    assert send(alice, "/bookings/new", form(place)).status_code == 303
    (exam,) = exams(place)
    assert f"{exam.starts_at.astimezone(BERLIN):%H:%M}" == "14:00" and exam.ends_at - exam.starts_at == timedelta(hours=2)
    page = alice.get("/bookings").text
    assert f"{exam.starts_at.astimezone(BERLIN):%a %-d %b} 14:00" in page and "style=" not in page
    calendar = alice.get(f"/pools/{place.ids['pool']}/calendar?week={exam.starts_at:%Y-%m-%d}").text
    assert "14:00 – 16:00" in calendar and "Europe/Berlin" in calendar and "style=" not in calendar
    assert f"{exam.starts_at:%H:%M} – " in place.browser("alice").get(
        f"/pools/{place.ids['pool']}/calendar?week={exam.starts_at:%Y-%m-%d}").text  # nobody has told: UTC


def test_a_night_and_weeks_over_the_change_of_clocks(place: Place) -> None:
    with place.sessions.begin() as tx:  # the told clock begins in March: four weeks reach over the 29th
        tx.get_one(Pool, place.ids["pool"]).book_ahead_s = 90 * 86_400
        tx.get_one(Pool, place.ids["pool"]).book_open = 9
    alice = berlin(place, "alice")
    assert send(alice, "/bookings/new", form(place, starts="23:00", ends="01:30", weeks="5")).status_code == 303
    made = exams(place)
    assert len(made) == 5 and {f"{b.starts_at.astimezone(BERLIN):%H:%M}" for b in made} == {"23:00"}
    assert {b.ends_at - b.starts_at for b in made} == {timedelta(hours=2, minutes=30)}
    assert len({b.starts_at.astimezone(UTC).hour for b in made}) == 2
    send(alice, f"/bookings/{made[0].id}/cancel", {"series": "on"})
    assert {b.state for b in exams(place)} == {"cancelled"}


@pytest.mark.parametrize(("wrong", "status", "words"), [
    ({"starts": "25:00"}, 422, "Choose a day"),
    ({"desktops": "many"}, 422, "whole number"),
    ({"desktops": "2"}, 422, "1 desktop: book that one"),
    ({"starts": "08:00", "ends": "20:00"}, 409, "8 hours at most"),
    ({"pool": "x"}, 422, "Choose a pool"),
    ({"day": "2031-01-01"}, 422, "400 days"),
])  # fmt: skip
def test_a_refusal_loses_nothing(place: Place, wrong: dict[str, str], status: int, words: str) -> None:
    said = send(berlin(place, "alice"), "/bookings/new", form(place, title="Exam <b>", **wrong))
    assert said.status_code == status and words in said.text and "Exam &lt;b&gt;" in said.text
    assert exams(place) == []


def test_changed_and_of_others_nothing_is_seen(place: Place) -> None:
    alice, id = berlin(place, "alice"), place.ids["booking"]
    page = alice.get(f"/bookings/{id}").text
    given = dict(re.findall(r'<input[^>]*name="(day|starts|ends|desktops|timezone)"[^>]*value="([^"]*)"', page))
    assert send(alice, f"/bookings/{id}", {**given, "title": "Thesis II"}).status_code == 303
    with place.sessions() as tx:
        booking = tx.get_one(Booking, id)
        assert (booking.title, booking.revision, booking.starts_at) == ("Thesis II", 1, place.clock.now() + timedelta(days=1))
    with place.sessions.begin() as tx:
        make.a_permission(tx, tx.get_one(User, place.people["bob"]), tx.get_one(Pool, place.ids["pool"]))
    bob, week = place.as_("bob"), f"{place.clock.now() + timedelta(days=1):%Y-%m-%d}"
    for path in (f"/pools/{place.ids['pool']}/calendar?week={week}", f"/api/v1/pools/{place.ids['pool']}/calendar",
                 f"/api/v1/pools/{place.ids['pool']}/calendar.ics"):
        seen = bob.get(path)
        assert seen.status_code == 200 and "Thesis" not in seen.text and "alice" not in seen.text and "Booked" in seen.text
    for path in (f"/bookings/{id}", f"/api/v1/bookings/{id}/calendar.ics", f"/api/v1/bookings/{id}"):
        assert bob.get(path).status_code == 404
    assert bob.post(f"/api/v1/me/bookings/{id}/cancel").status_code == 404


def test_the_file_is_a_calendar(place: Place) -> None:
    alice, id = place.as_("alice"), place.ids["booking"]
    said = alice.get(f"/api/v1/bookings/{id}/calendar.ics")
    assert said.content_type == "text/calendar; charset=utf-8" and said.headers["Cache-Control"] == "no-store"
    (event,) = icalendar.Calendar.from_ical(said.data).walk("VEVENT")
    assert event["UID"] == f"{id}@leasehold.test" and event["STATUS"] == "CONFIRMED" and event["SEQUENCE"] == 0
    assert event.decoded("DTSTART") == place.clock.now() + timedelta(days=1) and "DTSTART:" in said.text  # UTC, no zone needed
    assert b"SUMMARY:Thesis" in said.data
    alice.post(f"/api/v1/me/bookings/{id}/cancel")
    (event,) = icalendar.Calendar.from_ical(alice.get(f"/api/v1/bookings/{id}/calendar.ics").data).walk("VEVENT")
    assert (event["UID"], event["STATUS"], event["SEQUENCE"]) == (f"{id}@leasehold.test", "CANCELLED", 1)


def test_bad_periods_are_told(place: Place) -> None:
    calendar = f"/api/v1/pools/{place.ids['pool']}/calendar"
    for query in ("from=yesterday", "from=2026-01-01T00:00:00", "from=2026-03-03T00:00:00Z&until=2026-03-02T00:00:00Z",
                  "from=2026-03-03T00:00:00Z&until=2027-03-02T00:00:00Z"):
        assert place.as_("alice").get(f"{calendar}?{query}").status_code == 422, query


def test_words_on_the_readers_clock() -> None:
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert clock(now + timedelta(hours=2), BERLIN, now) == "15:00"
    assert clock(now + timedelta(days=1), ZoneInfo("UTC"), now) == "Wed 25 Nov 12:00 UTC"
    assert told("It ends at 2026-11-24 14:00 UTC: <b>", BERLIN, now) == "It ends at 15:00: <b>"
    for wrong in ("", "Nowhere/Land", "../etc/passwd", "<script>", "Europe/", "/etc"):
        assert str(zone(wrong)) == "UTC"
