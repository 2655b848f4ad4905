"""`Processes`: starts the parts, gives each a log, starts again what dies, and stops them in the reverse order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from standalone.trouble import Trouble

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
STEADY_S = 60.0  # who ran so long is started again at once
STOP_S = 20.0


class Process:
    """One part: how it is started, what runs now, and when it is tried again."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str], stop_with: signal.Signals | None
    ) -> None:
        self.name, self.log, self.stop_with = name, log, stop_with
        # a part never outlives the supervisor, not even one that was killed: it gets a signal, or its input ends
        self.argv = ["setpriv", "--pdeathsig", stop_with.name, *argv] if stop_with else list(argv)
        self.env = {**os.environ, **env}
        self.wait_s = FIRST_WAIT_S
        self.start()

    def start(self) -> None:
        self.started = time.monotonic()
        self.again_at: float | None = None
        with self.log.open("ab") as log:
            self.begin = log.tell()
            # a session of its own: Ctrl-C is for the supervisor, which stops the parts in order
            self.popen = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL if self.stop_with else subprocess.PIPE,
                stdout=log, stderr=log, env=self.env, start_new_session=True,
            )  # fmt: skip

    def stop(self) -> bool:
        """Ask it to end; answers whether it did so within STOP_S."""
        if self.popen.poll() is None:
            if self.stop_with:
                self.popen.send_signal(self.stop_with)
            elif self.popen.stdin:
                self.popen.stdin.close()
        try:
            self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            return False
        return True

    def said(self) -> str:
        """What it has written to its log since it was started last."""
        return self.log.read_bytes()[self.begin :].decode(errors="replace")

    def last_words(self) -> str:
        """The end of that, for a sentence."""
        lines = [line for line in self.said().splitlines() if line.strip()]
        return lines[-1][-300:] if lines else "it said nothing"


class Processes:
    """All parts of one standalone Leasehold. Nothing but the main thread may call its methods."""

    def __init__(self, logs: Path, say: Callable[[str, str], None]) -> None:
        self.logs, self.say = logs, say
        self.parts: list[Process] = []
        self.stopping = threading.Event()

    def add(
        self,
        name: str,
        *argv: str | Path,
        env: Mapping[str, str] | None = None,
        stop_with: signal.Signals | None = signal.SIGTERM,
    ) -> Process:
        """Start a part and keep it running. It is stopped with a signal, or else by the end of its input."""
        part = Process(name, [str(a) for a in argv], self.logs / f"{name}.log", env or {}, stop_with)
        self.parts.append(part)
        return part

    def python(self, name: str, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """A part that is a Python module of ours."""
        return self.add(name, sys.executable, "-m", module, *arguments, env=env)

    def until(self, done: Callable[[], bool], part: Process, what: str, patience_s: float = 120.0) -> None:
        """Wait until `done`; `Trouble` when the part dies meanwhile or patience ends, `Stopped` when told to stop."""
        end = time.monotonic() + patience_s
        while not done():
            if self.stopping.wait(0.1):
                raise Stopped
            if part.popen.poll() is not None:
                raise Trouble(f"{part.name} did not start: {part.last_words()}. All of it is in {part.log}.")
            if time.monotonic() > end:
                raise Trouble(f"{what} took longer than {patience_s:.0f} s: {part.last_words()}. All of it is in {part.log}.")

    def watch(self) -> None:
        """Start again what dies, later each time, until told to stop."""
        while not self.stopping.wait(0.2):
            now = time.monotonic()
            for part in self.parts:
                if part.again_at is None and (code := part.popen.poll()) is not None:
                    part.wait_s = FIRST_WAIT_S if now - part.started > STEADY_S else part.wait_s
                    self.say(part.name, f"ended with code {code}; it is started again in {part.wait_s:.0f} s ({part.log})")
                    part.again_at, part.wait_s = now + part.wait_s, min(part.wait_s * 2, LONGEST_WAIT_S)
                elif part.again_at is not None and now >= part.again_at:
                    part.start()

    def stop(self, *names: str) -> None:
        """Stop these parts, or all that are left, the youngest first; what will not go is killed."""
        going = [part for part in reversed(self.parts) if not names or part.name in names]
        for part in going:
            if not part.stop():
                self.say(part.name, f"did not stop within {STOP_S:.0f} s and was killed")
            self.parts.remove(part)


class Stopped(Exception):
    """Somebody pressed Ctrl-C while Leasehold was starting."""
