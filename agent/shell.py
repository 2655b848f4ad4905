"""`run(argv)`: the only file of the agent that starts a subprocess."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

LOOK_S = 0.2


class ProgramFailed(Exception):
    """A program ended badly; `said` is what it wrote to its standard error."""

    def __init__(self, argv: Sequence[str], said: str) -> None:
        super().__init__(f"{argv[0]} failed: {said}")
        self.program, self.said = argv[0], said


def run(argv: Sequence[str], *, timeout_s: float = 60.0) -> str:
    """The standard output of a program; raises `ProgramFailed` when it fails or takes too long."""
    program = start(argv)
    try:
        out, err = program.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill(program)
        raise ProgramFailed(argv, f"it did not end within {timeout_s:.0f} seconds") from None
    if program.returncode != 0:
        raise ProgramFailed(argv, err.decode(errors="replace").strip() or f"exit code {program.returncode}")
    return out.decode(errors="replace")


def converse(argv: Sequence[str], given: str, *, timeout_s: float) -> tuple[int, str]:
    """Tell a program something over its standard input: its exit code and what it says on its standard error."""
    program = start(argv, stdin=subprocess.PIPE)
    try:
        _, err = program.communicate(given.encode(), timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill(program)
        raise ProgramFailed(argv, f"it did not end within {timeout_s:.0f} seconds") from None
    return program.returncode, err.decode(errors="replace")


def run_bounded(
    argv: Sequence[str], env: Mapping[str, str], timeout_s: float, keep: int, look: Callable[[], None]
) -> tuple[int | None, str, bool]:
    """The exit code of a program with this environment alone, what of its output is kept, and whether more was written.
    No exit code: it took too long. `look` is called often, and may raise. Whatever it started ends with it."""
    program = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env=dict(env), cwd="/",
    )  # fmt: skip
    assert program.stdout is not None
    kept, cut, end = bytearray(), False, time.monotonic() + timeout_s
    os.set_blocking(program.stdout.fileno(), False)
    try:
        while True:
            ended = program.poll() is not None
            while chunk := program.stdout.read(65_536):  # None when there is nothing yet
                cut = cut or len(kept) + len(chunk) > keep
                kept += chunk[: keep - len(kept)]
            if ended or time.monotonic() >= end:
                break
            look()
            select.select([program.stdout], [], [], LOOK_S)
            time.sleep(0.01)  # a program that only writes must not take the whole processor here too
        code = program.poll()
    finally:
        kill(program)
    return code, kept.decode(errors="replace"), cut


def start(argv: Sequence[str], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, its output in pipes, its messages in English."""
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as missing:
        raise ProgramFailed(argv, "it is not installed") from missing


def kill(program: subprocess.Popen[bytes]) -> None:
    """End a program and all that it started, and reap it."""
    try:
        os.killpg(program.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        program.communicate()
