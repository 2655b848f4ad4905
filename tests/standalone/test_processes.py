"""The supervisor: what dies comes back, what is stopped goes, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from standalone.processes import Processes, Stopped
from standalone.trouble import Trouble

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path, lambda part, text: None)
    yield made
    made.stopping.set()
    made.stop()


def until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, f"not within 60 s: {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_part_that_dies_is_started_again_and_its_log_goes_on(processes: Processes, tmp_path: Path) -> None:
    part = processes.add("one", "sh", "-c", "echo born; exec sleep 600")
    until(lambda: "born" in part.said(), "its first words")
    # the supervisor belongs to the main thread, so the blow comes from another one
    first = part.popen.pid
    os.kill(first, signal.SIGKILL)
    threading.Thread(target=lambda: (until(lambda: part.popen.pid != first, "a new process"), processes.stopping.set())).start()
    processes.watch()
    assert alive(part.popen.pid)
    until(lambda: (tmp_path / "one.log").read_text().count("born") == 2, "both births in one log")


def test_a_part_that_dies_at_once_is_told_with_its_last_words(processes: Processes) -> None:
    part = processes.add("two", "sh", "-c", "echo first; echo 'no such thing' >&2; exit 3")
    with pytest.raises(Trouble, match="two did not start: no such thing. .*two.log"):
        processes.until(lambda: False, part, "its start")


def test_a_part_that_takes_too_long_is_told(processes: Processes) -> None:
    part = processes.add("three", "sleep", "600")
    with pytest.raises(Trouble, match="Its start took longer than 0 s"):
        processes.until(lambda: False, part, "Its start", patience_s=0.05)


def test_waiting_ends_with_the_wish_to_stop(processes: Processes) -> None:
    part = processes.add("four", "sleep", "600")
    processes.stopping.set()
    with pytest.raises(Stopped):
        processes.until(lambda: False, part, "its start")


def test_parts_are_stopped_by_signal_or_by_the_end_of_their_input(processes: Processes, tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    for name in ("older", "younger"):
        processes.add(name, "sh", "-c", f"trap 'echo {name} >> {ends}; exit' TERM; echo up; while :; do sleep 0.05; done")
    reader = processes.add("reader", "sh", "-c", f"cat > /dev/null; echo reader >> {ends}", stop_with=None)
    until(lambda: all("up" in part.said() for part in processes.parts[:2]), "the traps")
    processes.stop()
    assert ends.read_text().split() == ["reader", "younger", "older"]
    assert reader.popen.poll() == 0 and processes.parts == []


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom standalone.processes import Processes\n"
        f"p = Processes(Path({str(tmp_path)!r}), print)\n"
        "a = p.add('a', 'sleep', '600')\nb = p.add('b', 'cat', stop_with=None)\n"
        "print(a.popen.pid, b.popen.pid, flush=True)\ntime.sleep(600)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pids = [int(word) for word in supervisor.stdout.readline().split()]
    assert all(alive(pid) for pid in pids)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    until(lambda: not any(alive(pid) for pid in pids), "both parts are gone")
