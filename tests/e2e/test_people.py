"""People in a browser: sign-in, desktops, progress, console, and back."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from backend.directory.models import User
from pools.models import Lease, Pool
from tests.broker.processes import wait_until
from tests.e2e import flows
from tests.e2e.flows import PHONE, SLOW_MS, Tab
from tests.e2e.site import PASSWORD, Site

pytestmark = pytest.mark.e2e
Tabs = Callable[..., Tab]


def give_everything_back(site: Site, name: str) -> None:
    """Wait until this person holds nothing any more, after giving back what they hold."""
    from broker.holding import give_back

    with site.sessions.begin() as tx:
        user_id = tx.scalar(sa.select(User.id).where(User.name == name))
        assert user_id is not None
        live = sa.select(Lease.id).where(Lease.user_id == user_id, Lease.state.not_in(("ended", "returning")))
        for lease_id in tx.scalars(live).all():
            give_back(tx, user_id=user_id, lease_id=lease_id, now=site.clock.now())
    site.until(
        lambda tx: not tx.scalars(sa.select(Lease.id).where(Lease.user_id == user_id, Lease.state != "ended")).all(),
        "all is back",
    )


def leases_of(site: Site, name: str) -> int:
    return int(
        site.read(
            lambda tx: tx.scalar(
                sa.select(sa.func.count()).select_from(Lease).join(User, User.id == Lease.user_id).where(User.name == name)
            )
        )
    )


def test_sign_in_wrong_then_right(site: Site, tab: Tabs) -> None:
    opened = tab()
    page = opened.page
    flows.sign_in(page, "dave", "wrong")
    expect(page.get_by_role("alert")).to_contain_text("password")
    expect(page.get_by_label("User name")).to_have_value("dave")
    assert opened.complaints == ["error: Failed to load resource: the server responded with a status of 401 (UNAUTHORIZED)"]
    opened.complaints.clear()
    flows.sign_in(page, "dave", PASSWORD)
    expect(page.get_by_role("heading", name="No desktop has been given to you yet")).to_be_visible()


def test_sign_in_works_without_script(browser, site: Site) -> None:  # type: ignore[no-untyped-def]
    context = browser.new_context(ignore_https_errors=True, java_script_enabled=False, base_url=site.url)
    page = context.new_page()
    flows.sign_in(page, "dave", PASSWORD)
    expect(page.get_by_role("heading", name="My desktops")).to_be_visible()
    context.close()


@pytest.mark.parametrize("size", [flows.DESKTOP, PHONE])
def test_from_card_to_picture_and_back(site: Site, tab: Tabs, size: tuple[int, int]) -> None:
    give_everything_back(site, "alice")
    page = tab(size=size).page
    flows.sign_in(page, "alice", PASSWORD)
    flows.card(page, "Desktops").get_by_role("button", name="Connect").click()
    flows.picture(page)
    name = site.until(lambda tx: _desktop(tx, "alice"), "alice has a desktop")
    display = site.display_of(name)
    page.keyboard.type("ls")
    flows.paste(page, 'Echo $((6*7)) "done"!\n')
    wait_until(lambda: display.text.endswith('Echo $((6*7)) "done"!\n'), f"the desktop was typed into: {display.text!r}", 60)
    assert display.text.startswith("ls")
    page.reload()
    flows.picture(page)
    flows.leave(page)
    expect(flows.card(page, "Desktops")).to_contain_text("Running")
    expect(flows.card(page, "Desktops")).to_contain_text(re.compile(r"\d+ min left"))
    flows.card(page, "Desktops").scroll_into_view_if_needed()
    expect(page.get_by_alt_text("Screen of Desktops")).to_be_visible(timeout=SLOW_MS)
    page.go_back()
    page.wait_for_load_state()
    assert leases_of(site, "alice") >= 1


def _desktop(tx, user: str):  # type: ignore[no-untyped-def]
    from backend.vms.models import Vm

    return tx.scalar(
        sa.select(Vm.name)
        .join(Lease, Lease.vm_id == Vm.id)
        .join(User, User.id == Lease.user_id)
        .where(User.name == user, Lease.state == "active")
    )


def test_progress_of_a_desktop_that_must_start(site: Site, tab: Tabs) -> None:
    site.add_vm("slow-starter", site.add_user("frank"))
    page = tab().page
    flows.sign_in(page, "frank", PASSWORD)
    flows.card(page, "slow-starter").get_by_role("button", name="Start and connect").click()
    expect(page.get_by_text("Your desktop is starting").or_(page.locator("#screen canvas")).first).to_be_visible()
    flows.picture(page)
    flows.leave(page)


def test_the_queue_moves_by_itself(site: Site, tab: Tabs) -> None:
    give_everything_back(site, "alice")
    holder, waiter = tab().page, tab().page
    flows.sign_in(holder, "carol", PASSWORD)
    flows.connect(holder, "Design")
    flows.sign_in(waiter, "alice", PASSWORD)
    flows.card(waiter, "Design").get_by_role("button", name="Connect").click()
    expect(waiter.get_by_role("heading", name="You wait for a desktop")).to_be_visible()
    expect(waiter.locator("#wait")).to_contain_text("Your place in the queue")
    holder.get_by_label("More").click()
    holder.get_by_role("button", name="Give back").click()
    holder.get_by_role("dialog").get_by_role("button", name="Give back").click()
    expect(holder.get_by_role("status")).to_contain_text("is given back")
    flows.picture(waiter)
    flows.leave(waiter)
    give_everything_back(site, "alice")


def test_back_and_reload_take_no_desktop(site: Site, tab: Tabs) -> None:
    give_everything_back(site, "carol")
    page = tab().page
    flows.sign_in(page, "carol", PASSWORD)
    flows.connect(page, "Design")
    address = page.url
    give_everything_back(site, "carol")
    before = leases_of(site, "carol")
    expect(page.locator("#wait h1")).to_be_visible(timeout=SLOW_MS)
    page.goto(address)
    expect(page.get_by_role("heading", name="You have no desktop here now")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Connect")).to_be_visible()
    assert leases_of(site, "carol") == before


def test_auto_launch_happens_once_and_never_loops(site: Site, tab: Tabs) -> None:
    give_everything_back(site, "bob")
    page = tab().page
    flows.sign_in(page, "bob", PASSWORD)
    assert "/desktops/" in page.url
    flows.picture(page)
    page.reload()
    flows.picture(page)
    before = leases_of(site, "bob")
    page.go_back()
    expect(page.get_by_role("heading", name="My desktops")).to_be_visible()
    page.go_forward()
    flows.picture(page)
    flows.leave(page)
    page.reload()
    expect(page.get_by_role("heading", name="My desktops")).to_be_visible()
    page.goto("/sign-in")
    expect(page.get_by_role("heading", name="My desktops")).to_be_visible()
    assert leases_of(site, "bob") == before
    give_everything_back(site, "bob")


def test_a_broken_connection_comes_back_by_itself(site: Site, tab: Tabs) -> None:
    page = tab().page
    flows.sign_in(page, "alice", PASSWORD)
    flows.connect(page, "alice-build")
    site.display_of("alice-build").hang_up()
    expect(page.locator("#console")).not_to_have_attribute("data-view", "screen")
    flows.picture(page)


def test_who_is_closed_out_is_told_why(site: Site, tab: Tabs) -> None:
    give_everything_back(site, "carol")
    page, admin = tab().page, tab().page
    flows.sign_in(page, "carol", PASSWORD)
    flows.connect(page, "Design")
    flows.sign_in(admin, "admin", PASSWORD)
    flows.take_back(admin, "carol", "The room is needed for a lesson.")
    expect(page.locator("#wait")).to_contain_text(re.compile("room is needed|lease on this desktop is over"), timeout=SLOW_MS)
    expect(page.get_by_role("link", name="My desktops")).to_be_visible()


def test_with_the_keyboard_alone(site: Site, tab: Tabs) -> None:
    give_everything_back(site, "alice")
    page = tab().page
    page.goto("/sign-in")
    page.keyboard.type("alice")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Tab")
    page.keyboard.type("Int")
    page.keyboard.press("Enter") if page.get_by_label("Directory").count() == 0 else page.get_by_role(
        "button", name="Sign in"
    ).focus()
    if page.url.endswith("/sign-in"):
        page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="My desktops")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('article')?.querySelector('h2')?.textContent") == "Desktops":
            break
    page.keyboard.press("Enter")
    flows.picture(page)
    page.keyboard.press("Control+Alt+Shift")
    expect(page.get_by_role("button", name="Leave")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="My desktops")).to_be_visible()


def test_cards_change_by_themselves(site: Site, tab: Tabs) -> None:
    page = tab().page
    flows.sign_in(page, "dave", PASSWORD)
    expect(page.get_by_role("heading", name="No desktop has been given to you yet")).to_be_visible()
    from backend.directory.commands import GrantRole, TakeRole
    from backend.directory.models import Permission
    from backend.tasks.command import SYSTEM
    from backend.tasks.submit import submit

    with site.sessions.begin() as tx:
        pool_id = tx.scalar(sa.select(Pool.id).where(Pool.name == "Desktops"))
        dave = tx.scalar(sa.select(User.id).where(User.name == "dave"))
        submit(tx, GrantRole("user", "pool", pool_id, dave), SYSTEM, site.clock.now())
    expect(flows.card(page, "Desktops")).to_be_visible(timeout=SLOW_MS)
    with site.sessions.begin() as tx:
        given = tx.scalars(sa.select(Permission.id).where(Permission.user_id == dave)).one()
        submit(tx, TakeRole(given), SYSTEM, site.clock.now())
    expect(flows.card(page, "Desktops")).to_have_count(0, timeout=SLOW_MS)


def test_a_question_stays_open_while_cards_change(site: Site, tab: Tabs) -> None:
    give_everything_back(site, "alice")
    page = tab().page
    flows.sign_in(page, "alice", PASSWORD)
    flows.connect(page, "Desktops")
    flows.leave(page)
    card = flows.card(page, "Desktops")
    card.get_by_label("More for Desktops").click()
    card.get_by_role("button", name="Give back …").click()
    question = page.get_by_role("dialog", name="Give back Desktops?")
    expect(question).to_be_visible()
    site.add_vm("a-new-one", site.read(lambda tx: tx.scalar(sa.select(User.id).where(User.name == "alice"))))
    expect(flows.card(page, "a-new-one")).to_be_visible(timeout=SLOW_MS)
    expect(question).to_be_visible()
    question.get_by_role("button", name="Give back").click()
    expect(page.get_by_text("given back").first).to_be_visible(timeout=SLOW_MS)


def test_the_viewer_file_is_downloaded(site: Site, tab: Tabs) -> None:
    page = tab().page
    flows.sign_in(page, "alice", PASSWORD)
    flows.connect(page, "alice-build")
    flows.leave(page)
    flows.card(page, "alice-build").get_by_label("More for alice-build").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Open in remote-viewer").click()
    assert download.value.suggested_filename == "desktop.vv"
    assert "[virt-viewer]" in download.value.path().read_text()


def test_the_theme_is_the_systems_unless_chosen(tab: Tabs) -> None:
    page = tab(dark=True).page
    flows.sign_in(page, "dave", PASSWORD)
    expect(page.locator("html")).to_have_class(re.compile("pf-v6-theme-dark"))
    page.locator("#account summary").click()
    page.get_by_role("radio", name="Light").check(force=True)
    expect(page.locator("html")).not_to_have_class(re.compile("pf-v6-theme-dark"))
    page.reload()
    expect(page.locator("html")).not_to_have_class(re.compile("pf-v6-theme-dark"))


def test_sign_out_ends_other_tabs_too(site: Site, tab: Tabs) -> None:
    opened = tab()
    first = opened.page
    flows.sign_in(first, "dave", PASSWORD)
    second = opened.context.new_page()
    second.goto("/")
    first.locator("#account summary").click()
    first.get_by_role("button", name="Sign out").click()
    expect(first.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(second.get_by_role("heading", name="Sign in")).to_be_visible(timeout=SLOW_MS)
