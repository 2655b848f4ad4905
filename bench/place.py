"""Where a storm takes place: a throw-away PostgreSQL with a pool of running spares and people entitled to it."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

import assembly  # noqa: F401 -- every table must be known before the first flush
from backend.ca import HOSTS_CA, HOSTS_CA_KEY, Authority, keep_hosts_authority, write_private
from backend.clock import WallClock
from backend.db import Tx, new_sessions
from backend.directory.internal import hash_password
from backend.directory.models import User
from backend.vms.models import Vm
from bench.cast import PASSWORD, person
from sim import make
from sim.postgres import Cluster

HOSTS = 4
FIRST_TASK = 7_000_001  # so large that a task's number in a statement can be nothing else


@dataclass
class Place:
    """A folder with keys and certificates, and a cluster whose template database has all rows in it."""

    people: int  # who may have a desktop, and how many desktops there are
    member_state: str = "spare"
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="lh-bench-")))
    cluster: Cluster = field(default_factory=Cluster)
    pool_id: UUID = field(init=False)
    _template: str = field(init=False)

    def set_up(self) -> None:
        """Start PostgreSQL, write the rows and the certificates."""
        self.cluster.start()
        now = WallClock().now()
        self._certificates(now)
        self._template = self.cluster.new_database()
        sessions = new_sessions(self.cluster.url(self._template))
        with sessions.begin() as tx:
            self._rows(tx, now)
            tx.execute(sa.text(f"ALTER TABLE task ALTER COLUMN id RESTART WITH {FIRST_TASK}"))
        with sessions.kw["bind"].connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
        sessions.kw["bind"].dispose()

    def clear_up(self) -> None:
        """Stop PostgreSQL and remove the folder."""
        with suppress(Exception):
            self.cluster.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self) -> str:
        """A fresh copy of the template; answers its name."""
        self.cluster.template = self._template
        return self.cluster.new_database()

    @property
    def postmaster(self) -> int:
        """The process id of PostgreSQL."""
        return int((self.cluster.folder / "data" / "postmaster.pid").read_text().split()[0])

    def environ(self, database: str, port: int) -> dict[str, str]:
        """Settings of web and manager on this database."""
        return {
            "LEASEHOLD_DATABASE_URL": self.cluster.url(database), "LEASEHOLD_SECRET_KEY_FILE": f"{self.folder}/key",
            "LEASEHOLD_PUBLIC_URL": f"https://127.0.0.1:{port}", "LEASEHOLD_WEB_LISTEN": f"127.0.0.1:{port}",
            "LEASEHOLD_TLS_CERT_FILE": f"{self.folder}/web.pem", "LEASEHOLD_TLS_KEY_FILE": f"{self.folder}/web-key.pem",
            "LEASEHOLD_CA_FILE": f"{self.folder}/ca.pem", "LEASEHOLD_HOSTS_CA_FILE": f"{self.folder}/{HOSTS_CA}",
            "LEASEHOLD_HOSTS_CA_KEY_FILE": f"{self.folder}/{HOSTS_CA_KEY}",
        }

    def _certificates(self, now: datetime) -> None:
        authority = Authority.create(now)
        authority.save(self.folder / "ca.pem", self.folder / "ca-key.pem")
        keep_hosts_authority(self.folder, now)
        key, certificate = authority.issue("127.0.0.1", "web", ["127.0.0.1", "localhost"], now)
        (self.folder / "web.pem").write_text(certificate)
        write_private(self.folder / "web-key.pem", key.encode())
        write_private(self.folder / "key", os.urandom(32))

    def _rows(self, tx: Tx, now: datetime) -> None:
        hosts = [make.a_host(tx, f"host{n}", reported_at=now) for n in range(HOSTS)]
        pool = make.a_pool(tx, "Desktops", host=hosts[0], size=self.people, spares=self.people, lease_s=3600)
        self.pool_id = pool.id
        for n in range(self.people):
            make.a_member(tx, pool, self.member_state, host=hosts[n % HOSTS])
        tx.execute(sa.update(Vm).where(Vm.state == "up").values(started_at=now))
        hashed = hash_password(PASSWORD)  # one for all: checking it costs each of them the same
        directory = make.a_directory(tx)
        people = [User(name=person(n), directory_id=directory.id, password_hash=hashed) for n in range(self.people)]
        tx.add_all(people)
        tx.flush()
        for one in people:
            make.a_permission(tx, one, pool)
