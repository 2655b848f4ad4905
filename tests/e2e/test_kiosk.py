"""A thin client in Chromium: enroll, sign in, straight to the picture, a gateway that dies, sign out, the next person."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect

from backend.devices.commands import CreateDevice, RemoveDevice
from backend.devices.models import Device
from backend.devices.rules import digest, new_code, read_code
from backend.directory.models import WebSession
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from pools.models import Pool
from tests.e2e import flows
from tests.e2e.flows import PHONE, SLOW_MS, Tab
from tests.e2e.site import PASSWORD, Site
from tests.e2e.test_people import give_everything_back, leases_of

pytestmark = pytest.mark.e2e
Tabs = Callable[..., Tab]
NAME = "Ward 3"


@pytest.fixture
def code(site: Site) -> Iterator[str]:
    """The code of a device that leads to the pool Desktops."""
    made = new_code()
    with site.sessions.begin() as tx:
        pool_id = tx.scalar(sa.select(Pool.id).where(Pool.name == "Desktops"))
        submit(tx, CreateDevice(NAME, digest(read_code(made)).hex(), pool_id=pool_id), SYSTEM, site.clock.now())
    yield made
    with site.sessions.begin() as tx:
        submit(tx, RemoveDevice(tx.scalars(sa.select(Device.id).where(Device.name == NAME)).one()), SYSTEM, site.clock.now())


def enroll(page: Page, code: str) -> None:
    page.goto("/kiosk")
    page.get_by_label("Code").fill(code)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible(timeout=SLOW_MS)


def sign_in(page: Page, name: str) -> None:
    """By the keyboard alone, as it is done there."""
    expect(page.get_by_label("User name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    if page.get_by_label("Directory").count():
        page.get_by_label("Directory").select_option("internal")
    page.get_by_role("button", name="Sign in").press("Enter")


def test_a_persons_way_through_a_dying_gateway_and_the_next_one(site: Site, tab: Tabs, code: str) -> None:
    for name in ("alice", "bob"):
        give_everything_back(site, name)
    opened = tab()
    page = opened.page
    enroll(page, code)
    sign_in(page, "alice")
    flows.picture(page)
    inside = page.url
    before, desktop = leases_of(site, "alice"), site.until(lambda tx: _vm(tx, "alice"), "alice has a desktop")

    site.gateway.kill()
    expect(page.locator("#console")).to_have_attribute("data-view", "wait", timeout=SLOW_MS)
    expect(page.locator("#status")).to_contain_text("again", timeout=SLOW_MS)
    expect(page.locator("#status")).to_be_visible()
    site.gateway.start()
    flows.picture(page)
    opened.context.set_offline(True)  # the line breaks, and nobody says good-bye
    expect(page.locator("#status")).to_contain_text("does not answer", timeout=SLOW_MS)
    opened.context.set_offline(False)
    flows.picture(page)
    assert (leases_of(site, "alice"), site.read(lambda tx: _vm(tx, "alice"))) == (before, desktop)

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible(timeout=SLOW_MS)
    assert "alice" not in page.content().lower()
    assert not site.read(lambda tx: tx.scalars(
        sa.select(WebSession.id).join(Device, Device.id == WebSession.device_id).where(WebSession.ended_at.is_(None))).all())
    page.go_back()
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible(timeout=SLOW_MS)
    page.goto(inside)
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible(timeout=SLOW_MS)

    sign_in(page, "bob")
    flows.picture(page)
    assert site.until(lambda tx: _vm(tx, "bob"), "bob has a desktop of his own") != desktop
    give_everything_back(site, "bob")  # his lease ends while he looks at it
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_text("Your time at the desktop is over")).to_be_visible()
    give_everything_back(site, "alice")
    # what a browser says while nothing answers, some of it later
    broken = ("WebSocket", "onnecting", "onnection", "ERR_", "disconnected")
    opened.complaints[:] = [c for c in opened.complaints if not any(word in c for word in broken)]


def test_the_queue_moves_by_itself_at_a_thin_client(site: Site, tab: Tabs, code: str) -> None:
    for name in ("alice", "carol"):
        give_everything_back(site, name)
    holder, waiter = tab().page, tab(size=PHONE).page
    flows.sign_in(holder, "carol", PASSWORD)
    flows.connect(holder, "Design")
    with site.sessions.begin() as tx:
        tx.execute(sa.update(Device).where(Device.name == NAME).values(pool_id=None))
    enroll(waiter, code)
    sign_in(waiter, "alice")
    expect(waiter.get_by_role("heading", name="Choose a desktop")).to_be_visible(timeout=SLOW_MS)
    assert flows.serious(waiter) == []
    waiter.get_by_role("button", name="Design").click()
    expect(waiter.get_by_role("heading", name="You wait for a desktop")).to_be_visible(timeout=SLOW_MS)
    expect(waiter.locator("#wait")).to_contain_text("Your place in the queue")
    assert flows.serious(waiter) == []
    give_everything_back(site, "carol")
    flows.picture(waiter)
    waiter.get_by_role("button", name="Give back").click()
    waiter.get_by_role("dialog").get_by_role("button", name="Give back").click()
    expect(waiter.get_by_text("Your desktop is given back, and you are signed out.")).to_be_visible(timeout=SLOW_MS)
    assert flows.serious(waiter) == []


def test_what_is_left_is_cleared_and_signed_out(site: Site, tab: Tabs, code: str) -> None:
    with site.sessions.begin() as tx:
        tx.execute(sa.update(Device).where(Device.name == NAME).values(pool_id=None))
    page = tab().page
    page.clock.install()
    enroll(page, code)
    page.get_by_label("User name").fill("alice")
    page.get_by_label("Password").fill("half of it")
    page.clock.fast_forward(70_000)
    expect(page.get_by_label("User name")).to_have_value("")
    expect(page.get_by_label("Password")).to_have_value("")
    sign_in(page, "alice")
    expect(page.get_by_role("heading", name="Choose a desktop")).to_be_visible(timeout=SLOW_MS)
    # the first card has the focus once the page is painted, and the clock ticks once its script listens for arrows
    expect(page.locator("[data-card]").first).to_be_focused()
    expect(page.locator("[data-clock]")).not_to_be_empty()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="Design")).to_be_focused()
    page.clock.fast_forward(310_000)
    expect(page.get_by_text("Nobody was there for a while, so you were signed out.")).to_be_visible(timeout=SLOW_MS)


def _vm(tx, user: str):  # type: ignore[no-untyped-def]
    from tests.e2e.test_people import _desktop

    return _desktop(tx, user)
