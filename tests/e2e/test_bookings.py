"""A person books desktops in a browser: what is free, the form, the list, the calendar, a file for their own calendar."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import icalendar
import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect

from backend.directory.models import Group, Membership, User
from pools.models import Booking, Pool
from sim import make
from tests.e2e import flows
from tests.e2e.flows import DESKTOP, PHONE, Tab
from tests.e2e.site import PASSWORD, Site

pytestmark = pytest.mark.e2e
Tabs = Callable[..., Tab]
PICTURES = os.environ.get("E2E_PICTURES")  # a folder: then the pages are kept as pictures


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.wait_for_timeout(500)
        page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def course(site: Site) -> str:
    """A pool that may be booked, a teacher and a group; another person's booking on the day after tomorrow."""
    pool_id = site.world.add_pool("Course room", size=14, lease_s=7200, book_desktops=12, book_open=5,
                                  description="Desktops of the training room")
    edith, felix = site.add_user("edith", "Edith Evans", on=(pool_id,)), site.add_user("felix", "Felix Fox", on=(pool_id,))
    with site.sessions.begin() as tx:
        group = make.a_group(tx, "Statistics course")
        make.a_permission(tx, group, tx.get_one(Pool, pool_id))
        user, other = (tx.scalars(sa.select(User).where(User.name == name)).one() for name in ("edith", "felix"))
        assert edith and felix
        tx.add(Membership(user_id=user.id, group_id=group.id))
        at = (site.clock.now() + timedelta(days=2)).replace(hour=9, minute=0, second=0, microsecond=0)
        make.a_booking(tx, tx.get_one(Pool, pool_id), other, starts_at=at, hours=3, desktops=12, title="Private")
    return str(pool_id)


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, True), (PHONE, False)])
def test_book_look_change_cancel(site: Site, tab: Tabs, course: str, size: tuple[int, int], dark: bool) -> None:
    opened, look = tab(size=size, dark=dark), f"{'phone' if size == PHONE else 'wide'}-{'dark' if dark else 'light'}"
    page = opened.page
    flows.sign_in(page, "edith", PASSWORD)
    page.get_by_role("link", name="Bookings").click()
    expect(page.get_by_role("heading", name="No bookings")).to_be_visible()
    page.get_by_role("link", name="Book desktops", exact=True).click()
    page.get_by_label("Pool").select_option(label="Course room")
    day = (site.clock.now() + timedelta(days=2)).date()
    page.get_by_label("Day").fill(day.isoformat())
    page.get_by_label("From").fill("10:00")
    page.get_by_label("Until").fill("12:00")
    page.get_by_label("Desktops").fill("12")
    page.get_by_label("For", exact=True).select_option(label="Statistics course")
    page.get_by_label("What for").fill("Statistics I")
    expect(page.locator("#free")).to_contain_text("2 of 14 free")
    picture(page, f"book-{look}")
    page.get_by_role("button", name="Book", exact=True).click()
    refusal = page.get_by_role("alert").filter(has_text="only 2 desktops")
    expect(refusal).to_contain_text("All would be free from")
    expect(page.get_by_label("What for")).to_have_value("Statistics I")  # nothing is lost
    picture(page, f"refused-{look}")
    opened.complaints[:] = [c for c in opened.complaints if "409" not in c]
    page.get_by_label("From").fill("14:00")
    page.get_by_label("Until").fill("16:00")
    page.get_by_role("button", name="Book", exact=True).click()
    expect(page.get_by_role("link", name="Statistics I", exact=True)).to_be_visible()
    picture(page, f"bookings-{look}")
    assert flows.serious(page) == []

    with page.expect_download() as got:
        page.get_by_role("link", name="Statistics I as a file").click()
    event = icalendar.Calendar.from_ical(Path(got.value.path()).read_bytes()).walk("VEVENT")[0]
    zone = ZoneInfo(page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone"))
    booking = site.read(lambda tx: tx.scalars(sa.select(Booking).where(Booking.title == "Statistics I",
                                                                       Booking.state == "booked")).one())
    assert event["UID"].startswith(str(booking.id)) and event.decoded("DTSTART") == booking.starts_at
    assert f"{booking.starts_at.astimezone(zone):%Y-%m-%d %H:%M}" == f"{day} 14:00"

    page.get_by_role("link", name="Course room", exact=True).click()
    expect(page.get_by_role("heading", name="Calendar of Course room")).to_be_visible()
    if page.get_by_text("14:00 – 16:00").count() == 0:
        page.get_by_role("link", name="Later").click()
    expect(page.locator(".lh-agenda").get_by_role("link", name="Statistics I")).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("Private")
    expect(page.locator(".lh-agenda")).to_contain_text("2 free")
    picture(page, f"calendar-{look}")
    assert flows.serious(page) == []

    page.locator(".lh-agenda").get_by_role("link", name="Statistics I").click()
    page.get_by_label("Until").fill("17:00")
    picture(page, f"booking-{look}")
    assert flows.serious(page) == []
    page.get_by_role("button", name="Change booking").click()
    expect(page.get_by_text("until").filter(has_text="17:00").first).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    with page.expect_response(lambda answer: answer.url.endswith("/bookings")):  # the question outlives a page that looks again
        page.evaluate("document.body.dispatchEvent(new CustomEvent('changed'))")
    page.get_by_role("dialog").get_by_role("button", name="Cancel the booking").click()
    expect(page.get_by_text("The booking is cancelled.")).to_be_visible()
    with site.sessions.begin() as tx:
        tx.execute(sa.delete(Booking).where(Booking.id == booking.id))


def test_a_booking_that_goes_on_is_on_the_persons_page(site: Site, tab: Tabs, course: str) -> None:
    with site.sessions.begin() as tx:
        pool, user = tx.get_one(Pool, course), tx.scalars(sa.select(User).where(User.name == "edith")).one()
        group = tx.scalars(sa.select(Group).where(Group.name == "Statistics course")).one()
        booking = make.a_booking(tx, pool, user, starts_at=site.clock.now() + timedelta(seconds=5), hours=2, desktops=3,
                                 now=site.clock.now(), title="Workshop", group_id=group.id)
    site.until(lambda tx: tx.get(Booking, booking.id).state == "running", "it runs", 120)
    page = tab().page
    flows.sign_in(page, "edith", PASSWORD)
    expect(page.locator("#booked")).to_contain_text("Workshop")
    picture(page, "desktops-wide-light")
    assert flows.serious(page) == []
    flows.card(page, "Course room").get_by_role("button", name=re.compile("onnect")).click()
    flows.picture(page)
    flows.leave(page)
    expect(flows.card(page, "Course room")).to_contain_text("left")
    page = tab().page
    flows.sign_in(page, "admin", PASSWORD)
    page.goto("/admin/bookings")
    expect(page.get_by_role("table")).to_contain_text("Workshop")
    picture(page, "admin-bookings-wide-light")
    page.goto(f"/admin/bookings/{booking.id}")
    expect(page.get_by_role("heading", name="Leases")).to_be_visible()
    picture(page, "admin-booking-wide-light")
    page.get_by_role("button", name="Cancel booking").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel booking").click()
    site.until(lambda tx: tx.get(Booking, booking.id).state == "cancelled", "it is cancelled")
