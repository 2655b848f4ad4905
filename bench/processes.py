"""Processes of a benchmark: started with their output in a file, watched for their CPU time, stopped by their id."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep

ROOT = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A Python program of this repository, run beside us until `stop`."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path, environ: Mapping[str, str]) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *argv], cwd=ROOT, env={**os.environ, **environ}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    def wait_for(self, true: Callable[[], bool], limit_s: float = 60) -> None:
        """Wait until this is true; a program that has ended, or takes too long, is told with the end of its log."""
        end = monotonic() + limit_s
        while not true():
            if self._process.poll() is not None:
                raise SystemExit(f"{self.name} ended with code {self._process.returncode}:\n{self.tail()}")
            if monotonic() > end:
                raise SystemExit(f"{self.name} is not ready after {limit_s:g} s:\n{self.tail()}")
            sleep(0.05)

    def finish(self, limit_s: float) -> None:
        """Wait for the program's own end, which must be a good one."""
        self.wait_for(lambda: self._process.poll() == 0, limit_s)

    def stop(self, limit_s: float = 20) -> None:
        """Ask it to end, and make it end."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def tail(self, lines: int = 30) -> str:
        """The last lines it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def cpu_s(pid: int) -> float:
    """The CPU seconds a process has used, and those of its children that live: PostgreSQL's backends."""
    total = 0.0
    for one in (pid, *_children(pid)):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
