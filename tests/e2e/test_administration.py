"""Administrators in a browser: pools from creation to removal, pages that move by themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from backend.directory.models import User
from backend.tasks.command import SYSTEM
from backend.tasks.submit import submit
from backend.vms.commands.power import StartVm
from backend.vms.models import Template
from pools.models import Lease, Pool
from tests.e2e import flows
from tests.e2e.flows import SLOW_MS, Tab
from tests.e2e.site import PASSWORD, Site

pytestmark = pytest.mark.e2e
Tabs = Callable[..., Tab]


def test_a_pool_from_creation_to_removal(site: Site, tab: Tabs) -> None:
    admin, erin = tab().page, tab().page
    template = site.read(lambda tx: tx.scalars(sa.select(Template).order_by(Template.name)).first())
    site.add_user("erin")
    flows.sign_in(admin, "admin", PASSWORD)
    flows.create_pool(admin, "Labs", f"{template.name} {template.version}", size=1)
    flows.entitle(admin, "erin")
    flows.sign_in(erin, "erin", PASSWORD)
    flows.connect(erin, "Labs")
    admin.goto("/admin/pools?search=name = Labs")
    admin.get_by_role("link", name="Labs").click()
    expect(admin.locator("#part-members")).to_contain_text("Leased", timeout=SLOW_MS)
    expect(admin.locator("#part-leases")).to_contain_text("erin")
    flows.take_back(admin, "erin", "The lab closes.")
    expect(erin.locator("#wait h1")).to_be_visible(timeout=SLOW_MS)
    holds = sa.select(Lease.id).join(User, User.id == Lease.user_id).where(User.name == "erin", Lease.state != "ended")
    site.until(lambda tx: not tx.scalars(holds).all(), "it is back")
    admin.goto("/admin/pools?search=name = Labs")
    admin.get_by_label("Actions for Labs").click()
    admin.get_by_role("button", name="Remove").click()
    admin.get_by_role("dialog").get_by_role("button", name="Remove").click()
    site.until(lambda tx: not tx.scalars(sa.select(Pool.id).where(Pool.name == "Labs")).all(), "the pool is gone")


def test_a_form_keeps_what_was_filled_in(tab: Tabs) -> None:
    opened = tab()
    page = opened.page
    flows.sign_in(page, "admin", PASSWORD)
    page.goto("/admin/do/pool.create")
    page.get_by_label("Name").fill("Desktops")
    page.get_by_label("Description").fill("A second one of that name")
    page.get_by_label("Template").select_option(index=1)
    page.get_by_label("Most desktops").fill("5")
    page.get_by_role("button", name="Create pool").click()
    expect(page.get_by_text("There is already a pool named Desktops")).to_be_visible()
    expect(page.get_by_label("Description")).to_have_value("A second one of that name")
    assert all("422" in complaint for complaint in opened.complaints)
    opened.complaints.clear()


def test_rows_and_steps_move_by_themselves(site: Site, tab: Tabs) -> None:
    page = tab().page
    flows.sign_in(page, "admin", PASSWORD)
    name = "rows-that-move"
    vm_id = site.add_vm(name, site.add_user("owner-of-rows"))
    page.goto(f"/admin/vms?search=name = {name}")
    row = page.get_by_role("row", name=name)
    expect(row).to_contain_text("Off")
    with site.sessions.begin() as tx:
        task_id = submit(tx, StartVm(vm_id), SYSTEM, site.clock.now()).id
    expect(row).to_contain_text("Running", timeout=SLOW_MS)
    page.goto(f"/admin/tasks/{task_id}")
    expect(page.locator("#steps")).to_contain_text("Launch")
    expect(page.locator("#head")).to_contain_text("Done", timeout=SLOW_MS)


def test_rows_stay_chosen_while_they_move_and_one_button_is_pressed_for_all(site: Site, tab: Tabs) -> None:
    opened = tab()
    page = opened.page
    flows.sign_in(page, "admin", PASSWORD)
    owner = site.add_user("owner-of-many")
    ids = [site.add_vm(f"many-{n}", owner) for n in range(2)]
    page.goto("/admin/vms?search=name like many-*")
    bar = page.get_by_role("region", name="What can be done to the chosen rows")
    expect(bar).to_be_hidden()
    page.get_by_label("Choose all rows of this page").check()
    expect(bar).to_contain_text("2 chosen")
    with site.sessions.begin() as tx:
        submit(tx, StartVm(ids[0]), SYSTEM, site.clock.now())
    expect(page.get_by_role("row", name="many-0")).to_contain_text("Running", timeout=SLOW_MS)
    expect(page.get_by_label("Choose many-0")).to_be_checked()
    expect(bar.get_by_role("button", name="Start 1 of 2")).to_be_visible()
    assert flows.serious(page) == []
    bar.get_by_role("button", name="Start 1 of 2").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("Start: many-1")
    question.get_by_role("button", name="Start").click()
    expect(page.get_by_text("Start: begun for many-1.")).to_be_visible()
    expect(page.get_by_role("row", name="many-1")).to_contain_text("Running", timeout=SLOW_MS)


def test_search_completes_what_is_typed(tab: Tabs) -> None:
    page = tab().page
    flows.sign_in(page, "admin", PASSWORD)
    page.goto("/admin/vms")
    page.get_by_label("Search virtual machines").press_sequentially("state = po")
    expect(page.locator("#completions option").first).to_have_attribute("value", "state = powering_down", timeout=SLOW_MS)
    page.get_by_label("Search virtual machines").fill("state = up")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Clear")).to_be_visible()


def test_a_menu_and_a_dialog_with_the_keyboard(tab: Tabs) -> None:
    page = tab().page
    flows.sign_in(page, "admin", PASSWORD)
    page.goto("/admin/pools?search=name = Design")
    toggle = page.get_by_label("Actions for Design")
    toggle.focus()
    page.keyboard.press("Enter")
    for _ in ("Edit", "New version", "Pause", "Remove"):
        page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name="Remove")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    toggle.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(toggle).to_be_focused()


def test_the_new_hosts_command_can_be_copied(tab: Tabs) -> None:
    opened = tab()
    page = opened.page
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    flows.sign_in(page, "admin", PASSWORD)
    page.goto("/admin/do/host.create")
    page.get_by_label("Name").fill("delta")
    page.get_by_role("button", name="Show the command").click()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert "leasehold-agent enroll --manager" in page.evaluate("navigator.clipboard.readText()")
