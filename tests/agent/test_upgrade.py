"""A real agent process is upgraded with real wheels by a program of its operator, and starts again by itself."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import urllib3

from agent import config
from agent.config import AgentConfig
from agent.enroll import CA, CERTIFICATE, KEY
from hostapi.client import HostClient, HostUnreachable
from hostapi.tls import client_context
from hostapi.types import HostReport, Outcome, Secret
from hostapi.wire import API_HEADER
from tests.pki import Pki

ROOT = Path(__file__).parents[2]
PROGRAM = """#!/bin/sh
set -e
rm -rf {target}.new
{python} -m pip install -q --no-index --no-deps --target {target}.new "$1"
rm -rf {target}/leasehold-*.dist-info
cp -r {target}.new/. {target}
"""


def a_wheel(folder: Path, version: str) -> Path:
    """A wheel of what an agent needs, of this version."""
    wheel, about = folder / f"leasehold-{version}-py3-none-any.whl", f"leasehold-{version}.dist-info"
    modules = [path for room in ("agent", "hostapi") for path in (ROOT / room).glob("*.py")]
    files = {str(path.relative_to(ROOT)): path.read_bytes() for path in modules}
    files[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: leasehold\nVersion: {version}\n".encode()
    files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"]).encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel


@dataclass
class Running:
    """An agent that runs, and the manager's way to it."""

    process: subprocess.Popen[bytes]
    client: HostClient
    folder: Path
    port: int
    pki: Pki

    def ask(self, version: str, package: bytes, sha256: str = "", uid: UUID | None = None) -> Outcome:
        """What becomes of an upgrade."""
        secret = Secret("package", base64.b64encode(package).decode())
        args = {"version": version, "sha256": sha256 or hashlib.sha256(package).hexdigest(), "package": secret}
        uid, end = uid or uuid4(), time.monotonic() + 120
        while (outcome := self.client.ask(uid, "upgrade_agent", args, wait_s=5)).state == "running":
            assert time.monotonic() < end, outcome
        return outcome

    def until(self, true: Callable[[HostReport], bool]) -> HostReport:
        """The first report of which this is true."""
        end = time.monotonic() + 120
        while True:
            try:
                report = self.client.report()
                if true(report):
                    return report
            except HostUnreachable:
                assert self.process.poll() is None, "the agent has ended"
            assert time.monotonic() < end, "not within two minutes"
            time.sleep(0.2)


@pytest.fixture
def running(tmp_path: Path, pki: Pki) -> Iterator[Running]:
    target, state, own = tmp_path / "installed", tmp_path / "state", tmp_path / "own"
    for folder in (target, state, own):
        folder.mkdir(mode=0o755)
    program = own / "upgrade"
    program.write_text(PROGRAM.format(python=sys.executable, target=target))
    program.chmod(0o755)
    subprocess.run([str(program), str(a_wheel(tmp_path, "1.0"))], check=True)
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = free.getsockname()[1], other.getsockname()[1]
    for source, name in zip(pki.issue("host"), (CA, CERTIFICATE, KEY), strict=True):
        shutil.copy(source, state / name)
    config.save(state, AgentConfig("h1", "test:///default", "127.0.0.1", *ports, upgrade=str(program)))
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-m", "agent", "run", "--state", str(state)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    client = HostClient("127.0.0.1", ports[0], client_context(*pki.issue("manager")))
    running = Running(process, client, tmp_path, ports[0], pki)
    running.until(lambda report: report.agent_version == "1.0")
    yield running
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    client.close()


def test_an_agent_becomes_another_version_and_stays_the_same_process(running: Running) -> None:
    uid, package = uuid4(), a_wheel(running.folder, "2.0").read_bytes()
    assert running.ask("2.0", package, uid=uid).state == "done"
    assert running.until(lambda report: report.agent_version == "2.0").hostname
    assert running.process.poll() is None
    assert running.ask("2.0", package, uid=uid).state == "done"  # its journal knows
    assert running.ask("2.0", package).state == "done"  # it has that version already


def test_what_cannot_be_installed_leaves_the_agent_as_it_was(running: Running) -> None:
    refused = running.ask("2.0", b"no wheel", sha256="0" * 64)
    assert refused.failure is not None and refused.failure.code == "bad_package"
    broken = running.ask("2.0", b"no wheel")
    assert broken.failure is not None and broken.failure.code == "upgrade_failed"
    assert "leasehold-2.0" in broken.failure.facts["output"]
    (running.folder / "own").chmod(0o777)  # somebody else could put another program there
    unsafe = running.ask("2.0", a_wheel(running.folder, "2.0").read_bytes())
    assert unsafe.failure is not None and unsafe.failure.code == "no_upgrade"
    assert running.client.report().agent_version == "1.0"


def test_a_manager_of_another_version_can_upgrade_and_nothing_else(running: Running) -> None:
    context = client_context(*running.pki.issue("manager"))
    pool = urllib3.HTTPSConnectionPool("127.0.0.1", running.port, ssl_context=context, assert_hostname=False, retries=False)

    def post(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        answer = pool.request("POST", path, body=msgspec.json.encode(body), headers={API_HEADER: "another"})
        return answer.status, msgspec.json.decode(answer.data)

    package = {"name": "package", "value": ""}
    args = {"version": "1.0", "sha256": "0" * 64, "package": package}
    status, outcome = post("/ask", {"uid": str(uuid4()), "verb": "upgrade_agent", "args": args, "wait_s": 20})
    assert (status, outcome["state"]) == (200, "done")
    status, answer = post("/ask", {"uid": str(uuid4()), "verb": "stop_vm", "args": {"vm_id": str(uuid4())}, "wait_s": 1})
    assert (status, answer["error"]["code"]) == (409, "version_mismatch")
    assert post("/question", {"verb": "report", "args": {}})[0] == 409
    pool.close()
