"""What people do in a browser, as functions: for any running portal, simulated or real."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
DESKTOP, PHONE = (1440, 900), (390, 844)
SLOW_MS = int(os.environ.get("E2E_PATIENCE_S", "90")) * 1000  # on busy cores a page may take long; nothing is measured by it


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        yield browser
        browser.close()


class Tab:
    """A page in a browser of its own, and everything its console complained about."""

    def __init__(self, browser: Browser, url: str, *, dark: bool = False, size: tuple[int, int] = DESKTOP) -> None:
        phone = size[0] < 600
        self.context = browser.new_context(
            ignore_https_errors=True,
            color_scheme="dark" if dark else "light",
            viewport={"width": size[0], "height": size[1]},
            has_touch=phone,
            is_mobile=phone,
            base_url=url,
            accept_downloads=True,
        )
        self.context.set_default_timeout(SLOW_MS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on(
            "console", lambda m: self.complaints.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))

    def close(self) -> None:
        self.context.close()


def sign_in(page: Page, name: str, password: str) -> None:
    """Fill in the sign-in page and send it."""
    page.goto("/sign-in")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    if page.get_by_label("Directory").count() and "@" not in name:
        page.get_by_label("Directory").select_option("internal")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_load_state()


def card(page: Page, name: str) -> Locator:
    """The card of a desktop."""
    return page.get_by_role("article", name=name, exact=True)


def connect(page: Page, name: str) -> None:
    """Click Connect on the card and wait for the picture."""
    card(page, name).get_by_role("button", name=re.compile("onnect|Show progress")).click()
    picture(page)


def picture(page: Page) -> None:
    """Wait until the console shows the desktop's screen."""
    expect(page.locator("#console")).to_have_attribute("data-view", "screen", timeout=SLOW_MS)
    expect(page.locator("#screen canvas")).to_be_visible(timeout=SLOW_MS)


def show_with_spice(page: Page) -> None:
    """In the console's bar: have the screen shown with SPICE."""
    page.get_by_label("More", exact=True).click()
    page.get_by_role("button", name="Show with SPICE").click()
    expect(page.locator("#status")).to_have_text("Connected with SPICE", timeout=SLOW_MS)
    picture(page)


def paste(page: Page, text: str) -> None:
    """Have a text typed into the desktop."""
    page.get_by_role("button", name="Paste text").click()
    page.locator("#paste-text").fill(text)
    page.get_by_role("button", name="Type it").click()
    expect(page.locator("#status")).to_contain_text("Typed", timeout=SLOW_MS)


def leave(page: Page) -> None:
    """Leave the console; the desktop goes on running."""
    page.get_by_role("button", name="Leave").click()
    expect(page.get_by_role("heading", name="My desktops")).to_be_visible()


def create_pool(page: Page, name: str, template: str, size: int, spares: int = 0) -> None:
    """As an administrator: a new pool, from its form."""
    page.goto("/admin/pools")
    page.get_by_role("link", name="Create pool").first.click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Template").select_option(label=template)
    page.get_by_label("Most desktops").fill(str(size))
    page.get_by_label("Spares", exact=True).fill(str(spares))
    page.get_by_role("button", name="Create pool").click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()


def entitle(page: Page, who: str) -> None:
    """On a pool's page: find somebody in the first directory that knows them, and entitle them."""
    page.get_by_role("link", name="Entitle people").click()
    if page.get_by_label("Directory").count():
        page.get_by_label("Directory").select_option(label="Internal users")
    page.get_by_label("Person or group").press_sequentially(who)
    page.get_by_role("radio", name=re.compile(who, re.I)).first.check()
    page.get_by_role("button", name="Entitle").click()
    expect(page.locator("#entitled")).to_contain_text(who)


def take_back(page: Page, person: str, message: str) -> None:
    """On the leases' page: take somebody's desktop back."""
    page.goto(f"/admin/leases?search=user = {person} and state != ended")
    page.get_by_label(f"Actions for {person}").click()
    page.get_by_role("button", name="Take back").click()
    page.get_by_label("Message for the person").fill(message)
    page.get_by_role("dialog").get_by_role("button", name="Take back").click()
    expect(page.get_by_text("begun.").or_(page.get_by_text("done.")).first).to_be_visible()


def serious(page: Page) -> list[str]:
    """What axe finds serious or worse on the page as it is."""
    found = (
        Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).response
    )
    return [f"{v['id']}: {v['help']}: {_where(v)}" for v in found["violations"] if v["impact"] in ("serious", "critical")]


def _where(violation: Any) -> str:
    return "; ".join(node["html"][:160] + " " + node.get("failureSummary", "")[:200] for node in violation["nodes"][:3])
