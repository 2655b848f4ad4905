"""The product as `make run` starts it: people in a real browser and a real viewer, an administrator, two starts.

One story, told in the order of the tests: each begins where the one before ended.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from standalone import guest
from tests.e2e import flows
from tests.e2e.flows import Tab
from tests.e2e.native import Screen, Viewer, share_of_blue, x_server
from tests.e2e.product import ROOT, Product, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    made = Product(tmp_path_factory.mktemp("product") / "state")
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def open_tab(browser: Browser, product: Product) -> Iterator[Callable[[str], Tab]]:
    """A browser of their own for this user, right after they pressed Sign in."""
    tabs: list[Tab] = []

    def signed_in(user: str) -> Tab:
        tabs.append(Tab(browser, product.url))
        flows.sign_in(tabs[-1].page, user, product.passwords[user])
        return tabs[-1]

    yield signed_in
    for tab in tabs:
        tab.close()


@pytest.fixture(scope="module")
def anna(open_tab: Callable[[str], Tab]) -> Page:
    return open_tab("anna").page


@pytest.fixture(scope="module")
def said(anna: Page) -> list[str]:
    """What her page's console says."""
    lines: list[str] = []
    anna.on("console", lambda message: lines.append(message.text))
    return lines


@pytest.fixture(scope="module")
def admin(open_tab: Callable[[str], Tab]) -> Page:
    return open_tab("admin").page


def shows_the_guest(page: Page, tmp_path: Path) -> bool:
    """Whether the console's canvas shows the guest's own screen."""
    page.locator("#screen canvas").screenshot(path=tmp_path / "screen.png")
    return share_of_blue(Image.open(tmp_path / "screen.png").convert("RGB")) > 0.1


def test_ready_tells_where_and_who(product: Product) -> None:
    assert f"READY https://localhost:{product.port}" in product.output
    assert re.search(r"Desktops run with (KVM|emulation)", product.output), "the choice is said"
    assert product.ready["url"] == f"https://localhost:{product.port}" and Path(product.ready["ca_file"]).exists()
    assert [user["name"] for user in product.ready["users"]] == ["admin", "anna", "ben", "carl"]
    assert all(set(user) == {"name", "password", "role"} for user in product.ready["users"])
    assert all(user["password"] in product.output for user in product.ready["users"])
    secrets = [product.place.ready, product.state / "passwords.json", product.place.tls / "ca-key.pem"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in secrets), "others may not read them"


def test_it_is_seeded_and_keeps_one_spare_running(product: Product) -> None:
    pool = product.rows("pools")[0]
    assert (pool["name"], pool["type"], pool["stateless"], pool["size"], pool["spares"], pool["lease_s"]) == (
        "Desktops", "floating", True, 4, 1, 3600,
    )  # fmt: skip
    assert [host["state"] for host in product.rows("hosts")] == ["up"]
    until(lambda: states_of_members(product) == ["spare"], "one spare is up and waits")
    guests = until(lambda: [vm["guest"] for vm in product.rows("vms") if vm["guest"]], "its agent is heard")
    assert [guest["os"] for guest in guests] == ["Leasehold Guest 1.0"]


def test_anna_goes_from_sign_in_straight_to_the_picture(anna: Page, product: Product, tmp_path: Path) -> None:
    flows.picture(anna)
    until(lambda: shows_the_guest(anna, tmp_path), "the guest's screen in the browser")
    lease = next(lease for lease in product.rows("leases") if lease["user"].startswith("anna"))
    assert lease["state"] == "active"


def test_keys_typed_in_the_browser_arrive_in_the_guest(anna: Page, product: Product) -> None:
    vm_id = product.desktop("anna", "pool")["vm"]["id"]
    anna.locator("#screen canvas").click()
    anna.keyboard.type("echo by-browser ", delay=40)
    anna.keyboard.press("Shift+Period", delay=40)
    anna.keyboard.type("/tmp/proof\n", delay=40)
    until(lambda: product.sh(vm_id, "cat /tmp/proof 2>/dev/null").strip() == "by-browser", "the shell ran what was typed")


def test_what_is_pasted_arrives_too(anna: Page, product: Product) -> None:
    vm_id = product.desktop("anna", "pool")["vm"]["id"]
    flows.paste(anna, "echo 'by paste' > /tmp/pasted\n")
    until(lambda: product.sh(vm_id, "cat /tmp/pasted 2>/dev/null").strip() == "by paste", "the shell ran what was pasted")


CLIPBOARD = """
const read = navigator.clipboard.readText.bind(navigator.clipboard);
navigator.clipboard.readText = () => { console.log("the clipboard was read"); return read(); };
"""
# a guest's agent asks for the clipboard's text: chunk's head, message's head, "UTF-8 text"
ASKS = r"\1\0\0\0\30\0\0\0" + r"\1\0\0\0\10\0\0\0\0\0\0\0\0\0\0\0\4\0\0\0" + r"\1\0\0\0"
ASKED = struct.pack("<HIIIQII", 109, 24, 1, 8, 0, 4, 1)  # the same as SPICE's main channel brings it


def test_spice_shows_the_guest_in_the_browser_too(anna: Page, product: Product, tmp_path: Path, said: list[str]) -> None:
    vm_id = product.desktop("anna", "pool")["vm"]["id"]
    flows.show_with_spice(anna)
    until(lambda: shows_the_guest(anna, tmp_path), "the guest's screen by SPICE")
    anna.locator("#screen canvas").click()
    anna.keyboard.type("echo by-spice ", delay=40)
    anna.keyboard.press("Shift+Period", delay=40)
    anna.keyboard.type("/tmp/spice\n", delay=40)
    until(lambda: product.sh(vm_id, "cat /tmp/spice 2>/dev/null").strip() == "by-spice", "the shell ran what was typed")
    flows.paste(anna, "echo 'Pasted {by} SPICE' > /tmp/pasted\n")
    until(lambda: product.sh(vm_id, "cat /tmp/pasted").strip() == "Pasted {by} SPICE", "the shell ran what was pasted")
    assert not [line for line in said if "Content Security Policy" in line]


def test_reloads_at_any_moment_leave_the_vm_alone(anna: Page, product: Product, tmp_path: Path) -> None:
    vm_id = product.desktop("anna", "pool")["vm"]["id"]
    since = product.sh(vm_id, "cat /proc/sys/kernel/random/boot_id")
    for ms in (50, 200, 500, 1000):
        anna.reload(wait_until="commit")
        anna.wait_for_timeout(ms)
    flows.picture(anna)
    expect(anna.locator("#status")).to_have_text("Connected with SPICE")
    until(lambda: shows_the_guest(anna, tmp_path), "the guest's screen again")
    assert product.sh(vm_id, "cat /proc/sys/kernel/random/boot_id") == since


def test_a_desktop_cannot_read_the_clipboard(anna: Page, product: Product, said: list[str]) -> None:
    vm_id = product.desktop("anna", "pool")["vm"]["id"]
    heard: list[bytes] = []
    anna.on("websocket", lambda ws: ws.on("framereceived", lambda data: heard.append(data if isinstance(data, bytes) else b"")))
    anna.context.grant_permissions(["clipboard-read", "clipboard-write"])
    anna.add_init_script(CLIPBOARD)
    anna.reload()
    flows.picture(anna)
    find = "for d in /sys/class/virtio-ports/*; do [ $(cat $d/name) = com.redhat.spice.0 ] && basename $d; done"
    port = product.sh(vm_id, find).strip()
    product.sh(vm_id, f"(for i in 1 2 3 4; do sleep 0.5; printf '{ASKS}'; done) 3<>/dev/{port} >&3")
    # what happened in the page is told while it is waited for there
    until(lambda: anna.wait_for_timeout(100) or any(ASKED in data for data in heard), "the page got the question")
    anna.wait_for_timeout(500)
    assert "the clipboard was read" not in said


def test_nobody_else_can_use_her_spice_ticket(anna: Page, open_tab: Callable[[str], Tab], product: Product) -> None:
    desktop = product.desktop("anna", "pool")
    token = anna.locator("meta[name=csrf-token]").get_attribute("content")
    answer = anna.request.post(
        f"{product.url}/api/v1/me/desktops/{desktop['id']}/connect", data={"protocol": "spice", "client": "browser"},
        headers={"X-CSRFToken": token or "", "Referer": product.url},
    )  # fmt: skip
    assert answer.status == 201, answer.text()
    viewer = answer.json()["viewer"]
    assert viewer["type"] == "spice"
    script = """viewer => new Promise((done) => {
        const head = [0x52, 0x45, 0x44, 0x51, 2, 0, 0, 0, 2, 0, 0, 0, 18, 0, 0, 0];
        const link = [...head, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 18, 0, 0, 0];
        const socket = new WebSocket(viewer.url, viewer.protocols);
        socket.addEventListener("open", () => socket.send(new Uint8Array(link)));
        socket.addEventListener("close", (event) => done([event.code, event.reason]));
    })"""
    code, why = open_tab("ben").page.evaluate(script, viewer)
    assert code == 4003 and "sign-in" in why, why
    logs = "".join(file.read_text() for file in (product.state / "log").glob("*.log"))
    assert viewer["protocols"][1].removeprefix("leasehold.") not in logs


def test_ben_sees_the_pool_and_his_own_vm(open_tab: Callable[[str], Tab]) -> None:
    ben = open_tab("ben").page
    expect(ben.get_by_role("heading", name="My desktops")).to_be_visible()
    expect(ben.get_by_role("article")).to_have_count(2)
    expect(flows.card(ben, "ben-workstation")).to_be_visible()


def test_carl_gets_a_pool_that_the_administrator_makes_for_him(
    admin: Page, open_tab: Callable[[str], Tab], product: Product, tmp_path: Path
) -> None:
    carl = open_tab("carl").page
    expect(carl.get_by_text("No desktop has been given to you yet")).to_be_visible()
    flows.create_pool(admin, "Guests", "Leasehold Guest 1", size=1)
    flows.entitle(admin, "carl")
    flows.connect(carl, "Guests")
    until(lambda: shows_the_guest(carl, tmp_path), "the screen of a desktop that had to be made first")
    flows.leave(carl)
    assert [row["state"] for row in product.rows("leases") if row["pool"] == "Guests"] == ["active"]


def test_carls_desktop_sleeps_wakes_is_made_of_a_new_version_and_is_booted_for_his_booking(product: Product) -> None:
    """What only a real guest shows of suspension, messages, rollouts and bookings; his lease ends on the way."""
    pool = next(pool for pool in product.rows("pools") if pool["name"] == "Guests")
    policy, connect = f"/pools/{pool['id']}/edit", f"/me/desktops/{pool['id']}/connect"
    vm_id = product.desktop("carl", "pool")["vm"]["id"]

    def ready() -> Any:
        status, answer = product.ask("carl", "POST", connect, {"protocol": "vnc", "client": "browser"})
        assert status in (201, 202), answer
        return answer if answer["state"] == "ready" else None

    def member() -> Any:
        return next(member for member in product.rows("members") if member["pool"] == "Guests")

    product.act(f"/vms/{vm_id}/message", {"text": "The desktop is about to sleep."})
    product.sh(vm_id, "echo awake > /tmp/mine")
    product.act(policy, {"disconnect_s": 0, "disconnect_action": "suspend"})  # he has left it
    until(lambda: product.ask("admin", "GET", f"/vms/{vm_id}")[1]["state"] == "suspended", "it sleeps")
    assert vm_id not in product.virsh("list", "--uuid", "--name")
    product.act(policy, {"disconnect_action": "nothing", "grace_s": 2, "shutdown_s": 20, "spares": 0, "book_desktops": 1})
    assert until(ready, "it is awake")["vm"]["id"] == vm_id
    assert product.sh(vm_id, "cat /tmp/mine").strip() == "awake"

    image = guest.image_in(product.place.storage / "guest")
    product.act("/templates", {
        "name": "Leasehold Guest", "cluster_id": product.rows("clusters")[0]["id"],
        "domain_id": product.rows("storagedomains")[0]["id"], "image_path": str(image.disk), "capacity_mib": guest.DISK_MIB,
        "memory_mib": guest.MEMORY_MIB, "kernel": str(image.kernel), "initrd": str(image.initrd), "cmdline": guest.CMDLINE,
        "video": "vga",
    })  # fmt: skip
    new = next(template for template in product.rows("templates") if template["version"] == 2)
    product.act(f"/pools/{pool['id']}/roll_out", {"template_id": new["id"], "mode": "at_once"})
    until(lambda: product.rows("rollouts")[0]["state"] == "succeeded", "the rollout is through", 240)
    assert member()["version"] == 2 and not [x for x in product.rows("leases") if x["pool"] == "Guests" and x["state"] != "ended"]

    begins = datetime.now(UTC) + timedelta(seconds=30)
    times = {"starts_at": begins.isoformat(), "ends_at": (begins + timedelta(minutes=10)).isoformat()}
    status, booked = product.ask("carl", "POST", "/me/bookings", {"pool_id": pool["id"], **times})
    assert status == 201, booked
    until(lambda: member()["state"] == "spare", "a desktop is booted that nobody has asked for yet", 240)
    until(lambda: product.rows("bookings")[0]["state"] == "running", "the booking begins")
    got = until(ready, "the booked desktop")
    assert got["lease"]["ends_at"] == booked["booking"]["ends_at"]
    assert product.sh(got["vm"]["id"], "cat /tmp/mine 2>/dev/null; uname").strip() == "Linux", "it is a fresh one"


def test_the_administrator_sees_what_runs_where(admin: Page) -> None:
    admin.goto("/admin/hosts")
    expect(admin.get_by_role("row").filter(has_text="this-machine")).to_contain_text("Up")
    admin.goto("/admin/vms")
    expect(admin.get_by_role("row").filter(has_text="desktops-1")).to_contain_text("Running")


def test_remote_viewer_shows_the_guest_and_types_into_it_once(product: Product, tmp_path: Path) -> None:
    desktop = product.desktop("ben", "vm")
    wanted = {"protocol": "spice", "client": "native"}

    def ready() -> Any:
        status, answer = product.ask("ben", "POST", f"/me/desktops/{desktop['id']}/connect", wanted)
        assert status in (201, 202), answer
        return answer["viewer"] if status == 201 else None

    viewer = until(ready, "Ben's own VM is ready", 240)
    text = product.ask("ben", "GET", viewer["url"].split("/api/v1")[1])[1]
    assert str(product.place.gateway_port) in text and "BEGIN CERTIFICATE" in text
    (tmp_path / "one.vv").write_text(text)
    (tmp_path / "again.vv").write_text(text)
    with x_server() as env:
        first = Viewer(env, tmp_path / "one.vv")
        window = first.window("ben-workstation")
        until(lambda: share_of_blue(first.picture()) > 0.03, "the guest's screen in remote-viewer's window")
        first.type(window, "echo by-viewer > /tmp/proof")
        vm_id = desktop["vm"]["id"]
        until(lambda: product.sh(vm_id, "cat /tmp/proof 2>/dev/null").strip() == "by-viewer", "what was typed in remote-viewer")
        assert not (tmp_path / "one.vv").exists(), "the file deletes itself"
        first.close()
        until(lambda: share_of_blue(first.picture()) == 0, "its window is gone")
        second = Viewer(env, tmp_path / "again.vv")
        log = product.state / "log" / "gateway.log"
        until(lambda: "ticket was used already" in log.read_text(), "the second use is refused")
        assert share_of_blue(second.picture()) == 0
        second.close()


@contextmanager
def leasehold_connect(
    product: Product, env: dict[str, str], home: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """`leasehold connect` of a thin client at whose prompt Ben types his name and password; and what it says, as a file."""
    environ = {**env, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "GSETTINGS_BACKEND": "memory",
               "LEASEHOLD_URL": product.url, "LEASEHOLD_CA_FILE": product.ready["ca_file"]}
    log = home / "connect.log"
    with log.open("w") as out:
        thin = subprocess.Popen([sys.executable, "-m", "cli", "connect", *options], cwd=ROOT, env=environ, stdin=subprocess.PIPE,
                                stdout=out, stderr=out, text=True)
    try:
        assert thin.stdin is not None
        thin.stdin.write(f"ben\n{product.passwords['ben']}\n")
        thin.stdin.flush()
        yield thin, log
    finally:
        thin.terminate()
        thin.communicate(timeout=60)


def bens_sessions(product: Product) -> int:
    """How many programs Ben is signed in with; the one that these tests ask with counts as well."""
    return sum(row["user"] == "ben" and row["client"] == "api" and not row["ended_at"] for row in product.rows("sessions"))


def test_leasehold_connect_opens_the_real_viewer_and_leaves_nothing_behind(product: Product, tmp_path: Path) -> None:
    vm_id, before = product.desktop("ben", "vm")["vm"]["id"], bens_sessions(product)
    with x_server() as env, leasehold_connect(product, env, tmp_path, "ben-workstation") as (thin, log):
        screen = Screen(env)
        window = screen.window("ben-workstation")
        until(lambda: share_of_blue(screen.picture()) > 0.03, "the guest's screen")
        assert bens_sessions(product) == before + 1
        screen.type(window, "echo by-connect > /tmp/connected")
        until(lambda: product.sh(vm_id, "cat /tmp/connected 2>/dev/null").strip() == "by-connect", "what was typed in it")
        thin.terminate()
        thin.wait(60)
        until(lambda: share_of_blue(screen.picture()) == 0, "the viewer goes with it")
        until(lambda: bens_sessions(product) == before, "its session is over")
        assert not list(tmp_path.glob("leasehold-*")) and "Traceback" not in log.read_text()


def test_a_kiosk_shows_the_desktop_on_the_whole_screen_and_asks_again_after_it(product: Product, tmp_path: Path) -> None:
    before = bens_sessions(product)
    with x_server() as env, leasehold_connect(product, env, tmp_path, "ben-workstation", "--kiosk") as (thin, log):
        screen = Screen(env)
        until(lambda: share_of_blue(screen.picture()) > 0.03, "the guest's screen")
        mine = [row for row in product.rows("consoles") if row["user"] == "ben" and not row["ended_at"]]
        assert len(mine) == 1 and product.ask("admin", "POST", f"/consoles/{mine[0]['id']}/end")[0] == 204
        until(lambda: share_of_blue(screen.picture()) == 0, "the viewer quits when its console is ended")
        until(lambda: bens_sessions(product) == before, "whoever stands there next is nobody")
        assert thin.poll() is None, log.read_text()
        assert thin.stdin is not None
        thin.stdin.write(f"ben\n{product.passwords['ben']}\n")
        thin.stdin.flush()
        until(lambda: share_of_blue(screen.picture()) > 0.03, "the same again, after another sign-in")
        assert log.read_text().count("Signed in as ben.") == 2 and "Traceback" not in log.read_text()


def test_what_dies_is_started_again(product: Product) -> None:
    web = _pid(product, "wsgi")
    os.kill(web, signal.SIGKILL)
    until(lambda: _pid(product, "wsgi") not in (0, web), "a new web process")
    until(lambda: _readyz(product) == 200, "the portal answers again")


def test_a_lease_taken_back_closes_the_console_and_says_why(admin: Page, anna: Page, product: Product) -> None:
    expect(anna.locator("#status")).to_have_text("Connected with SPICE")
    flows.take_back(admin, "anna", "Lunch time.")
    expect(anna.locator("#wait")).to_contain_text("Lunch time.", timeout=flows.SLOW_MS)
    expect(anna.locator("#screen canvas")).to_have_count(0)
    until(lambda: all(c["ended_at"] for c in product.rows("consoles") if c["user"].startswith("anna")), "no console is left")
    until(lambda: states_of_members(product).count("spare") == 1, "a spare again", 240)


def test_ctrl_c_leaves_nothing_running_and_a_second_start_keeps_the_data(product: Product) -> None:
    before = {kind: {row["id"] for row in product.rows(kind)} for kind in ("pools", "vms", "users", "hosts", "leases")}
    passwords = product.passwords
    assert product.stop(signal.SIGINT) == 0
    assert product.left_over() == [] and not product.place.run.exists() and not product.place.ready.exists()
    product.start()
    assert product.passwords == passwords
    for kind, ids in before.items():
        assert ids <= {row["id"] for row in product.rows(kind)}, kind
    until(lambda: [host["state"] for host in product.rows("hosts")] == ["up"], "the host is up again")
    until(lambda: states_of_members(product).count("spare") == 1, "a spare runs again", 240)
    assert product.stop(signal.SIGTERM) == 0
    assert product.left_over() == []


def states_of_members(product: Product) -> list[str]:
    return [member["state"] for member in product.rows("members") if member["pool"] == "Desktops"]


def _pid(product: Product, module: str) -> int:
    """The process of this module that belongs to the product; 0 while there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, environ = (folder / "cmdline").read_bytes().split(b"\0"), (folder / "environ").read_bytes()
        except OSError:
            continue
        if module.encode() in words and str(product.state).encode() in environ:
            return int(folder.name)
    return 0


def _readyz(product: Product) -> int:
    http = urllib3.PoolManager(ca_certs=product.ready["ca_file"], retries=False, timeout=5)
    try:
        return http.request("GET", f"{product.url}/readyz").status
    except urllib3.exceptions.HTTPError:
        return 0
