"""One person, two browsers: the console moves when they say so, and stays moved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from broker.models import ConsoleSession
from tests.e2e import flows
from tests.e2e.flows import SLOW_MS, Tab
from tests.e2e.site import PASSWORD, Site
from tests.e2e.test_people import give_everything_back

pytestmark = pytest.mark.e2e


def test_a_console_moves_when_its_person_says_so_and_stays(site: Site, tab: Callable[..., Tab]) -> None:
    give_everything_back(site, "alice")
    first, second = tab(), tab()
    flows.sign_in(first.page, "alice", PASSWORD)
    flows.connect(first.page, "Desktops")
    flows.sign_in(second.page, "alice", PASSWORD)
    second.page.goto(first.page.url)
    expect(second.page.get_by_role("heading", name="It is open on another of your devices")).to_be_visible(timeout=SLOW_MS)
    expect(first.page.locator("#console")).to_have_attribute("data-view", "screen")
    assert flows.serious(second.page) == []
    second.page.get_by_role("button", name="Move it here").click()
    flows.picture(second.page)
    expect(first.page.locator("#wait")).to_contain_text("You moved this console to another device.", timeout=SLOW_MS)
    live = sa.select(sa.func.count()).select_from(ConsoleSession).where(ConsoleSession.ended_at.is_(None))
    site.until(lambda tx: tx.scalar(live) == 1, "only the one that was moved to is open")
    expect(second.page.locator("#console")).to_have_attribute("data-view", "screen")
    second.complaints[:] = [c for c in second.complaints if "409" not in c]  # what a browser says of a refusal
    give_everything_back(site, "alice")
