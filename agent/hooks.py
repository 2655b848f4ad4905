"""Programs that the operator of this host lets custom actions run: those in one folder, which nobody else can write to."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from agent.shell import run_bounded
from hostapi.types import HookOutput
from hostapi.verbs import HostRefused, Steering

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
FACT = re.compile(r"[A-Z][A-Z0-9_]{0,40}")
KEEP = 32_768  # bytes of output
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Hooks:
    """The folder of hooks, if there is one."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder) if folder else None

    def run(self, hook: str, args: tuple[str, ...], facts: dict[str, str], timeout_s: int, steering: Steering) -> HookOutput:
        """What it wrote."""
        program = self._program(hook)
        env = {"PATH": PATH, "LC_ALL": "C.UTF-8"} | {f"LEASEHOLD_{k}": v for k, v in facts.items() if FACT.fullmatch(k)}
        steering.check_cancelled()
        try:
            code, output, cut = run_bounded([str(program), *args], env, timeout_s, KEEP, steering.check_cancelled)
        except (OSError, ValueError) as no:
            raise HostRefused("hook_refused", f"The hook {hook} cannot be run: {no}.") from no
        if code is None:
            sentence = f"The hook {hook} had not ended after {timeout_s} seconds, and was ended."
            raise HostRefused("hook_slow", sentence, output=output, cut=cut)
        if code:
            raise HostRefused("hook_failed", f"The hook {hook} failed: exit code {code}.", exit_code=code, output=output, cut=cut)
        return HookOutput(output, cut)

    def _program(self, hook: str) -> Path:
        if self.folder is None:
            sentence = "This host runs no hooks: its agent has no folder for them (hooks in agent.toml)."
            raise HostRefused("no_hooks", sentence)
        if not NAME.fullmatch(hook):
            raise HostRefused("no_hook", f"“{hook[:40]}” cannot name a hook.")
        program = self.folder / hook
        try:
            about = program.lstat()
            folder = self.folder.stat()
        except OSError as no:
            raise HostRefused("no_hook", f"This host has no hook named {hook}.") from no
        if not stat.S_ISREG(about.st_mode) or not about.st_mode & stat.S_IXUSR:
            raise HostRefused("no_hook", f"{hook} is no program in the folder of hooks.")
        if any(one.st_uid not in (0, os.geteuid()) or one.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for one in (about, folder)):
            raise HostRefused("hook_refused", f"The hook {hook} is not run: others than root can write to it or to its folder.")
        return program
