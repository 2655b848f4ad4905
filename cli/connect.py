"""The thin client: sign in, get a desktop, wait for it, open it in remote-viewer; with --kiosk for ever."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cli import show
from cli.actions import desktop, secret
from cli.client import NOT_SIGNED_IN, REFUSED, UNREACHABLE, USAGE, Client, Trouble, path
from cli.waiting import bar

POLL_S = 1.0
KIOSK = ("--kiosk", "--kiosk-quit=on-disconnect", "--full-screen")
PATIENCE_S = 60  # how long a portal may be away while somebody waits for a desktop


@click.command()
@click.argument("name", required=False)
@click.option("--user", "-u", metavar="NAME", help="Sign in as; asked for when nobody is signed in.")
@click.option("--full-screen", "-f", is_flag=True, help="Open the desktop on the whole screen.")
@click.option("--kiosk", is_flag=True, help="For a thin client: full screen, then back to the sign-in prompt.")
@click.option("--move", is_flag=True, help="Move it here without asking when it is open on another device.")
@click.option("--viewer", default="remote-viewer", envvar="LEASEHOLD_VIEWER", show_default=True, help="What shows it.")
@click.pass_obj
def connect(session: Any, name: str | None, user: str | None, full_screen: bool, kiosk: bool, move: bool, viewer: str) -> None:
    """Open a desktop: NAME, or the only one you have.

    On a machine that is enrolled as a thin client (leasehold device enroll) the device's own pool, protocols and
    auto-launch count."""
    program = shutil.which(viewer)
    if program is None:
        raise Trouble(USAGE, f"{viewer} is not installed here; on Debian: apt install virt-viewer.")
    signal.signal(signal.SIGTERM, _end)
    if not kiosk:
        client = Client(session.config)
        with _signed_in(client, user) as launch:
            _open(client, name or launch, [program, "--full-screen"] if full_screen else [program], full_screen, move)
        return
    while True:
        client = Client(session.config, token="")  # a kiosk knows nobody but who stands before it
        try:
            with _signed_in(client, user) as launch:
                _open(client, name or launch or _chosen(client), [program, *KIOSK], True, move)
        except Trouble as no:
            if no.code == USAGE:
                raise
            show.err.print(str(no), markup=False, highlight=False)
            time.sleep(POLL_S)


def ask(what: str) -> str:
    """What is typed at the prompt, or the next line of standard input."""
    if sys.stdin.isatty():
        return str(click.prompt(what, prompt_suffix=": ", err=True)).strip()
    line = sys.stdin.readline()
    if not line:
        raise click.Abort
    return line.strip()


@contextlib.contextmanager
def _signed_in(client: Client, user: str | None) -> Iterator[str | None]:
    """Signed in for as long as this lasts: as who is already, or as who types their name; the latter's session ends
    with it and is written down nowhere. Gives the desktop that the person is taken to at once, if there is one."""
    if client.token and user is None:
        with contextlib.suppress(_Gone):
            _still(client)
            yield None
            return
    told = client.sign_in(user or ask("User"), secret("Password: "))
    show.err.print(f"Signed in as {told['user']['name']}.")
    try:
        yield (told.get("auto_launch") or {}).get("desktop")
    finally:
        with contextlib.suppress(Trouble):
            client.sign_out()


def _chosen(client: Client) -> str | None:
    """The desktop typed at the prompt, when there are several that can be reached from here."""
    items = client.ask("GET", "/me/desktops")["items"]
    names = [d["name"] for d in items if not d["blocked"]]
    if items and not names:
        raise Trouble(REFUSED, items[0]["blocked"])
    if len(names) < 2:
        return names[0] if names else None
    show.err.print(f"Your desktops: {', '.join(names)}", markup=False)
    return ask("Desktop")


class _Gone(Exception):
    """The kept session is over."""


def _still(client: Client) -> None:
    try:
        client.ask("GET", "/me")
    except Trouble as no:
        if no.code != NOT_SIGNED_IN:
            raise
        client.token = ""
        raise _Gone from None


def _open(client: Client, name: str | None, viewer: list[str], full_screen: bool, move: bool) -> None:
    chosen = desktop(client, name)
    ready = _moved(client, chosen, move or not sys.stdin.isatty())
    ticket = path("tickets", ready["ticket"]["id"], "viewer")
    _, text, _ = client.raw("GET", ticket, query={"full_screen": "1"} if full_screen else None)
    with _private_file(text) as file:
        # in a session of its own: Ctrl-C at the terminal ends us, and we end the viewer
        process = subprocess.Popen([*viewer, str(file)], stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0:
        raise Trouble(REFUSED, f"{Path(viewer[0]).name} ended with code {code}: the desktop could not be shown.")


def _moved(client: Client, chosen: dict[str, Any], move: bool) -> dict[str, Any]:
    """Connect's answer once it is ready; who has the desktop open on another device is asked, unless `move` says yes."""
    try:
        return _wait(client, chosen, move)
    except Trouble as no:
        if no.kind != "console_elsewhere" or not click.confirm(f"{no} Move it here?", err=True):
            raise
    return _wait(client, chosen, True)


def _wait(client: Client, chosen: dict[str, Any], move: bool) -> dict[str, Any]:
    """Connect's answer once it is ready; the bar tells how far it is, and who waits may press Ctrl-C."""
    where, silent_since = path("me", "desktops", chosen["id"], "connect"), None
    with bar() as progress:
        line = progress.add_task(chosen["name"], total=None, message="")
        while True:
            try:
                told: dict[str, Any] = client.ask("POST", where, {"client": "native", "move": move})
                silent_since = None
            except Trouble as no:
                if no.code != UNREACHABLE:
                    raise
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE_S:
                    raise
                told = {"state": "silent", "sentence": str(no)}
            if told["state"] == "ready":
                return told
            known = told.get("progress") or None
            progress.update(line, completed=known or 0, total=100 if known else None,
                            message=" ".join(filter(None, (told.get("sentence"), _estimate(told)))))
            time.sleep(POLL_S)


def _estimate(told: dict[str, Any]) -> str:
    seconds = told.get("estimate_s")
    if not seconds:
        return ""
    return f"About {seconds} s." if seconds < 90 else f"About {round(seconds / 60)} min."


@contextlib.contextmanager
def _private_file(text: str) -> Iterator[Path]:
    """The viewer file, where only this user can read it, and gone afterwards whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="leasehold-", dir=os.environ.get("XDG_RUNTIME_DIR") or None))
    try:
        file = folder / "desktop.vv"
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(text)
        yield file
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(*_: object) -> None:
    """SIGTERM ends the viewer and the session as Ctrl-C does."""
    raise KeyboardInterrupt
