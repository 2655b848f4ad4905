"""axe finds nothing serious on any page, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from pools.models import Pool
from portal.things import THINGS
from tests.e2e import flows
from tests.e2e.flows import PHONE, Tab
from tests.e2e.site import PASSWORD, Site

pytestmark = pytest.mark.e2e
Tabs = Callable[..., Tab]
LOOKS = [(False, flows.DESKTOP), (True, flows.DESKTOP), (False, PHONE), (True, PHONE)]


@pytest.mark.parametrize(("dark", "size"), LOOKS)
def test_pages_for_people(tab: Tabs, dark: bool, size: tuple[int, int]) -> None:
    page = tab(dark=dark, size=size).page
    page.goto("/sign-in")
    found = {"/sign-in": flows.serious(page)}
    flows.sign_in(page, "alice", PASSWORD)
    for path in ("/", "/account"):
        page.goto(path)
        found[path] = flows.serious(page)
    page.goto("/")
    page.locator("#account summary").click()
    found["account menu"] = flows.serious(page)
    flows.connect(page, "alice-build")
    found["console"] = flows.serious(page)
    page.get_by_role("button", name="Paste text").click()
    found["paste"] = flows.serious(page)
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(("dark", "size"), [LOOKS[0], LOOKS[3]])
def test_pages_of_the_administration(site: Site, tab: Tabs, dark: bool, size: tuple[int, int]) -> None:
    page = tab(dark=dark, size=size).page
    flows.sign_in(page, "admin", PASSWORD)
    pool_id = site.read(lambda tx: tx.scalar(sa.select(Pool.id).where(Pool.name == "Desktops")))
    paths = ["/admin/", *(f"/admin/{plural}" for plural in THINGS), f"/admin/pools/{pool_id}", "/admin/do/pool.create",
             f"/admin/pools/{pool_id}/entitle", "/admin/do/permission.grant", "/admin/do/user.create", "/admin/do/directory.add",
             "/admin/do/host.create"]
    found = {}
    for path in paths:
        page.goto(path)
        found[path] = flows.serious(page)
    page.goto("/admin/pools?search=name = Design")
    page.get_by_label("Actions for Design").click()
    found["menu"] = flows.serious(page)
    page.get_by_role("button", name="Remove").click()
    found["dialog"] = flows.serious(page)
    assert {path: what for path, what in found.items() if what} == {}
