"""A furnished site for all browser tests, and tabs that must not complain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from sim.postgres import Cluster
from tests.e2e.demo import furnish
from tests.e2e.flows import Tab, chromium
from tests.e2e.site import Site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Site]:
    if not (Path(__file__).parents[2] / "static" / "vendor" / "icons.svg").exists():
        pytest.fail("The front-end files are not in place: npm ci, then python -m standalone.frontend.")
    made = Site(tmp_path_factory.mktemp("site"), cluster)
    try:
        made.start()
        furnish(made)
        yield made
    finally:
        made.stop()


@pytest.fixture
def tab(browser: Browser, site: Site) -> Iterator[Callable[..., Tab]]:
    """Opens tabs, each in a browser of its own; what their consoles complained about fails the test."""
    opened: list[Tab] = []

    def open_tab(**how: object) -> Tab:
        opened.append(Tab(browser, site.url, **how))  # type: ignore[arg-type]
        return opened[-1]

    yield open_tab
    complaints = [complaint for each in opened for complaint in each.complaints]
    for each in opened:
        each.close()
    assert complaints == [], "\n".join(complaints)
