"""Another version of the agent: its package comes from the manager, the operator's own program installs it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from agent.hooks import KEEP, PATH
from agent.shell import run_bounded
from hostapi.verbs import HostRefused, Steering

log = logging.getLogger("upgrade")
VERSION = re.compile(r"[0-9][A-Za-z0-9.+!_]{0,62}")
INSTALL_S = 600.0


class Upgrade:
    """`program` is named in agent.toml by who runs the host: nothing that a manager says decides what is run, or as whom.
    `again` has the agent start again once its answer is written down."""

    def __init__(self, program: str, state: Path, again: Callable[[], None]) -> None:
        self.program, self.folder, self.again = program, state / "packages", again

    def install(self, version: str, sha256: str, package: str, steering: Steering) -> None:
        """Check the package, keep it, and have it installed."""
        if not VERSION.fullmatch(version):
            raise HostRefused("bad_package", f"“{version[:40]}” is no version.")
        if version == metadata.version("leasehold"):
            return
        program = self._program()
        wheel = self._keep(version, sha256, package)
        steering.check_cancelled()
        steering.progress(20, f"Installing version {version}")
        env = {"PATH": PATH, "LC_ALL": "C.UTF-8", "LEASEHOLD_VERSION": version, "LEASEHOLD_SHA256": sha256}
        try:
            code, output, _ = run_bounded([str(program), str(wheel)], env, INSTALL_S, KEEP, lambda: None)
        except OSError as no:
            raise HostRefused("upgrade_failed", f"{program} cannot be run: {no}.") from no
        if code != 0:
            how = f"exit code {code}" if code is not None else f"it had not ended after {INSTALL_S:.0f} seconds"
            sentence = f"Version {version} could not be installed: {program.name} failed ({how}). The agent runs on as it was."
            raise HostRefused("upgrade_failed", sentence, output=output)
        log.info("version %s is installed; starting again", version)
        for old in self.folder.glob("*.whl"):
            if old != wheel:
                old.unlink()
        self.again()

    def _program(self) -> Path:
        if not self.program:
            sentence = "This host's agent is upgraded by who runs it: agent.toml names no program for it (upgrade)."
            raise HostRefused("no_upgrade", sentence)
        program = Path(self.program)
        try:
            about = [program.lstat(), program.parent.stat()]
        except OSError as no:
            raise HostRefused("no_upgrade", f"The program for upgrades, {program}, is not there.") from no
        if not stat.S_ISREG(about[0].st_mode) or not about[0].st_mode & stat.S_IXUSR:
            raise HostRefused("no_upgrade", f"The program for upgrades, {program}, is no program.")
        if any(one.st_uid not in (0, os.geteuid()) or one.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for one in about):
            raise HostRefused("no_upgrade", f"{program} is not run: others than root can write to it or to its folder.")
        return program

    def _keep(self, version: str, sha256: str, package: str) -> Path:
        try:
            content = base64.b64decode(package, validate=True)
        except binascii.Error as no:
            raise HostRefused("bad_package", "The package cannot be read.") from no
        if hashlib.sha256(content).hexdigest() != sha256:
            raise HostRefused("bad_package", "The package is not the one that was announced: its SHA-256 is another.")
        self.folder.mkdir(mode=0o700, exist_ok=True)
        wheel = self.folder / f"leasehold-{version}-py3-none-any.whl"
        fresh = wheel.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(wheel)
        return wheel
