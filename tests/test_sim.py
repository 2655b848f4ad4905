"""`python -m sim --hosts …`: a data center to click through, started as a person would."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.broker.processes import ROOT, free_port, wait_until


class Sim:
    """The command with its portal, as it told where that is."""

    def __init__(self, *arguments: str) -> None:
        argv = [sys.executable, "-m", "sim", "--port", str(free_port()), *arguments]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        found = re.search(r"(\S+)/ready.json", said)
        assert found, said
        self.folder = Path(found[1])
        ready = json.loads((self.folder / "ready.json").read_text())
        self.http = urllib3.PoolManager(ca_certs=ready["ca_file"], retries=False, timeout=30)
        self.url, self.headers = f"{ready['url']}/api/v1", dict[str, str]()
        admin = ready["users"][0]
        token = self.ask("POST", "/session", {"user": admin["name"], "password": admin["password"]})["token"]
        self.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.http.request(method, self.url + path, json=body, headers=self.headers)
        assert answer.status < 400, answer.data
        return json.loads(answer.data)

    def tell(self, sentence: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(sentence + "\n")
        self.process.stdin.flush()

    def hosts(self) -> dict[str, Any]:
        return {host["name"]: host for host in self.ask("GET", "/hosts")["items"]}


@pytest.fixture(params=[(), ("--in-process",)], ids=["wire", "in-process"])
def sim(request: pytest.FixtureRequest) -> Iterator[Sim]:
    made = Sim("--hosts", "4", "--vms", "12", *request.param)
    yield made
    made.process.send_signal(signal.SIGINT)
    made.process.communicate(timeout=90)
    assert made.process.returncode == 0
    assert not made.folder.exists()


def test_a_data_center_to_click_through(sim: Sim) -> None:
    """Its hosts report their VMs, and what is told to it happens."""
    wait_until(lambda: all(host["memory_free_mib"] < host["memory_mib"] for host in sim.hosts().values()), "all have reported")
    assert {host["state"] for host in sim.hosts().values()} == {"up", "pending_approval"}
    sim.tell("power host-002 off")
    wait_until(lambda: sim.hosts()["host-002"]["state"] != "up", "the manager misses the host")
    assert sim.hosts()["host-003"]["state"] == "up"
