"""The thin client: signs in, waits, starts the viewer with a private file, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from backend.directory.models import User, WebSession
from backend.events import move
from backend.vms.models import Vm
from tests.cli.conftest import PATIENCE_S, Cli
from tests.web.place import PASSWORD


def wait(what: Callable[[], object], why: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, why
        time.sleep(0.05)


def _as_at_a_terminal() -> None:
    """Ctrl-C counts, also where the tests run in the background and it does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running(cli: Cli, viewer: Path, *argv: str, given: str = "") -> Iterator[subprocess.Popen[str]]:
    command, environ = cli.command("connect", "--viewer", str(viewer), *argv)
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, cwd=cli.home, preexec_fn=_as_at_a_terminal)
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.flush()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def live_sessions(cli: Cli, name: str) -> int:
    place = cli.served.place
    with place.sessions() as tx:
        return tx.scalar(sa.select(sa.func.count()).where(
            WebSession.user_id == place.people[name], WebSession.ended_at.is_(None))) or 0


def left_behind(cli: Cli) -> list[str]:
    """Files that hold a ticket's password or a token, anywhere in the home, the viewer's notes apart."""
    found = []
    for file in cli.home.rglob("*"):
        if file.is_file() and file.parent.name != "viewer":
            text = file.read_text(errors="replace")
            if "password=" in text or file.name == "token.json":
                found.append(str(file))
    return found


@pytest.mark.parametrize("full", [False, True])
def test_a_viewer_is_started_with_a_private_file(cli: Cli, viewer: Path, full: bool) -> None:
    options = ["--full-screen"] if full else []
    with running(cli.as_("alice"), viewer, "Desktops", *options) as process:
        wait(lambda: (viewer.parent / "given").exists() and (viewer.parent / "given").read_text().endswith("\n"), "started")
        given = (viewer.parent / "given").read_text()
        assert given.startswith("[virt-viewer]\ntype=spice\n")
        assert f"fullscreen={int(full)}" in given
        assert (viewer.parent / "modes").read_text().split() == ["600", "700"]
        called = (viewer.parent / "calls").read_text().split()
        assert called[:-1] == options
        (viewer.parent / "go").write_text("0")
        assert process.wait(PATIENCE_S) == 0, process.stdout.read()  # type: ignore[union-attr]
    assert not Path(called[-1]).exists()
    assert left_behind(cli) == []
    assert live_sessions(cli, "alice") >= 1, "who was signed in before still is"


def test_who_is_not_signed_in_is_asked_and_signed_out_at_the_end(cli: Cli, viewer: Path) -> None:
    before = live_sessions(cli, "alice")
    with running(cli, viewer, "Desktops", given=f"alice\n{PASSWORD}\n") as process:
        wait(lambda: (viewer.parent / "given").exists(), "started")
        assert live_sessions(cli, "alice") == before + 1, "the console lives as long as its session"
        (viewer.parent / "go").write_text("0")
        assert process.wait(PATIENCE_S) == 0
    assert live_sessions(cli, "alice") == before
    assert left_behind(cli) == []


def test_a_viewer_that_fails_is_told(cli: Cli, viewer: Path) -> None:
    (viewer.parent / "go").write_text("7")
    with running(cli.as_("alice"), viewer, "Desktops") as process:
        assert process.wait(PATIENCE_S) == 1
        assert "ended with code 7" in process.stdout.read()  # type: ignore[union-attr]


def test_it_waits_for_a_desktop_that_starts(cli: Cli, viewer: Path) -> None:
    """alices-own is down: connect starts it, and opens it once it is up."""
    place = cli.served.place
    (viewer.parent / "go").write_text("0")
    with running(cli.as_("alice"), viewer, "alices-own") as process:
        with place.sessions() as tx:
            own = place.ids["own_vm"]
            wait(lambda: tx.scalar(sa.text("SELECT 1 FROM task WHERE object_id = :id AND state = 'queued'"), {"id": own}),
                 "its start is asked for")
        assert process.poll() is None
        with place.sessions.begin() as tx:
            vm = tx.get_one(Vm, own)
            move(tx, vm, "start", words={"host": "alpha"}, host_id=place.ids["host"])
            move(tx, vm, "launched")
            move(tx, vm, "booted")
        assert process.wait(PATIENCE_S) == 0, process.stdout.read()  # type: ignore[union-attr]
    assert (viewer.parent / "given").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_cut_off_it_ends_viewer_and_session(cli: Cli, viewer: Path, number: signal.Signals) -> None:
    before = live_sessions(cli, "alice")
    with running(cli, viewer, "Desktops", given=f"alice\n{PASSWORD}\n") as process:
        wait(lambda: (viewer.parent / "given").exists(), "started")
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 130
    assert live_sessions(cli, "alice") == before
    assert left_behind(cli) == []


def test_a_kiosk_returns_to_its_prompt_and_keeps_nobody(cli: Cli, viewer: Path) -> None:
    """Alice, a wrong password, then alice again; a token in the home is not looked at."""
    cli("login", "--user", "root", given=f"{PASSWORD}\n")
    before = live_sessions(cli, "alice")
    (viewer.parent / "go").write_text("0")
    given = f"alice\n{PASSWORD}\nDesktops\n" + "alice\nwrong\n" + f"alice\n{PASSWORD}\nDesktops\n"
    with running(cli, viewer, "--kiosk", given=given) as process:
        wait(lambda: (viewer.parent / "calls").exists() and len((viewer.parent / "calls").read_text().splitlines()) == 2, "twice")
        process.stdin.close()  # type: ignore[union-attr]
        assert process.wait(PATIENCE_S) == 130
        said = process.stdout.read()  # type: ignore[union-attr]
    assert "user name or the password is wrong" in said
    assert "--kiosk --kiosk-quit=on-disconnect --full-screen" in (viewer.parent / "calls").read_text()
    assert live_sessions(cli, "alice") == before
    assert [Path(f).name for f in left_behind(cli)] == ["token.json"], "root's, who signed in before"
    assert cli.served.place.tokens["alice"] not in cli.token_file.read_text()


def test_an_enrolled_kiosk_goes_straight_to_its_pool_until_it_is_revoked(cli: Cli, viewer: Path) -> None:
    """Alice has two desktops and names none: the device does."""
    admin = cli.as_("root")
    made = admin("device", "create", "Lab 1", "--pool", "Desktops", "--protocols", "spice", "--json")
    code = json.loads(made.out)["code"]
    assert cli("device", "enroll", "0000-0000-0000-0000").code == 1
    said = cli("device", "enroll", code.lower())
    assert (said.code, said.err.strip()) == (0, "This machine is Lab 1 now.")
    assert cli("device", "enroll", code).code == 1, "once"
    kept = cli.token_file.parent / "device.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and json.loads(kept.read_text())[cli.served.url] not in said.err
    (viewer.parent / "go").write_text("0")
    with running(cli, viewer, "--kiosk", given=f"alice\n{PASSWORD}\n") as process:
        wait(lambda: (viewer.parent / "calls").exists(), "shown")
        process.stdin.close()  # type: ignore[union-attr]
        assert process.wait(PATIENCE_S) == 130
    assert "title=desktops-1" in (viewer.parent / "given").read_text()
    assert admin("device", "revoke", "Lab 1").code == 0
    with running(cli, viewer, "--kiosk", given=f"alice\n{PASSWORD}\n") as process:
        process.stdin.close()  # type: ignore[union-attr]
        assert process.wait(PATIENCE_S) == 130
        assert "not enrolled here any more" in process.stdout.read()  # type: ignore[union-attr]
    kept.unlink()


def test_without_a_name_sign_in_says_which(cli: Cli, viewer: Path) -> None:
    """Who is taken straight to a desktop at sign-in need not name it."""
    place = cli.served.place
    with place.sessions.begin() as tx:
        tx.get_one(User, place.people["alice"]).auto_launch = True
        tx.execute(sa.text("DELETE FROM permission WHERE user_id = :id AND object_type = 'vm'"), {"id": place.people["alice"]})
    (viewer.parent / "go").write_text("0")
    with running(cli, viewer, given=f"alice\n{PASSWORD}\n") as process:
        assert process.wait(PATIENCE_S) == 0, process.stdout.read()  # type: ignore[union-attr]
    assert "title=desktops-1" in (viewer.parent / "given").read_text()


def test_no_viewer_is_told(cli: Cli) -> None:
    said = cli.as_("alice")("connect", "--viewer", "no-such-viewer")
    assert said.code == 2
    assert "apt install virt-viewer" in said.err
