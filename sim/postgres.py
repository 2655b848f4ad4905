"""A throw-away PostgreSQL cluster, and a fresh database for every test and scenario."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from uuid import uuid4

import psycopg2

from backend.schema import migrate

# nothing of it is worth keeping, and its databases live for seconds
THROWN_AWAY = "-c synchronous_commit=off -c wal_level=minimal -c max_wal_senders=0 -c checkpoint_timeout=1h -c jit=off"
BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]


class Cluster:
    """A private cluster on a Unix socket, as the user postgres when we are root."""

    def __init__(self, *, durable: bool = False) -> None:
        """A durable one loses nothing that was committed when it crashes (unless the machine crashes too)."""
        self.durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix="lh-pg-"))
        self.template: str | None = None

    def _run(self, *argv: str) -> None:
        user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **user)  # type: ignore[call-overload]

    def start(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run(
            f"{BIN}/initdb",
            "-D",
            f"{self.folder}/data",
            "-U",
            "leasehold",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        )
        self.serve()

    def serve(self) -> None:
        """Start its server; recovers first what a crash has left."""
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off -c full_page_writes=off -c max_connections=200"
        options += "" if self.durable else f" {THROWN_AWAY}"
        self._run(f"{BIN}/pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start")

    def halt(self, mode: str = "immediate") -> None:
        """Stop its server: at once, as a crash does, or `fast`, which hangs up on everybody and tidies up."""
        self._run(f"{BIN}/pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    def stop(self) -> None:
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://leasehold@/{database}?host={self.folder}"

    def sql(self, statement: str) -> None:
        connection = psycopg2.connect(host=str(self.folder), user="leasehold", dbname="postgres")
        connection.autocommit = True
        connection.cursor().execute(statement)
        connection.close()

    def new_database(self) -> str:
        """A fresh database with the schema in it; answers its name. The schema is built once and copied."""
        if self.template is None:
            self.sql("CREATE DATABASE leasehold_template")
            migrate(self.url("leasehold_template"))
            self.template = "leasehold_template"
        name = f"t_{uuid4().hex[:12]}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {self.template} STRATEGY FILE_COPY")
        return name

    def drop(self, name: str) -> None:
        self.sql(f"DROP DATABASE {name} WITH (FORCE)")
