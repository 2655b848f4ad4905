"""Hooks: only programs of the operator's folder, with nothing but what they are given, and not for ever."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent.hooks import KEEP, Hooks
from hostapi.types import HookOutput
from hostapi.verbs import HostRefused


class Steering:
    def __init__(self, cancel_after_s: float | None = None) -> None:
        self.end = None if cancel_after_s is None else time.monotonic() + cancel_after_s

    def progress(self, per_cent: int, message: str = "") -> None:
        return None

    def check_cancelled(self) -> None:
        if self.end is not None and time.monotonic() > self.end:
            raise HostRefused("cancelled", "Cancelled.")


def program(folder: Path, name: str, script: str, mode: int = 0o755) -> Path:
    folder.chmod(0o755)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


def run(folder: Path | str, hook: str = "greet", *args: str, timeout_s: int = 30, steering: Steering | None = None,
        **facts: str) -> HookOutput:  # fmt: skip
    return Hooks(str(folder)).run(hook, args, facts, timeout_s, steering or Steering())


def refused(folder: Path | str, hook: str = "greet", **more: object) -> HostRefused:
    with pytest.raises(HostRefused) as no:
        run(folder, hook, **more)  # type: ignore[arg-type]
    return no.value


def test_it_gets_its_arguments_and_facts_as_they_are_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    program(tmp_path, "greet", 'echo "$1|$#|$LEASEHOLD_VM_NAME|$LEASEHOLD_bad|$SECRET_OF_THE_AGENT|$PWD" && echo loud >&2')
    told = run(tmp_path, "greet", "$(reboot); `x`", VM_NAME="w7; rm -rf /", bad="x")
    assert told == HookOutput("$(reboot); `x`|1|w7; rm -rf /|||/\nloud\n")


def test_without_a_folder_nothing_is_run(tmp_path: Path) -> None:
    assert refused("").failure.code == "no_hooks"
    assert refused(tmp_path).failure.code == "no_hook"
    assert refused(tmp_path / "none").failure.code == "no_hook"


@pytest.mark.parametrize("hook", ["../greet", "/bin/true", "a/b", "", ".", "..", "-x", "a b", "a\n"])
def test_a_hook_is_a_name(tmp_path: Path, hook: str) -> None:
    assert refused(tmp_path, hook).failure.code == "no_hook"


def test_only_a_plain_program_that_nobody_else_can_write_to(tmp_path: Path) -> None:
    program(tmp_path, "plain", "true", 0o644)
    program(tmp_path, "theirs", "true", 0o757)
    (tmp_path / "link").symlink_to("/bin/true")
    (tmp_path / "folder").mkdir()
    codes = {hook: refused(tmp_path, hook).failure.code for hook in ("plain", "theirs", "link", "folder")}
    assert codes == {"plain": "no_hook", "theirs": "hook_refused", "link": "no_hook", "folder": "no_hook"}
    program(tmp_path, "ours", "true")
    tmp_path.chmod(0o777)
    assert refused(tmp_path, "ours").failure.code == "hook_refused"
    if os.geteuid() == 0:
        tmp_path.chmod(0o755)
        os.chown(tmp_path / "ours", 1000, 1000)
        assert refused(tmp_path, "ours").failure.code == "hook_refused"


def test_its_failure_is_told_with_what_it_wrote(tmp_path: Path) -> None:
    program(tmp_path, "greet", "echo sorry; exit 3")
    failure = refused(tmp_path).failure
    assert (failure.code, failure.facts) == ("hook_failed", {"exit_code": 3, "output": "sorry\n", "cut": False})
    (tmp_path / "greet").write_text("no program at all")
    assert refused(tmp_path).failure.code == "hook_refused"


def test_what_is_kept_of_its_output_is_bounded(tmp_path: Path) -> None:
    program(tmp_path, "greet", "yes | head -c 3000000; echo end")
    told = run(tmp_path, timeout_s=120)
    assert (len(told.output), told.cut) == (KEEP, True)


def test_it_ends_in_time_with_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program(tmp_path, "greet", f"(sleep 3; touch {mark}) & echo begun; sleep 60")
    failure = refused(tmp_path, timeout_s=1).failure
    assert (failure.code, failure.facts["output"]) == ("hook_slow", "begun\n")
    program(tmp_path, "greet", f"(sleep 3; touch {mark}) & echo done")
    assert run(tmp_path).output == "done\n"  # what it leaves behind holds nobody up, and is ended
    program(tmp_path, "greet", "sleep 60")
    assert refused(tmp_path, steering=Steering(0.5)).failure.code == "cancelled"
    time.sleep(3.5)
    assert not mark.exists()
