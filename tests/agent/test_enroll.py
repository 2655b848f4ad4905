"""Enrollment against a small manager, by the command itself; and the agent that runs afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from hostapi.client import HostClient, HostUnreachable, client_context
from hostapi.types import VmSpec
from tests.pki import Pki

ROOT = Path(__file__).parents[2]


class Manager(ThreadingHTTPServer):
    """Answers as `portal/api_hosts.py` does, and signs after having been asked a few times."""

    daemon_threads = True

    def __init__(self, pki: Pki) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.pki, self.asked, self.signs_after = pki, 0, 1
        self.requests: list[dict[str, object]] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pki.issue("web", "localhost")[1:])
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()


class _Answers(BaseHTTPRequestHandler):
    server: Manager

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = [one for one in self.server.requests if one["csr"] != asked["csr"]]
        if asked["token"] != "right":
            self._answer(403, {"error": {"code": "bad_token", "message": "This enrollment token is unknown."}})
        elif known:
            self._answer(403, {"error": {"code": "token_used", "message": "This token has been used already."}})
        else:
            self.server.requests.append(asked)
            self._answer(202, {"id": "42"})

    def do_GET(self) -> None:
        if self.path == "/api/v1/ca":
            self._answer(200, {"ca": self.server.pki.ca_file.read_text()})
            return
        assert self.path == "/api/v1/enroll/42"
        if self.headers.get("Authorization") != "Bearer right":
            self._answer(403, {"error": {"code": "bad_token", "message": "No."}})
            return
        self.server.asked += 1
        if self.server.asked <= self.server.signs_after:
            self._answer(202, {})
            return
        csr = str(self.server.requests[-1]["csr"]).encode()
        signed = self.server.pki.sign_request(csr, "host", "h1").decode()
        self._answer(200, {"certificate": signed, "ca": self.server.pki.ca_file.read_text()})

    def log_message(self, *_: object) -> None:
        return

    def _answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def manager(pki: Pki) -> Iterator[Manager]:
    manager = Manager(pki)
    yield manager
    manager.shutdown()
    manager.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def agent(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *map(str, argv)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def enroll(manager: Manager, state: Path, *more: object) -> subprocess.CompletedProcess[str]:
    trust = () if "--ca-sha256" in more else ("--ca-file", manager.pki.ca_file)
    return agent(
        "enroll", "--manager", manager.url, "--token", "right", *trust, "--state", state, "--virt-type", "qemu",
        "--libvirt-uri", "test:///default", "--listen", "127.0.0.1", "--address", "127.0.0.1", "--name", "h1",
        "--port", free_port(), "--console-port", free_port(), "--storage-root", state, *more,
    )


def test_a_host_is_enrolled_and_its_key_is_its_own(manager: Manager, tmp_path: Path) -> None:
    done = enroll(manager, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Start it: leasehold-agent run" in done.stdout
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    asked = manager.requests[0]
    assert (asked["hostname"], asked["address"]) == ("h1", "127.0.0.1")
    assert "PRIVATE" not in json.dumps(asked)
    ssl.create_default_context(cafile=str(tmp_path / "ca.pem")).load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")


def test_a_wrong_token_is_told_in_the_managers_words(manager: Manager, tmp_path: Path) -> None:
    done = enroll(manager, tmp_path, "--token", "wrong")
    assert done.returncode != 0
    assert "This enrollment token is unknown." in done.stderr
    assert not (tmp_path / "agent.toml").exists()


def test_a_manager_of_another_ca_is_not_believed(manager: Manager, tmp_path: Path) -> None:
    alien = Pki(tmp_path / "alien")
    done = enroll(manager, tmp_path / "state", "--ca-file", alien.ca_file)
    assert done.returncode != 0 and "cannot be reached" in done.stderr
    assert manager.requests == []


def test_the_fingerprint_decides_whom_to_believe(manager: Manager, tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(manager.pki.ca_file.read_text())
    wrong = enroll(manager, tmp_path / "a", "--ca-sha256", "00" * 32)
    assert wrong.returncode != 0 and "not your manager" in wrong.stderr
    assert manager.requests == []
    right = enroll(manager, tmp_path / "b", "--ca-sha256", hashlib.sha256(der).hexdigest())
    assert right.returncode == 0, right.stderr


def test_an_enrollment_that_was_cut_off_goes_on(manager: Manager, tmp_path: Path) -> None:
    manager.signs_after = 10_000
    cut = enroll(manager, tmp_path, "--wait", "0.1")
    assert cut.returncode != 0 and "Run the same command again" in cut.stderr
    manager.signs_after = 0
    again = enroll(manager, tmp_path)
    assert again.returncode == 0, again.stderr
    assert manager.requests[0]["csr"] == manager.requests[1]["csr"]


def test_an_agent_that_is_not_enrolled_says_what_to_do(tmp_path: Path) -> None:
    done = agent("run", "--state", tmp_path)
    assert done.returncode != 0
    assert "enroll this host first" in done.stderr and "Traceback" not in done.stderr


def test_the_probe_always_has_an_answer() -> None:
    done = agent("probe")
    assert done.returncode in (0, 1)
    assert done.stdout.strip().endswith(".") and "Traceback" not in done.stderr


def test_an_enrolled_agent_serves_survives_a_kill_and_ends_when_told(manager: Manager, tmp_path: Path, pki: Pki) -> None:
    assert enroll(manager, tmp_path).returncode == 0
    port = int(next(line for line in (tmp_path / "agent.toml").read_text().splitlines() if line.startswith("port")).split()[-1])
    asker = HostClient("127.0.0.1", port, client_context(*pki.issue("manager")))
    uid, spec = uuid4(), VmSpec(uuid4(), "w1", 64, 1)
    first = _run(tmp_path)
    try:
        outcome = asker.ask(uid, "start_vm", {"spec": spec}, wait_s=20)
        assert outcome.state == "done"
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    with pytest.raises(HostUnreachable):
        asker.report()
    second = _run(tmp_path)
    try:
        assert asker.ask(uid, "start_vm", {"spec": spec}, wait_s=20) == outcome  # from the journal
        second.send_signal(signal.SIGTERM)
        end = time.monotonic() + 30
        while second.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert second.returncode == 0
    finally:
        second.kill()
        second.communicate()


def _run(state: Path) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-m", "agent", "run", "--state", str(state)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "READY\n"
    return started
