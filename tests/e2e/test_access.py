"""axe finds nothing serious on any page, light and dark, wide and narrow; and no page is wider than its window."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page

from pools.models import Pool
from tests.e2e import flows
from tests.e2e.flows import PHONE, Tab
from tests.e2e.site import PASSWORD, Site

pytestmark = pytest.mark.e2e
Tabs = Callable[..., Tab]
ALL_SORTS = ("hosts", "clusters", "vms", "pools", "leases", "tasks", "events", "permissions", "storagedomains", "templates")
LOOKS = [(False, flows.DESKTOP), (True, flows.DESKTOP), (False, PHONE), (True, PHONE)]


def troubles(page: Page) -> list[str]:
    """What axe finds, and whether one must scroll sideways."""
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return flows.serious(page) + ([f"{wide} pixels wider than the window"] if wide > 0 else [])


@pytest.mark.parametrize(("dark", "size"), LOOKS)
def test_pages_for_people(tab: Tabs, dark: bool, size: tuple[int, int]) -> None:
    page = tab(dark=dark, size=size).page
    page.goto("/sign-in")
    found = {"/sign-in": troubles(page)}
    flows.sign_in(page, "alice", PASSWORD)
    for path in ("/", "/account"):
        page.goto(path)
        found[path] = troubles(page)
    page.goto("/")
    page.locator("#account summary").click()
    found["account menu"] = troubles(page)
    flows.connect(page, "alice-build")
    found["console"] = troubles(page)
    page.get_by_role("button", name="Paste text").click()
    found["paste"] = troubles(page)
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(("dark", "size", "tables"), [(*LOOKS[0], ALL_SORTS), (*LOOKS[3], ("pools", "vms", "events"))])
def test_pages_of_the_administration(site: Site, tab: Tabs, dark: bool, size: tuple[int, int], tables: tuple[str, ...]) -> None:
    page = tab(dark=dark, size=size).page
    flows.sign_in(page, "admin", PASSWORD)
    pool_id = site.read(lambda tx: tx.scalar(sa.select(Pool.id).where(Pool.name == "Desktops")))
    paths = [
        "/admin/",
        *(f"/admin/{plural}" for plural in tables),
        f"/admin/pools/{pool_id}",
        "/admin/do/pool.create",
        f"/admin/pools/{pool_id}/entitle",
        "/admin/do/permission.grant",
        "/admin/do/user.create",
        "/admin/do/directory.add",
        "/admin/do/host.create",
    ]
    found = {}
    for path in paths:
        page.goto(path)
        found[path] = troubles(page)
    page.goto("/admin/pools?search=name = Design")
    page.get_by_label("Actions for Design").click()
    found["menu"] = troubles(page)
    page.get_by_role("button", name="Remove").click()
    found["dialog"] = troubles(page)
    assert {path: what for path, what in found.items() if what} == {}
