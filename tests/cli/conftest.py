"""A portal as it really runs (wsgi.py in a process of its own, over TLS), and the command line beside it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import urllib3

from backend.clock import WallClock
from backend.db import new_sessions
from sim.postgres import Cluster
from tests.pki import Certificate, Pki
from tests.web.place import KEY, Place

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Served:
    """A running portal: its address, its CA, what is in it, and its process."""

    url: str
    ca_file: Path
    place: Place
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def serving(
    folder: Path, database: str, port: int, files: Certificate, **more: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`wsgi.py` on this database: its process and its log."""
    url, key = f"https://localhost:{port}", folder / "key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    environ = {
        **os.environ, "LEASEHOLD_DATABASE_URL": database, "LEASEHOLD_SECRET_KEY_FILE": str(key),
        "LEASEHOLD_PUBLIC_URL": url, "LEASEHOLD_WEB_LISTEN": f"127.0.0.1:{port}", "LEASEHOLD_GATEWAY_PUBLIC": "localhost:1",
        "LEASEHOLD_TLS_CERT_FILE": str(files.cert_file), "LEASEHOLD_TLS_KEY_FILE": str(files.key_file),
        "LEASEHOLD_CA_FILE": str(files.ca_file), **more,
    }
    environ.pop("LEASEHOLD_CONFIG", None)
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "wsgi.py"], cwd=ROOT, env=environ, stdout=out, stderr=out)
    try:
        _wait_until_healthy(url, files.ca_file, process, log)
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def served(cluster: Cluster, pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, port, name = tmp_path_factory.mktemp("served"), free_port(), cluster.new_database()
    url, files = f"https://localhost:{port}", pki.issue("gateway", "localhost")
    sessions = new_sessions(cluster.url(name))
    place = Place(sessions, WallClock(), public_url=url, ca_file=str(files.ca_file), tls_cert_file=str(files.cert_file))
    try:
        with serving(folder, cluster.url(name), port, files) as (process, log):
            yield Served(url, files.ca_file, place, process, log)
    finally:
        sessions.kw["bind"].dispose()
        cluster.drop(name)


def _wait_until_healthy(url: str, ca_file: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    with urllib3.PoolManager(ca_certs=str(ca_file), retries=False) as http:
        while time.monotonic() < until and process.poll() is None:
            try:
                if http.request("GET", f"{url}/healthz").status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                time.sleep(0.1)
    raise AssertionError(log.read_text())


@dataclass
class Ran:
    """How a call ended and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Cli:
    """The command line with a home of its own."""

    served: Served
    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    def command(self, *argv: str) -> tuple[list[str], dict[str, str]]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("LEASEHOLD_", "XDG_"))}
        environ |= {"HOME": str(self.home), "LEASEHOLD_URL": self.served.url, "LEASEHOLD_CA_FILE": str(self.served.ca_file),
                    "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TMPDIR": str(self.home / "tmp"), **self.environ}
        (self.home / "tmp").mkdir(exist_ok=True)
        return [sys.executable, "-m", "cli", *argv], environ

    def __call__(self, *argv: str, given: str = "", without: tuple[str, ...] = ()) -> Ran:
        command, environ = self.command(*argv)
        for name in without:
            environ.pop(name, None)
        done = subprocess.run(command, env=environ, input=given, capture_output=True, text=True, timeout=PATIENCE_S,
                              cwd=self.home)
        return Ran(done.returncode, done.stdout, done.stderr)

    def as_(self, name: str) -> Cli:
        """Signed in as this person by a token in the environment."""
        return Cli(self.served, self.home, {**self.environ, "LEASEHOLD_TOKEN": self.served.place.tokens[name]})

    @property
    def token_file(self) -> Path:
        return self.home / ".config" / "leasehold" / "token.json"


@pytest.fixture
def cli(served: Served, tmp_path: Path) -> Cli:
    return Cli(served, tmp_path)


@pytest.fixture
def viewer(tmp_path: Path) -> Path:
    """A viewer that notes how it was called and what it was given, and stays until `go` is there."""
    folder = tmp_path / "viewer"
    folder.mkdir()
    program = folder / "remote-viewer"
    program.write_text(f"""#!/bin/sh
for last; do :; done
echo "$@" >> {folder}/calls
stat -c %a "$last" "$(dirname "$last")" >> {folder}/modes
cat "$last" >> {folder}/given
while [ ! -e {folder}/go ]; do sleep 0.05; done
exit "$(cat {folder}/go)"
""")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program
