"""Disks by the command line, through a portal and a host's agent that really run: up, broken off, on, and down again."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from agent.config import AgentConfig
from agent.service import AgentService
from backend.clock import WallClock
from backend.db import Sessions
from backend.directory import internal
from backend.directory import sessions as web_sessions
from backend.hosts.models import Host
from backend.storage.models import StorageDomain
from cli.client import Client
from cli.config import Config
from hostapi.client import HostClient, client_context
from hostapi.desk import Desk
from hostapi.journal import Journal
from hostapi.server import HostServer, server_context
from sim import make
from tests.cli.conftest import Cli, Served, free_port, serving
from tests.pki import Pki
from tests.tasks.bench import Bench

SIZE = 24 << 20


class OneHost(Bench):
    """The bench whose host is an agent with real files."""

    def attach(self, root: Path, port: int, client: HostClient) -> None:
        self.client = client
        folder = str(root / "domain")
        client.ask(uuid4(), "attach_domain", {"path": folder}, wait_s=30)
        with self.sessions.begin() as tx:
            host, domain = tx.get_one(Host, self.host_id), tx.get_one(StorageDomain, self.domain_id)
            host.address, host.port, domain.path = "127.0.0.1", port, folder
            internal.directory(tx)
            root_user = make.a_user(tx, "root")
            make.a_permission(tx, root_user, role="system_admin")
            _, self.token, _ = web_sessions.create(tx, root_user.id, client="api", address="", now=self.clock.now())

    def doors(self, host_id: UUID, address: str, port: int) -> HostClient:
        return self.client


@pytest.fixture
def cli(sessions: Sessions, database_url: str, pki: Pki, tmp_path: Path) -> Iterator[Cli]:
    for name in ("agent", "portal", "home"):
        (tmp_path / name).mkdir()
    agent = AgentService(AgentConfig("h1", "test:///default", storage_roots=(str(tmp_path / "agent"),)), tmp_path / "agent")
    desk = Desk(agent, Journal(tmp_path / "agent" / "journal.sqlite3"))
    server = HostServer(desk, "127.0.0.1", 0, server_context(*pki.issue("host")))
    server.start()
    client = HostClient("127.0.0.1", server.port, client_context(*pki.issue("manager")))
    place = OneHost(sessions, WallClock())  # type: ignore[arg-type]
    place.attach(tmp_path / "agent", server.port, client)
    runner, over = place.runner(), threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            runner.beat()
            while runner.step():
                pass

    worker = threading.Thread(target=work)
    worker.start()
    ours, port, files = pki.issue("portal"), free_port(), pki.issue("gateway", "localhost")
    shown = {"LEASEHOLD_HOSTS_CA_FILE": str(ours.ca_file), "LEASEHOLD_CLIENT_CERT_FILE": str(ours.cert_file),
             "LEASEHOLD_CLIENT_KEY_FILE": str(ours.key_file)}  # fmt: skip
    try:
        with serving(tmp_path / "portal", database_url, port, files, **shown) as (process, log):
            served = Served(f"https://localhost:{port}", files.ca_file, None, process, log)  # type: ignore[arg-type]
            yield Cli(served, tmp_path / "home", {"LEASEHOLD_TOKEN": place.token})
    finally:
        over.set()
        worker.join()
        client.close()
        desk.close()
        server.stop()


def test_a_disk_goes_up_on_and_comes_back(cli: Cli, tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(bytes(range(256)) * (SIZE // 256))
    begun = cli("disk", "upload", str(source), "--name", "mine", "--format", "iso")
    assert begun.code == 1 and "file system" in begun.err, begun
    assert cli("disk", "remove", "mine", "--wait").code == 0

    # as if the command had been killed after its first piece
    portal = Client(Config(cli.home, cli.served.url, str(cli.served.ca_file), cli.environ["LEASEHOLD_TOKEN"]))
    domain_id, data = portal.ask("GET", "/storagedomains")["items"][0]["id"], source.read_bytes()
    wanted = {"name": "mine", "domain_id": domain_id, "format": "raw", "size_bytes": SIZE, "sha256": sha256(data).hexdigest()}
    transfer_id = portal.ask("POST", "/disks/upload", wanted)["task"]["result"]["transfer_id"]
    portal.send(f"/transfers/{transfer_id}", data[: 9 << 20], {"Content-Range": f"bytes 0-{(9 << 20) - 1}/{SIZE}"})
    made = cli("disk", "upload", str(source), "--name", "mine")
    assert made.code == 0 and "Going on at 37 per cent" in made.err, made
    assert cli("disks", "name = mine", "--columns", "state,capacity_mib,upload").out.split()[-3:] == ["ok", "24", "done"]

    back = tmp_path / "back.qcow2"
    assert cli("disk", "download", "mine", str(back)).code == 0
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", source, back], check=True)
    again = cli("disk", "download", "mine", str(back))
    assert again.code == 1 and "there already" in again.err


def test_a_hostile_image_is_refused_in_words(cli: Cli, tmp_path: Path) -> None:
    evil = tmp_path / "evil.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", evil, "8M"], check=True)
    told = cli("disk", "upload", str(evil))
    assert told.code == 1 and "rests on another file" in " ".join(told.err.split()), told
