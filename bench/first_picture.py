"""From Connect to the first whole picture, with a spare desktop and without one, on the real product with real QEMU."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import urllib3

from bench.figures import Figure, percentile
from bench.processes import Process
from bench.rfb import Viewer
from standalone.place import free_pair

SPARES, WITHOUT = 3, 2  # how often each is measured
START_S, BOOT_S = 300, 240  # limits, for a machine that emulates
LOOK_S = 0.1  # how often a client asks that waits
GOAL_MS = 1000


class Rest:
    """The portal's REST API for one person."""

    def __init__(self, ready: dict[str, Any], name: str) -> None:
        self.url, self.ca_file = ready["url"], ready["ca_file"]
        context = ssl.create_default_context(cafile=self.ca_file)
        self._http = urllib3.PoolManager(ssl_context=context, timeout=60, retries=False)
        self.token = ""
        password = next(user["password"] for user in ready["users"] if user["name"] == name)
        self.token = self.ask("POST", "/session", {"user": name, "password": password})["token"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = self._http.request(method, f"{self.url}/api/v1{path}", json=body, headers=headers)
        if answer.status >= 400:
            raise SystemExit(f"{method} {path} answered {answer.status}: {answer.data.decode()[:500]}")
        return json.loads(answer.data) if answer.data else None


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    """Start the product in a folder of its own, measure, stop it."""
    if os.geteuid() != 0:
        raise SystemExit("Real desktops need root: run “make bench”, or sudo.")
    folder = Path(tempfile.mkdtemp(prefix="lh-picture-"))
    port, _ = free_pair()
    product = Process("standalone", ["-m", "standalone", "--state", f"{folder}/state", "--port", str(port)], folder, {})
    try:
        product.wait_for((folder / "state" / "ready.json").exists, START_S)
        ready = json.loads((folder / "state" / "ready.json").read_text())
        say("the product runs; waiting for its first spare")
        yield from _measure(ready, say)
    finally:
        product.stop(limit_s=120)
        shutil.rmtree(folder, ignore_errors=True)


def _measure(ready: dict[str, Any], say: Callable[[str], None]) -> Iterator[Figure]:
    admin, ben = Rest(ready, "admin"), Rest(ready, "ben")
    pool = admin.ask("GET", "/pools")["items"][0]["id"]
    spare, again, boots, others = [], [], [], []
    for _ in range(SPARES):
        _wait(lambda: "spare" in _states(admin, pool), "a spare desktop")
        took, lease = _connect(ben, pool)
        spare.append(took)
        again += [_connect(ben, pool)[0] for _ in range(3)]
        ben.ask("POST", f"/leases/{lease}/return", {})
    say(f"with a spare: {_list(spare)} ms; reconnected to it: {_list(again)} ms")

    for what, times in (("Connect to first picture, with a spare", spare), ("  the same desktop opened again", again)):
        p50, p99 = percentile(times, 50), percentile(times, 99)
        yield Figure(what, p50, "ms", p50_ms=p50, p99_ms=p99, less_is_better=True, value_wanted=GOAL_MS)

    admin.ask("POST", f"/pools/{pool}/edit", {"spares": 0})
    for _ in range(WITHOUT):
        _wait(lambda: set(_states(admin, pool)) == {"ready"}, "all desktops to be off")
        before = {task["id"] for task in _starts(admin)}
        took, lease = _connect(ben, pool)
        guest = _guest_ms(admin, next(task["id"] for task in _starts(admin) if task["id"] not in before))
        boots.append(guest)
        others.append(took - guest)
        ben.ask("POST", f"/leases/{lease}/return", {})
    say(f"without a spare: {_list([a + b for a, b in zip(boots, others, strict=True)])} ms, of which the guest {_list(boots)} ms")
    yield Figure("Connect to first picture, without a spare", min(a + b for a, b in zip(boots, others, strict=True)), "ms",
                 min(boots), "what QEMU's start and the guest's boot take by themselves", less_is_better=True)
    yield Figure("  of which not QEMU's start or the guest's boot", min(others), "ms", less_is_better=True, value_wanted=GOAL_MS)


def _connect(rest: Rest, desktop: str) -> tuple[float, str]:
    """Milliseconds from the first Connect to the last pixel of the first picture, and the lease."""
    began = perf_counter()
    end = began + BOOT_S
    body = {"protocol": "vnc", "client": "browser"}
    while (got := rest.ask("POST", f"/me/desktops/{desktop}/connect", body))["state"] != "ready":
        if perf_counter() > end:
            raise SystemExit(f"The desktop is not ready after {BOOT_S} s: {got}")
        sleep(LOOK_S)
    viewer = Viewer(got["viewer"]["url"], got["viewer"]["protocols"], token=rest.token, origin=rest.url, ca_file=rest.ca_file)
    try:
        viewer.picture()
        return (perf_counter() - began) * 1000, got["lease"]["id"]
    finally:
        viewer.close()


def _guest_ms(admin: Rest, task: str) -> float:
    """How long the host took to start QEMU and the guest to boot, as the task's steps have it."""
    steps = admin.ask("GET", f"/tasks/{task}")["steps"]
    return sum(1000 * (_time(step["ended_at"]) - _time(step["asked_at"])) for step in steps if step["ended_at"])


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _starts(admin: Rest) -> list[dict[str, Any]]:
    return list(admin.ask("GET", "/tasks?search=command%20=%20vm.start")["items"])


def _states(admin: Rest, pool: str) -> list[str]:
    return [member["state"] for member in admin.ask("GET", f"/pools/{pool}/members")["items"]]


def _wait(true: Callable[[], bool], what: str) -> None:
    end = perf_counter() + BOOT_S
    while not true():
        if perf_counter() > end:
            raise SystemExit(f"Waited in vain for {what}.")
        sleep(0.5)


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)
