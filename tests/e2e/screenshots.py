"""Makes docs/screenshots anew from a simulated site: `python -m tests.e2e.screenshots`; with a folder, all pages in all looks."""

from __future__ import annotations

import io
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from PIL import Image
from playwright.sync_api import Browser, Page

from backend.clusters.models import Cluster
from backend.devices.commands import CreateDevice
from backend.devices.models import Device
from backend.devices.rules import digest, new_code, read_code
from backend.hosts.models import Host
from backend.placement.models import AffinityGroup
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.models import Vm
from pools.models import Decision, Lease, Pool
from portal.things import BY_KIND
from sim.postgres import Cluster as Postgres
from tests.e2e import flows
from tests.e2e.demo import furnish
from tests.e2e.flows import DESKTOP, PHONE, Tab, chromium
from tests.e2e.site import PASSWORD, Site

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
SHOWN = {  # what the documentation has, by look
    "light-wide": {
        "sign-in", "desktops", "queue", "console", "account", "dashboard", "map", "pools", "pool", "pool-new", "entitle",
        "leases",
        "lease-take-back", "decision", "hosts", "vms", "vm", "task", "events", "bookings", "booking-new", "pool-calendar",
        "calendar-new", "warning", "kiosk", "why", "devices", "host", "cluster", "vm-migrate", "affinitygroup-new",
    },
    "dark-wide": {"sign-in", "desktops", "dashboard", "pool"},
    "light-phone": {"sign-in", "desktops", "console", "pool", "bookings", "pool-calendar", "kiosk"},
    "dark-phone": {"desktops", "queue", "warning"},
}  # fmt: skip


class Album:
    """Takes the pictures of one look: light or dark, wide or narrow."""

    def __init__(self, browser: Browser, site: Site, folder: Path, *, dark: bool, size: tuple[int, int]) -> None:
        self.browser, self.site, self.folder, self.dark, self.size = browser, site, folder, dark, size
        self.look = f"{'dark' if dark else 'light'}-{'wide' if size == DESKTOP else 'phone'}"

    def tab(self) -> Tab:
        return Tab(self.browser, self.site.url, dark=self.dark, size=self.size)

    def take(self, page: Page, name: str, path: str = "") -> None:
        """A picture of the page, once it has come to rest."""
        if path:
            page.goto(path)
        page.wait_for_timeout(700)
        if self.folder == FOLDER and name not in SHOWN[self.look]:
            return
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.save(self.folder / f"{name}-{self.look}.png", optimize=True)

    def people(self) -> None:
        """The pages of a person who holds one desktop and waits for another."""
        opened = self.tab()
        page = opened.page
        self.take(page, "sign-in", "/sign-in")
        flows.sign_in(page, "alice", PASSWORD)
        page.wait_for_timeout(4000)  # the pictures of the screens
        self.take(page, "desktops")
        flows.card(page, "Desktops").get_by_label("More for").click()
        self.take(page, "desktops-menu")
        page.keyboard.press("Escape")
        flows.card(page, "Design").get_by_role("button", name="onnect").or_(
            flows.card(page, "Design").get_by_role("button", name="Show progress")
        ).first.click()
        self.take(page, "queue")
        page.goto("/")
        flows.connect(page, "Desktops")
        self.take(page, "console")
        page.get_by_role("button", name="Paste text").click()
        self.take(page, "console-paste")
        lease = self.site.read(lambda tx: tx.scalar(sa.select(Lease.id).join(Pool, Pool.id == Lease.pool_id).where(
            Pool.name == "Desktops", Lease.state.in_(("active", "expiring")))))  # fmt: skip
        self.take(page, "why", f"/leases/{lease}/why")
        self.ends_soon(True)
        self.take(page, "warning", "/")
        self.ends_soon(False)
        self.take(page, "bookings", "/bookings")
        page.get_by_role("link", name="Book desktops", exact=True).click()
        self.take(page, "booking-new")
        pool = self.site.read(lambda tx: tx.scalar(sa.select(Pool.id).where(Pool.name == "Desktops")))
        self.take(page, "pool-calendar", f"/pools/{pool}/calendar")
        self.take(page, "account", "/account")
        page.goto("/")
        page.locator("#account summary").click()
        self.take(page, "account-menu")
        opened.close()
        opened = self.tab()
        flows.sign_in(opened.page, "dave", PASSWORD)
        self.take(opened.page, "no-desktops")
        opened.close()
        opened = self.tab()
        self.take(opened.page, "kiosk-enroll", "/kiosk")
        opened.page.get_by_label("Code").fill(new_device(self.site))
        opened.page.keyboard.press("Enter")
        opened.page.get_by_role("heading", name="Welcome").wait_for()
        self.take(opened.page, "kiosk")
        opened.close()

    def ends_soon(self, soon: bool) -> None:
        """Alice's lease of a desktop is about to end, or has its time again."""
        now = self.site.clock.now()
        with self.site.sessions.begin() as tx:
            lease = tx.scalars(sa.select(Lease).join(Pool, Pool.id == Lease.pool_id).where(
                Pool.name == "Desktops", Lease.state.in_(("active", "expiring")))).one()
            lease.ends_at = now + timedelta(minutes=4 if soon else 50)
        self.site.until(lambda tx: tx.get_one(Lease, lease.id).state == "expiring", "alice is warned")

    def administration(self) -> None:
        """The pages of an administrator."""
        opened = self.tab()
        page = opened.page
        flows.sign_in(page, "admin", PASSWORD)

        def id_of(row: type, *where: object) -> object:
            return self.site.read(lambda tx: tx.scalar(sa.select(row.id).where(*where)))  # type: ignore[attr-defined]

        pool = id_of(Pool, Pool.name == "Desktops")
        self.take(page, "dashboard", "/admin/")
        self.take(page, "map", "/admin/map")
        for plural in (
            "pools",
            "leases",
            "vms",
            "hosts",
            "templates",
            "storagedomains",
            "users",
            "permissions",
            "directories",
            "tasks",
            "events",
            "consoles",
            "sessions",
            "calendars",
            "devices",
            "accessrules",
            "bookings",
            "rollouts",
            "disks",
            "clusters",
            "datacenters",
            "customactions",
            "affinitygroups",
            "affinitylabels",
            "schedulingpolicies",
        ):
            self.take(page, f"admin-{plural}" if plural == "bookings" else plural, f"/admin/{plural}")
        self.take(page, "pool", f"/admin/pools/{pool}")
        self.take(page, "pool-new", "/admin/do/pool.create")
        self.take(page, "pool-edit", f"/admin/do/pool.edit?pool_id={pool}")
        page.goto(f"/admin/pools/{pool}/entitle")
        if page.get_by_label("Directory").count():
            page.get_by_label("Directory").select_option(label="Internal users")
        page.get_by_label("Person or group").press_sequentially("da")
        self.take(page, "entitle")
        self.take(page, "lease", f"/admin/leases/{id_of(Lease, Lease.state == 'active')}")
        self.take(page, "calendar-new", "/admin/do/calendar.create")
        self.take(page, "decision", f"/admin/decisions/{id_of(Decision, Decision.outcome == 'given')}")
        self.take(page, "task", f"/admin/tasks/{id_of(Task, Task.command == 'vm.start')}")
        vm = self.site.read(lambda tx: tx.scalar(sa.select(Lease.vm_id).where(Lease.state == "active")))
        page.goto(f"/admin/vms/{vm}")
        page.wait_for_timeout(3000)
        self.take(page, "vm")
        self.take(page, "host-new", "/admin/do/host.create")
        self.take(page, "user-new", "/admin/do/user.create")
        self.take(page, "directory-new", "/admin/do/directory.add")
        self.places(page)
        page.goto("/admin/leases?search=state = active")
        page.get_by_label("Actions for").first.click()
        self.take(page, "lease-menu")
        page.get_by_role("button", name="Take back").click()
        self.take(page, "lease-take-back")
        page.keyboard.press("Escape")
        page.goto("/admin/pools?search=colour = red")
        self.take(page, "search-wrong")
        opened.close()

    def places(self, page: Page) -> None:
        """The pages of hosts, clusters and placement."""

        def id_of(row: type) -> object:
            return self.site.read(lambda tx: tx.scalar(sa.select(row.id).order_by(row.name)))  # type: ignore[attr-defined]

        host, cluster = id_of(Host), id_of(Cluster)
        vm = self.site.read(lambda tx: tx.scalar(sa.select(Vm.id).where(Vm.state == "up")))
        self.take(page, "host", f"/admin/hosts/{host}")
        self.take(page, "cluster", f"/admin/clusters/{cluster}")
        self.take(page, "affinitygroup", f"/admin/affinitygroups/{id_of(AffinityGroup)}")
        for name, command, about in (
            ("host-edit", "host.edit", f"host_id={host}"), ("poweragent-new", "host.add_power_agent", f"host_id={host}"),
            ("cluster-edit", "cluster.edit", f"cluster_id={cluster}"), ("vm-new", "vm.create", ""),
            ("vm-edit", "vm.edit", f"vm_id={vm}"), ("vm-migrate", "vm.migrate", f"vm_id={vm}"),
            ("vm-run-once", "vm.run_once", f"vm_id={vm}"), ("affinitygroup-new", "affinitygroup.create", ""),
            ("policy-new", "schedulingpolicy.create", ""), ("action-new", "customaction.create", ""),
            ("storagedomain-new", "storagedomain.create", ""),
        ):  # fmt: skip
            self.take(page, name, f"/admin/do/{command}?{about}")
        for button in BY_KIND["cluster"].buttons:
            if button.form:
                self.take(page, button.command, f"/admin/do/{button.command}?cluster_id={cluster}")


def new_device(site: Site) -> str:
    """The code of a thin client that leads to the pool Desktops."""
    code = new_code()
    with site.sessions.begin() as tx:
        pool_id = tx.scalar(sa.select(Pool.id).where(Pool.name == "Desktops"))
        count = tx.scalar(sa.select(sa.func.count()).select_from(Device)) or 0
        submit(tx, CreateDevice(f"Library {count + 1}", digest(read_code(code)).hex(), pool_id=pool_id), SYSTEM, site.clock.now())
    return code


def prepare(browser: Browser, site: Site) -> None:
    """Carol holds the only workstation, Alice a desktop and a place in the queue; somebody mistyped a password."""
    for name, desktop in (("carol", "Design"), ("alice", "Desktops"), ("alice", "alice-build")):
        opened = Tab(browser, site.url)
        flows.sign_in(opened.page, name, PASSWORD)
        flows.connect(opened.page, desktop)
        flows.leave(opened.page)
        opened.close()
    opened = Tab(browser, site.url)
    flows.sign_in(opened.page, "bob", "a wrong password")
    opened.close()


def main() -> None:
    """Make them all."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Postgres()
    cluster.start()
    with tempfile.TemporaryDirectory(prefix="lh-pictures-") as state, chromium() as browser:
        site = Site(Path(state), cluster)
        try:
            site.start()
            furnish(site)
            prepare(browser, site)
            for dark in (False, True):
                for size in (DESKTOP, PHONE):
                    album = Album(browser, site, folder, dark=dark, size=size)
                    album.people()
                    album.administration()
        finally:
            site.stop()
            cluster.stop()


if __name__ == "__main__":
    main()
