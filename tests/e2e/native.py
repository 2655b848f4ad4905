"""remote-viewer on an X server without a screen, its window's picture, and keys typed into it."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.e2e.product import until

GUEST_BLUE = (0, 0, 170)


@contextmanager
def x_server() -> Iterator[dict[str, str]]:
    """The environment of programs on a fresh X server with a window manager."""
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x900x24", "-nolisten", "tcp"],
        pass_fds=[write], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as told:
        display = f":{told.readline().strip()}"
    env = {**os.environ, "DISPLAY": display, "GIO_USE_VFS": "local", "NO_AT_BRIDGE": "1"}
    manager = subprocess.Popen(["openbox"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield env
    finally:
        for one in (manager, server):
            one.terminate()
            one.wait(20)


class Screen:
    """What is on an X server's screen, and a hand on its keyboard."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def window(self, title: str) -> str:
        """The window of this title, once it is there."""
        return str(until(lambda: self._run("xdotool", "search", "--onlyvisible", "--name", title).split(), f"window {title}")[0])

    def picture(self) -> Image.Image:
        """The whole screen as it is now."""
        png = subprocess.run(["import", "-window", "root", "png:-"], env=self.env, capture_output=True, check=True).stdout
        return Image.open(io.BytesIO(png)).convert("RGB")

    def type(self, window: str, text: str) -> None:
        """Type into the guest's screen."""
        self._run("xdotool", "windowactivate", "--sync", window)
        self._run("xdotool", "mousemove", "--window", window, "300", "300", "click", "1")
        self._run("xdotool", "type", "--delay", "60", text)
        self._run("xdotool", "key", "Return")

    def _run(self, *argv: str) -> str:
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False).stdout


class Viewer(Screen):
    """remote-viewer with one .vv file."""

    def __init__(self, env: dict[str, str], file: Path, *options: str) -> None:
        super().__init__(env)
        self.log = file.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["remote-viewer", *options, str(file)], env=env, stdout=log, stderr=log)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(20)


def share_of_blue(picture: Image.Image) -> float:
    """How much of the picture is the blue of the guest's banner: 0 … 1."""
    pixels = picture.width * picture.height
    near = [count for count, color in picture.getcolors(pixels) or [] if _near(color)]
    return sum(near) / pixels


def _near(color: object) -> bool:
    assert isinstance(color, tuple)
    return all(abs(a - b) <= 12 for a, b in zip(color, GUEST_BLUE, strict=True))
