"""The whole product as `make run` starts it, with a state folder and ports of its own, and ways to look into it."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3

from standalone.place import Place, free_pair

ROOT = Path(__file__).parent.parent.parent
START_S, STOP_S = 240, 90


def until(true: Callable[[], Any], what: str, patience_s: float = 120) -> Any:
    """What `true` answers once it is true."""
    end = time.monotonic() + patience_s
    while not (answer := true()):
        assert time.monotonic() < end, f"not within {patience_s} s: {what}"
        time.sleep(0.2)
    return answer


class Product:
    """One state folder, started and stopped as often as a test wants."""

    def __init__(self, state: Path) -> None:
        self.state, self.port = state, free_pair()[0]
        self.place = Place(state, self.port)
        self.process: subprocess.Popen[str] | None = None
        self.output = ""

    # -- its life ------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start it and wait for ready.json, which is written last."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "standalone", "--state", str(self.state), "--port", str(self.port)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        end, lines = time.monotonic() + START_S, []
        for line in self.process.stdout:
            lines.append(line)
            assert time.monotonic() < end, "".join(lines)
            if "Ctrl-C stops everything" in line:
                break
        self.output = "".join(lines)
        assert self.place.ready.exists(), self.output
        self.ready = json.loads(self.place.ready.read_text())
        self.passwords = {user["name"]: user["password"] for user in self.ready["users"]}
        self.url = self.ready["url"]
        context = ssl.create_default_context(cafile=self.ready["ca_file"])
        self._http = urllib3.PoolManager(ssl_context=context, timeout=30, retries=False)
        self._tokens: dict[str, str] = {}

    def stop(self, signal: int) -> int:
        """Send the signal and answer the exit code."""
        assert self.process is not None and self.process.stdout is not None
        self.process.send_signal(signal)
        self.output, _ = self.process.communicate(timeout=STOP_S)
        return self.process.returncode

    def left_over(self) -> list[str]:
        """Processes that belong to this state folder: by command line, environment or open folder."""
        marks = (str(self.state).encode(), str(self.place.run).encode())
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line, environ = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            except OSError:
                continue
            if int(folder.name) != (self.process.pid if self.process else 0) and any(mark in line + environ for mark in marks):
                found.append(line.replace(b"\0", b" ").decode())
        return found

    # -- its REST API --------------------------------------------------------------------------------------------
    def ask(self, user: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON (or text) of a call as this user."""
        if user not in self._tokens:
            signed = self._send("POST", "/session", {}, {"user": user, "password": self.passwords[user]})
            self._tokens[user] = signed[1]["token"]
        return self._send(method, path, {"Authorization": f"Bearer {self._tokens[user]}"}, body)

    def _send(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        more = {} if method == "GET" else {"json": body or {}}
        answer = self._http.request(method, f"{self.url}/api/v1{path}", headers=headers, **more)
        kind = answer.headers.get("Content-Type", "")
        return answer.status, json.loads(answer.data) if "json" in kind and answer.data else answer.data.decode()

    def act(self, path: str, body: Any = None) -> None:
        """Have the administrator do this, and wait until it is done."""
        status, answer = self.ask("admin", "POST", path, body)
        assert status == 202, answer
        task = answer["task"]

        def over() -> bool:
            nonlocal task
            task = self.ask("admin", "GET", f"/tasks/{task['id']}")[1]
            return task["state"] not in ("queued", "running")

        until(over, f"POST {path}")
        assert task["state"] == "succeeded", task

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """A collection as the administrator sees it."""
        return self.ask("admin", "GET", f"/{kind}")[1]["items"]

    def desktop(self, user: str, kind: str) -> dict[str, Any]:
        """The person's desktop of this kind: pool or vm."""
        return next(item for item in self.ask(user, "GET", "/me/desktops")[1]["items"] if item["kind"] == kind)

    # -- its guests ----------------------------------------------------------------------------------------------
    def virsh(self, *words: str) -> str:
        uri = tomllib.loads((self.place.agent / "agent.toml").read_text())["libvirt_uri"]
        return subprocess.run(["virsh", "-q", "-c", uri, *words], capture_output=True, text=True, check=True).stdout

    def sh(self, vm_id: str, script: str) -> str:
        """What a shell in the guest says."""
        started = self._agent(vm_id, "guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})
        while not (done := self._agent(vm_id, "guest-exec-status", pid=started["pid"]))["exited"]:
            time.sleep(0.1)
        return base64.b64decode(done.get("out-data", "")).decode()

    def _agent(self, vm_id: str, execute: str, **arguments: Any) -> Any:
        question = json.dumps({"execute": execute, "arguments": arguments})
        return json.loads(self.virsh("qemu-agent-command", vm_id, question))["return"]
