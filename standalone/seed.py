"""Fills a new installation over REST, as an administrator's script would: infrastructure, template, pool, people."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from standalone.guest import CMDLINE, DISK_MIB, MEMORY_MIB, GuestImage
from standalone.processes import Stopped
from standalone.trouble import Trouble

Json = dict[str, Any]
TASK_S = 120.0
ADMIN = "admin"
HOST = "this-machine"


@dataclass(frozen=True)
class Person:
    """Somebody made for a first look; `role` is what the table of users says of them."""

    name: str
    display_name: str
    role: str
    pool: bool = False
    vm: str = ""
    auto_launch: bool = False


PEOPLE = (
    Person("anna", "Anna Alder", "the pool alone; goes straight to a desktop", pool=True, auto_launch=True),
    Person("ben", "Ben Birch", "the pool, and a VM of his own", pool=True, vm="ben-workstation"),
    Person("carl", "Carl Cedar", "nothing yet"),
)


class Rest:
    """The portal's REST API for one signed-in administrator."""

    def __init__(self, url: str, ca_file: Path, password: str, stopping: threading.Event) -> None:
        self.url, self._stopping = f"{url}/api/v1", stopping
        self._http = urllib3.PoolManager(ssl_context=ssl.create_default_context(cafile=str(ca_file)), timeout=30, retries=False)
        self._headers: dict[str, str] = {}
        signed = self.send("POST", "/session", {"user": ADMIN, "password": password})
        self._headers["Authorization"] = f"Bearer {signed['token']}"

    def send(self, method: str, path: str, body: Json | None = None, fields: Json | None = None) -> Any:
        """The answer's JSON; `Trouble` with the portal's own sentence when it refuses."""
        answer = self._http.request(method, self.url + path, json=body, fields=fields, headers=self._headers)
        told: Any = json.loads(answer.data) if answer.data else {}
        if answer.status >= 400:
            raise Trouble(f"The portal refuses {method} {path}: {told['error']['message']}")
        return told

    def find(self, kind: str, name: str) -> Json | None:
        """The thing of this name."""
        rows = self.send("GET", f"/{kind}", fields={"search": f'name = "{name}"'})["items"]
        return next(iter(rows), None)

    def act(self, path: str, body: Json) -> None:
        """Ask for something and wait until the task that does it has succeeded."""
        task = self.send("POST", path, body)["task"]

        def over() -> bool:
            nonlocal task
            if task["state"] not in ("succeeded", "failed", "cancelled"):
                task = self.send("GET", f"/tasks/{task['id']}")
            return task["state"] in ("succeeded", "failed", "cancelled")

        self.until(over, f"POST {path}")
        if task["state"] != "succeeded":
            raise Trouble(f"POST {path} {task['state']}: {task.get('why') or task.get('error')}")

    def make(self, kind: str, name: str, **fields: Any) -> Json:
        """The thing of this name, made unless it is there."""
        if found := self.find(kind, name):
            return found
        self.act(f"/{kind}", {"name": name, **fields})
        made = self.find(kind, name)
        assert made is not None
        return made

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Wait; `Trouble` when it takes too long, `Stopped` when told to stop."""
        waited = 0.0
        while not done():
            if self._stopping.wait(0.2):
                raise Stopped
            waited += 0.2
            if waited > TASK_S:
                raise Trouble(f"{what} took longer than {TASK_S:.0f} s; the logs in the state folder say more.")


def infrastructure(rest: Rest) -> Json:
    """Data center, cluster and the announced host; the host has a `token` while its agent has not enrolled."""
    center = rest.make("datacenters", "Default")
    cluster = rest.make("clusters", "Default", data_center_id=center["id"])
    host = rest.find("hosts", HOST)
    if host is not None and host["state"] == "installing":  # announced by a start that was broken off
        rest.act(f"/hosts/{host['id']}/remove", {})
        host = None
    return host or {"cluster_id": cluster["id"], **rest.send("POST", "/hosts", {"name": HOST, "cluster_id": cluster["id"]})}


def desktops(rest: Rest, image: GuestImage, storage: Path, passwords: dict[str, str]) -> None:
    """Storage, template, pool, the VM of one person, and the people, once the host is up."""

    def host_is_up() -> bool:
        host = rest.find("hosts", HOST)
        return host is not None and host["state"] == "up"

    rest.until(host_is_up, f"Host {HOST}")
    host, cluster = rest.find("hosts", HOST), rest.find("clusters", "Default")
    assert host is not None and cluster is not None
    domain = rest.make("storagedomains", "local", host_id=host["id"], path=str(storage))
    template = rest.make(
        "templates", "Leasehold Guest", cluster_id=cluster["id"], domain_id=domain["id"],
        description="A small Linux with a clock, a shell and a guest agent", image_path=str(image.disk), capacity_mib=DISK_MIB,
        memory_mib=MEMORY_MIB, kernel=str(image.kernel), initrd=str(image.initrd), cmdline=CMDLINE, video="vga",
    )  # fmt: skip
    pool = rest.make(
        "pools", "Desktops", template_id=template["id"], description="A fresh desktop for an hour",
        size=4, spares=1, lease_s=3600, extend_s=1800, extensions=2,
    )  # fmt: skip
    for person in PEOPLE:
        user = rest.find("users", person.name)
        if user is None:
            account = {"name": person.name, "display_name": person.display_name, "auto_launch": person.auto_launch}
            rest.act("/users", {**account, "password": passwords[person.name]})
            user = rest.find("users", person.name)
            assert user is not None
        if person.pool:
            rest.act(f"/pools/{pool['id']}/entitlements", {"user_id": user["id"]})
        if person.vm:
            vm = rest.make("vms", person.vm, template_id=template["id"], description=f"{person.display_name}'s own")
            rest.act("/permissions", {"role": "user", "object_type": "vm", "object_id": vm["id"], "user_id": user["id"]})
