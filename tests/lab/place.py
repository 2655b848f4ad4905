"""The product on the lab's hosts: PostgreSQL, manager, web and gateway as processes on this machine, the agents enrolled."""

from __future__ import annotations

import json
import os
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from signal import SIGTERM
from typing import Any

import urllib3

import assembly  # noqa: F401 -- every table must be known before the first flush
from backend.bootstrap import bootstrap
from backend.ca import HOSTS_CA, HOSTS_CA_KEY, Authority, keep_hosts_authority, write_private
from backend.clock import WallClock
from backend.db import new_sessions
from sim.postgres import Cluster
from standalone import guest
from standalone.processes import Process
from tests.lab.hosts import ROOT, Hosts, LabHost, until

ADMIN, PASSWORD = "admin", "a good long password"
OVER = ("succeeded", "failed", "cancelled")


class Place:
    """`lab[“hv1”]` is a host, `rest(…)` asks the portal as the administrator, `parts` are the manager's processes."""

    def __init__(self, cluster: Cluster, hosts: int = 3) -> None:
        self.lab = Hosts(hosts)
        self.cluster, self.folder, self.net = cluster, self.lab.folder, self.lab.net
        self.database = cluster.new_database()
        self.sessions = new_sessions(cluster.url(self.database))
        self.url, self.gateway = f"https://{self.net.manager}:8443", f"{self.net.manager}:8444"
        self.ca_file = self.folder / "ca.pem"
        self.parts: dict[str, Process] = {}
        self._http: urllib3.PoolManager | None = None
        self._headers: dict[str, str] = {}

    def __getitem__(self, name: str) -> LabHost:
        return self.lab[name]

    # -- life --------------------------------------------------------------------------------------
    def start(self) -> None:
        """Everything: the manager's processes, the hosts, and their agents, enrolled and up."""
        self._certificates()
        bootstrap(self.sessions, WallClock(), ADMIN, PASSWORD)
        self._add("web", "wsgi.py")
        self._add("manager1", "managerd.py")
        self._add("gateway", "-m", "broker.gateway")
        self.lab.start()
        until(self._signs_in, f"the portal answers: {self.words()}")
        center = self.make("datacenters", "Default")
        cluster = self.make("clusters", "Default", data_center_id=center["id"])
        announced = {name: self.rest("POST", "/hosts", {"name": name, "cluster_id": cluster["id"]}) for name in self.lab.hosts}
        with ThreadPoolExecutor(len(announced)) as pool:
            list(pool.map(lambda name: self.lab[name].enroll(self.url, self.ca_file, announced[name]["token"]), announced))
        for name in announced:
            until(lambda name=name: self.row("hosts", name)["state"] == "up", f"host {name} is up. {self.words()}")

    def stop(self) -> None:
        """Stop everything and forget it."""
        for part in reversed(self.parts.values()):
            part.stop()
        self.lab.stop()
        self.sessions.kw["bind"].dispose()
        self.cluster.drop(self.database)

    def kill(self, part: str) -> None:
        """Kill a process of the manager's side."""
        self.parts[part].popen.kill()
        self.parts[part].popen.wait()

    def revive(self, part: str) -> None:
        """Start it again."""
        self.parts[part].start()

    def words(self) -> str:
        """What every process has said last."""
        last = [f"{part.name}: {part.last_words()}" for part in self.parts.values()]
        return "\n".join([*last, *(host.log() for host in self.lab.hosts.values())])

    # -- what is there -----------------------------------------------------------------------------
    def furnish(self) -> dict[str, Any]:
        """A shared storage domain that all hosts reach, and a template in it; answers the template."""
        image = guest.build(self.lab.shared / "guest")
        host = next(iter(self.lab.hosts))
        domain = self.make("storagedomains", "shared", host_id=self.row("hosts", host)["id"], type="posixfs",
                           path=str(self.lab.shared / "domain"))  # fmt: skip
        search = f"/reaches?search=domain_id%20%3D%20{domain['id']}"
        until(lambda: sum(one["ok"] for one in self.rest("GET", search)["items"]) == len(self.lab.hosts), "all reach it")
        return self.make(
            "templates", "Lab guest", cluster_id=self.row("clusters", "Default")["id"], domain_id=domain["id"],
            image_path=str(image.disk), capacity_mib=guest.DISK_MIB, memory_mib=guest.MEMORY_MIB, kernel=str(image.kernel),
            initrd=str(image.initrd), cmdline=guest.CMDLINE, video="vga", boot_timeout_s=240,
        )  # fmt: skip

    def vm(self, name: str) -> dict[str, Any]:
        """A VM from the template, started and booted."""
        made = self.make("vms", name, template_id=self.row("templates", "Lab guest")["id"])
        self.act(f"/vms/{made['id']}/start")
        return self.row("vms", name)

    # -- REST --------------------------------------------------------------------------------------
    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON; a refusal fails the test with its sentence."""
        assert self._http is not None
        more = {} if method == "GET" else {"json": body or {}}
        answer = self._http.request(method, f"{self.url}/api/v1{path}", headers=self._headers, **more)
        told: Any = json.loads(answer.data) if answer.data else {}
        assert answer.status < 400, f"{method} {path}: {told}"
        return told

    def row(self, plural: str, name: str) -> dict[str, Any]:
        """The thing of this name."""
        found: dict[str, Any] = self.rest("GET", f"/{plural}?search=name%20%3D%20%22{name.replace(' ', '%20')}%22")["items"][0]
        return found

    def ask(self, path: str, body: Any = None) -> int:
        """Ask for something; answers the task's number."""
        return int(self.rest("POST", path, body)["task"]["id"])

    def over(self, task: int, limit_s: float = 300) -> dict[str, Any]:
        """The task once it is over."""

        def looked() -> Any:
            told = self.rest("GET", f"/tasks/{task}")
            return told if told["state"] in OVER else None

        ended: dict[str, Any] = until(looked, f"task {task} is over. {self.words()}", limit_s)
        return ended

    def act(self, path: str, body: Any = None) -> dict[str, Any]:
        """Do something and wait until it is done."""
        ended = self.over(self.ask(path, body))
        assert ended["state"] == "succeeded", f"{path}: {ended} {self.words()}"
        return ended

    def make(self, plural: str, name: str, **fields: Any) -> dict[str, Any]:
        """The thing of this name, made now."""
        self.act(f"/{plural}", {"name": name, **fields})
        return self.row(plural, name)

    # -- inside ------------------------------------------------------------------------------------
    def _signs_in(self) -> bool:
        assert self.parts["web"].popen.poll() is None, self.words()
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        http = urllib3.PoolManager(ssl_context=trust, timeout=30, retries=False)
        try:
            answer = http.request("POST", f"{self.url}/api/v1/session", json={"user": ADMIN, "password": PASSWORD})
        except urllib3.exceptions.HTTPError:
            return False
        self._http, self._headers = http, {"Authorization": f"Bearer {json.loads(answer.data)['token']}"}
        return True

    def _add(self, name: str, *argv: str) -> None:
        at, role = self.folder, "gateway" if name == "gateway" else "manager"
        settings = {
            "DATABASE_URL": self.cluster.url(self.database), "SECRET_KEY_FILE": f"{at}/key", "PUBLIC_URL": self.url,
            "WEB_LISTEN": self.url.removeprefix("https://"), "GATEWAY_PUBLIC": self.gateway, "GATEWAY_LISTEN": self.gateway,
            "TLS_CERT_FILE": f"{at}/web.pem", "TLS_KEY_FILE": f"{at}/web-key.pem", "CA_FILE": str(self.ca_file),
            "HOSTS_CA_FILE": f"{at}/{HOSTS_CA}", "HOSTS_CA_KEY_FILE": f"{at}/{HOSTS_CA_KEY}",
            "CLIENT_CERT_FILE": f"{at}/{role}.pem", "CLIENT_KEY_FILE": f"{at}/{role}-key.pem",
        }
        environ = {"PYTHONPATH": str(ROOT)} | {f"LEASEHOLD_{key}": value for key, value in settings.items()}
        command = [sys.executable, *(str(ROOT / word) if word.endswith(".py") else word for word in argv)]
        self.parts[name] = Process(name, command, self.folder / f"{name}.log", environ, SIGTERM)

    def _certificates(self) -> None:
        now, ours = WallClock().now(), Authority.create(WallClock().now())
        ours.save(self.ca_file, self.folder / "ca-key.pem")
        keep_hosts_authority(self.folder, now)
        key, certificate = ours.issue("web", "web", [self.net.manager, "localhost"], now)
        (self.folder / "web.pem").write_text(certificate)
        write_private(self.folder / "web-key.pem", key.encode())
        write_private(self.folder / "key", os.urandom(32))



