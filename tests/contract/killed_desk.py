"""Run by test_killed: asks a desk for a step, killed before its n-th line, for every n; prints what was found."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID, uuid4

import hostapi.desk
import hostapi.journal
from hostapi.desk import Desk
from hostapi.journal import Journal
from hostapi.types import VmReport, VmSpec

WATCHED = {hostapi.desk.__file__, hostapi.journal.__file__}


class Agent:
    """A host with one verb, whose doing can be counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start_vm(self, spec: VmSpec, steering: Any) -> VmReport:
        steering.progress(50, "half")
        with open(self.folder / "effects", "a") as file:
            file.write("did\n")
        steering.check_cancelled()
        return VmReport(spec.vm_id, spec.name, "running")


def ask(folder: Path, uid: UUID, spec: VmSpec, note: str) -> None:
    desk = Desk(Agent(folder), Journal(folder / "journal"))
    outcome = desk.ask(uid, "start_vm", {"spec": spec}, wait_s=20)
    (folder / note).write_text(outcome.state if outcome.result == VmReport(spec.vm_id, "w", "running") else "wrong")


def kill_at(line: int) -> None:
    """From now on, die before the given number of lines of desk and journal has been executed."""
    count, lock = [0], threading.Lock()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            with lock:
                count[0] += 1
                if count[0] >= line:
                    os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def in_child(work: Any) -> bool:
    """Whether the work was done in a child process, and not killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 -- whatever it is, the child must not go on as the parent
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, status
    return status == 0


def main(root: Path) -> None:
    found, survived, line = [], False, 0
    while not survived:
        line += 1
        folder, uid, spec = root / str(line), uuid4(), VmSpec(uuid4(), "w", 64, 1)
        folder.mkdir()

        def first(folder: Path = folder, uid: UUID = uid, spec: VmSpec = spec, line: int = line) -> None:
            kill_at(line)
            ask(folder, uid, spec, "first")

        survived = in_child(first)
        effects = folder / "effects"
        before = effects.read_text().count("did") if effects.exists() else 0
        journalled = False
        if (folder / "journal").exists():
            with sqlite3.connect(folder / "journal") as db:
                tables = db.execute("SELECT name FROM sqlite_master WHERE name = 'step'").fetchall()
                rows = db.execute("SELECT outcome FROM step WHERE outcome IS NOT NULL").fetchall() if tables else []
                journalled = bool(rows)
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            db.close()
        in_child(lambda f=folder, u=uid, s=spec: ask(f, u, s, "second"))
        in_child(lambda f=folder, u=uid, s=spec: ask(f, u, s, "third"))
        found.append({
            "before": before, "journalled": journalled, "answered": (folder / "first").exists(),
            "after": effects.read_text().count("did"),
            "second": (folder / "second").read_text(), "third": (folder / "third").read_text(),
        })
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
