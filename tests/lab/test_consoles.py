"""Consoles that are open in a real browser while their VM moves to another host: the picture comes back, and keys arrive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.e2e import flows
from tests.e2e.flows import Tab, chromium
from tests.e2e.native import share_of_blue
from tests.lab.hosts import until
from tests.lab.place import ADMIN, PASSWORD, Place

pytestmark = [pytest.mark.lab, pytest.mark.network, pytest.mark.timeout(900)]
LONG = pytest.mark.skipif(not os.environ.get("LAB_LONG"), reason="make lab-test")
# notes in the page itself when the screen was there and when it was not
NOTES = """() => {
    const root = document.getElementById("console"), notes = window.notes = [];
    const note = () => notes.push([root.dataset.view, performance.now()]);
    new MutationObserver(note).observe(root, { attributeFilter: ["data-view"] });
}"""


@pytest.fixture
def page(place: Place) -> Iterator[Page]:
    """The administrator's page, signed in."""
    with chromium() as browser:
        tab = Tab(browser, place.url)
        flows.sign_in(tab.page, ADMIN, PASSWORD)
        yield tab.page
        tab.close()


@pytest.fixture
def vm(place: Place) -> Iterator[dict[str, Any]]:
    """A VM that is up, and the administrator's own desktop."""
    made = place.vm("seen")
    (user,) = place.rest("GET", f"/users?search=name%20%3D%20{ADMIN}")["items"]
    place.act("/permissions", {"role": "user", "object_type": "vm", "object_id": made["id"], "user_id": user["id"]})
    yield made
    place.act(f"/vms/{made['id']}/stop")
    place.act(f"/vms/{made['id']}/remove")


def shows_the_guest(page: Page, folder: Path) -> bool:
    """Whether the console shows the guest's own screen; what happens in the page goes on meanwhile."""
    page.wait_for_timeout(100)
    page.locator("#screen canvas").screenshot(path=folder / "screen.png")
    return share_of_blue(Image.open(folder / "screen.png").convert("RGB")) > 0.1


def type_into(page: Page, place: Place, vm: str, word: str) -> None:
    """Type a command into the console and wait until the guest's shell has run it, on whichever host."""
    host = place[place.row("vms", vm)["host"]]
    page.locator("#screen canvas").click()
    page.keyboard.type(f"echo {word} ", delay=40)
    page.keyboard.press("Shift+Period", delay=40)
    page.keyboard.type(f"/tmp/{word}\n", delay=40)
    until(lambda: host.sh(vm, f"cat /tmp/{word} 2>/dev/null") == word, f"the shell ran what was typed: {word}")


def away(page: Page) -> str:
    """How long the page was without a screen, in words."""
    notes = page.evaluate("() => window.notes")
    gone = [at for view, at in notes if view != "screen"]
    return f"{(notes[-1][1] - gone[0]) / 1000:.1f} s without a picture" if gone else "never without a picture"


@pytest.mark.parametrize("protocol", ["vnc", pytest.param("spice", marks=LONG)])
def test_an_open_console_follows_its_vm(place: Place, page: Page, vm: dict[str, Any], protocol: str, tmp_path: Path) -> None:
    name, words = "seen", {"vnc": "Connected", "spice": "Connected with SPICE"}[protocol]
    page.goto(f"/desktops/{vm['id']}?protocol={protocol}")
    flows.picture(page)
    expect(page.locator("#status")).to_have_text(words)
    until(lambda: shows_the_guest(page, tmp_path), "the guest's screen in the browser")
    type_into(page, place, name, "before")

    page.evaluate(NOTES)
    moving = place.ask(f"/vms/{vm['id']}/migrate")
    until(lambda: page.wait_for_timeout(100) or place.rest("GET", f"/tasks/{moving}")["state"] not in ("queued", "running"),
          f"the migration is over. {place.words()}", 300)  # fmt: skip
    assert place.rest("GET", f"/tasks/{moving}")["state"] == "succeeded", place.words()
    there = place.row("vms", name)["host"]
    assert there != vm["host"] and place[vm["host"]].vms() == set()

    # by itself: nobody presses anything
    until(lambda: page.wait_for_timeout(100) or page.evaluate("() => window.notes.at(-1)?.[0]") == "screen", "it is shown again")
    expect(page.locator("#status")).to_have_text(words, timeout=flows.SLOW_MS)
    until(lambda: shows_the_guest(page, tmp_path), "the guest's screen again")
    type_into(page, place, name, "after")
    assert place[there].sh(name, "cat /tmp/before") == "before"
    print(f"\n{protocol} console over a live migration: {away(page)}")
