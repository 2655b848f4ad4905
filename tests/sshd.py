"""A real SSH server on a free port of this machine, with a host key, users and keys of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "Sehr-geheim-4711"
USER, SUDOER = "lhssh", "lhsudo"  # the first may become nobody else


@dataclass(frozen=True)
class Sshd:
    """Where it listens, the fingerprint of its key, root's private key, and the file of the keys that let root in."""

    port: int
    fingerprint: str
    root_key: str
    authorized: Path
    process: subprocess.Popen[bytes]


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """The server, and a user with a password, until the end; the machine's own accounts are as before then."""
    folder.chmod(0o755)
    for name in ("host", "root"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/root.pub\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication yes\nUsePAM no\nStrictModes no\nPidFile none\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    rule = Path("/etc/sudoers.d") / SUDOER
    process = None
    try:
        for user in (USER, SUDOER):
            subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", user], check=True)
            subprocess.run(["chpasswd"], input=f"{user}:{PASSWORD}".encode(), check=True)
        rule.write_text(f"{SUDOER} ALL=(ALL) ALL\n")
        with open(folder / "sshd.log", "wb") as log:
            process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config], stdout=log, stderr=log)
        _wait(port, process)
        said = subprocess.run(["ssh-keygen", "-l", "-f", folder / "host.pub"], check=True, capture_output=True, text=True)
        yield Sshd(port, said.stdout.split()[1], (folder / "root").read_text(), folder / "root.pub", process)
    finally:
        if process is not None:
            process.terminate()
            process.wait(30)
        rule.unlink(missing_ok=True)
        for user in (USER, SUDOER):
            _forget(user)


def _forget(user: str) -> None:
    """Their sessions end a moment after their connections."""
    end = time.monotonic() + 60
    while subprocess.run(["userdel", user], capture_output=True).returncode == 8:
        assert time.monotonic() < end, f"{user} is still signed on"
        time.sleep(0.1)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"sshd does not answer; it ended with {process.poll()} on {os.uname().nodename}")
