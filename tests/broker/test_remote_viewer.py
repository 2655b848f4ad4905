"""A real remote-viewer opens a real .vv file through the gateway, and its window shows the guest's screen."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import sqlalchemy as sa
from PIL import Image

from backend.events import Event
from tests.broker.conftest import Desk
from tests.broker.processes import Qemu, wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A display with a window manager on it: the environment that programs need to draw there."""
    read, write = os.pipe()
    xvfb = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1600x1200x24", "-nolisten", "tcp"], pass_fds=[write],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as told:
        number = told.readline().strip()
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    environ = {
        **os.environ, "DISPLAY": f":{number}", "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "GSETTINGS_BACKEND": "memory",
        "NO_AT_BRIDGE": "1", "GIO_USE_VFS": "local", "LIBGL_ALWAYS_SOFTWARE": "1", "LANG": "C.UTF-8",
    }
    openbox = subprocess.Popen(["openbox"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield environ
    for process in (openbox, xvfb):
        process.terminate()
        process.wait(20)


def windows(screen: dict[str, str], title: str) -> str:
    """The first visible window whose title has this in it; "" while there is none."""
    found = subprocess.run(
        ["xdotool", "search", "--onlyvisible", "--name", title], env=screen, capture_output=True, text=True)
    return found.stdout.strip().split("\n")[0]


def picture(path: Path) -> numpy.ndarray:
    with Image.open(path) as image:
        return numpy.asarray(image.convert("RGB")).astype(numpy.int16)


def shown_in(guest: numpy.ndarray, window: numpy.ndarray) -> bool:
    """Whether the busiest piece of the guest's screen is somewhere in the window, pixel by pixel."""
    height, width = 24, 160
    best = max(
        ((y, x) for y in range(0, guest.shape[0] - height, height) for x in range(0, guest.shape[1] - width, width)),
        key=lambda at: float(guest[at[0] : at[0] + height, at[1] : at[1] + width].std()))
    piece = guest[best[0] : best[0] + height, best[1] : best[1] + width]
    assert piece.std() > 10, "the guest's screen is blank"
    points = [(0, 0), (height // 2, width // 3), (height - 1, width - 1), (height // 3, width // 2)]
    rows, columns = window.shape[0] - height, window.shape[1] - width
    candidates = numpy.ones((rows, columns), bool)
    for y, x in points:
        candidates &= (numpy.abs(window[y : y + rows, x : x + columns] - piece[y, x]).max(axis=2) < 8)
    return any(
        numpy.abs(window[y : y + height, x : x + width] - piece).max() < 8 for y, x in zip(*candidates.nonzero(), strict=True)
    )


def test_remote_viewer_shows_the_guests_screen(desk: Desk, qemu: Qemu, screen: dict[str, str], tmp_path: Path) -> None:
    ticket = desk.ticket("spice", "native")
    file = tmp_path / "desktop.vv"
    file.write_text(desk.viewer_file(ticket))
    log = tmp_path / "viewer.log"
    with log.open("wb") as out:
        viewer = subprocess.Popen(["remote-viewer", str(file)], env=screen, stdout=out, stderr=out)
    try:
        def window() -> str:
            return windows(screen, "^w7")

        def shows() -> bool:
            assert viewer.poll() is None, log.read_text()
            if not (id := window()):
                return False
            subprocess.run(["import", "-window", id, str(tmp_path / "window.png")], env=screen, check=True)
            qemu.ask("screendump", filename=str(tmp_path / "guest.ppm"))
            return shown_in(picture(tmp_path / "guest.ppm"), picture(tmp_path / "window.png"))

        wait_until(shows, "remote-viewer shows the guest's screen", 120)
        assert not file.exists()  # delete-this-file
        wait_until(lambda: (c := desk.console(ticket)) and c.bytes_to_client > 0, "its bytes are counted")
        console = desk.console(ticket)
        assert console is not None and console.ended_at is None
    finally:
        viewer.terminate()
        viewer.wait(20)
    assert desk.ended(ticket).end_reason == "The viewer was closed."
    assert qemu.lives()


def test_the_file_works_once(desk: Desk, qemu: Qemu, screen: dict[str, str], tmp_path: Path) -> None:
    ticket = desk.ticket("spice", "native")
    texts = desk.viewer_file(ticket)
    viewers = []
    try:
        for number in (1, 2):
            file, log = tmp_path / f"{number}.vv", tmp_path / f"{number}.log"
            file.write_text(texts)
            with log.open("wb") as out:
                viewers.append(subprocess.Popen(["remote-viewer", str(file)], env=screen, stdout=out, stderr=out))
            if number == 1:
                wait_until(lambda: (c := desk.console(ticket)) and c.bytes_to_client > 0, "the first is in", 120)
        with desk.sessions() as tx:
            refused = sa.select(Event.sentence).where(Event.code == "ticket.refused", Event.user_id == desk.user_id)
            assert "used already" in wait_until(lambda: tx.scalar(refused), "the second is told no", 120)
        assert viewers[0].poll() is None
    finally:
        for viewer in viewers:
            viewer.kill()
            viewer.wait(20)
    desk.ended(ticket)
    assert qemu.lives()
