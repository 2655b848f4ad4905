"""What is missing is told in one sentence with its remedy, with exit code 1 and nothing left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from standalone.place import free_pair

ROOT = Path(__file__).parent.parent.parent
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="starting Leasehold takes root"),
]


def sorry(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    """The sentence with which `standalone` gives up."""
    words = [str(a) for a in argv]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, env=env)
    assert done.returncode == 1, (done.stdout, done.stderr)
    sentence = done.stderr.strip()
    assert "\n" not in sentence and sentence.endswith("."), sentence
    return sentence


def standalone(state: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "standalone", "--state", str(state), "--port", str(port)]


@pytest.fixture
def port() -> int:
    return free_pair()[0]


@pytest.mark.parametrize("which", [0, 1], ids=["portal", "gateway"])
def test_a_port_that_is_taken(tmp_path: Path, port: int, which: int) -> None:
    with socket.create_server(("127.0.0.1", port + which)):
        sentence = sorry(*standalone(tmp_path / "state", port))
    assert f"Port {port + which}" in sentence and f"PORT={port + 10} make run" in sentence


def test_a_state_folder_in_use(tmp_path: Path, port: int) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sentence = sorry(*standalone(tmp_path, port))
    assert f"runs in {tmp_path} already" in sentence and "STATE=folder" in sentence


def test_a_state_folder_that_cannot_be_made(tmp_path: Path, port: int) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in sorry(*standalone(tmp_path / "file" / "state", port))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_nearly_full(small_disk: Path, port: int) -> None:
    sentence = sorry(*standalone(small_disk / "state", port))
    assert "100 MiB free" in sentence and "2,048 MiB are needed" in sentence


def test_somebody_without_rights(tmp_path: Path, port: int) -> None:
    # the interpreter itself may lie where only root gets to, so the user changes inside
    program = "import os, standalone.__main__ as it; os.setuid(65534); it.main()"
    assert "sudo" in sorry(sys.executable, "-c", program, *standalone(tmp_path, port)[3:])


def test_a_missing_program(tmp_path: Path, port: int) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("qemu-system-x86_64", "qemu-img", "virsh", "unshare", "setpriv"):
        (programs / name).symlink_to(shutil.which(name) or name)
    sentence = sorry(*standalone(tmp_path / "state", port), env={**os.environ, "PATH": str(programs)})
    assert "libvirtd is missing" in sentence and "apt-get install libvirt-daemon" in sentence


@pytest.mark.parametrize("program", ["libvirtd", "virtlogd"])
def test_a_libvirt_that_does_not_start(tmp_path: Path, port: int, program: str) -> None:
    broken = tmp_path / program
    broken.write_text("#!/bin/sh\necho 'error: not today' >&2\nexit 1\n")
    broken.chmod(0o755)
    sentence = sorry(*standalone(tmp_path / "state", port), env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert "libvirtd did not start: error: not today. All of it is in" in sentence
