"""A private PostgreSQL in the state folder: a Unix socket alone, peer authentication, nothing turned off."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg2

from standalone.place import Place
from standalone.processes import Processes
from standalone.trouble import Trouble

OWNER = "postgres"
ROLE = DATABASE = "leasehold"


def start(processes: Processes, place: Place) -> str:
    """Start it, making the cluster and the database when they are not there; answers the database's URL."""
    binaries, data, socket = _binaries(), place.state / "postgres", place.run / "postgres"
    for folder in (data, socket):
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(folder, OWNER, OWNER)
    socket.chmod(0o711)
    # PostgreSQL refuses to run as root, and its user may be kept out of the folders above the state folder
    # (/root is closed): a mount of its own leads straight to the data.
    seen = place.run / "data"
    seen.mkdir(exist_ok=True)
    enter = [
        "unshare", "--mount", "--propagation", "private", "sh", "-ec", 'mount --bind "$1" "$2"; shift 2; exec "$@"', "sh",
        str(data), str(seen), "setpriv", "--reuid", OWNER, "--regid", OWNER, "--init-groups",
    ]  # fmt: skip
    if not (data / "PG_VERSION").exists():
        _initialize(enter, binaries, seen, data)
    version = (data / "PG_VERSION").read_text().strip()
    if binaries.parent.name != version:
        raise Trouble(
            f"The data in {data} belong to PostgreSQL {version} and {binaries.parent.name} is installed: "
            f"apt-get install postgresql-{version}, or begin anew in another folder: STATE=folder make run."
        )
    argv = [*enter, "--pdeathsig", "INT", str(binaries / "postgres"), "-D", str(seen), "-k", str(socket)]
    part = processes.add("postgres", *argv, stop_with=signal.SIGINT)
    processes.until(lambda: _answers(socket), part, "PostgreSQL's start", 300)
    _make_database(socket)
    return f"postgresql+psycopg2://{ROLE}@/{DATABASE}?host={socket}"


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found or int(found[-1].parts[-3]) < 15:
        raise Trouble("PostgreSQL 15 or newer is missing: run “make setup”, or apt-get install postgresql.")
    return found[-1].parent


def _initialize(enter: list[str], binaries: Path, seen: Path, data: Path) -> None:
    done = subprocess.run(
        [*enter, str(binaries / "initdb"), "-D", str(seen), "-U", OWNER, "--auth=peer", "-E", "UTF8", "--locale=C.UTF-8"],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["initdb failed"])[-1]
        raise Trouble(f"PostgreSQL's files could not be made in {data}: {words}")
    me = pwd.getpwuid(os.geteuid()).pw_name
    (data / "pg_hba.conf").write_text("local all all peer map=leasehold\n")
    (data / "pg_ident.conf").write_text("".join(f"leasehold {me} {role}\n" for role in (OWNER, ROLE)))
    with (data / "postgresql.conf").open("a") as conf:
        conf.write("listen_addresses = ''\nmax_connections = 200\nlog_timezone = 'UTC'\ntimezone = 'UTC'\n")


def _answers(socket: Path) -> bool:
    try:
        psycopg2.connect(host=str(socket), user=OWNER, dbname="postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


def _make_database(socket: Path) -> None:
    """The role and its database, unless they are there."""
    connection = psycopg2.connect(host=str(socket), user=OWNER, dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE ROLE {ROLE} LOGIN")
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
    connection.close()


def ask(place: Place, words: str) -> list[tuple[str, ...]]:
    """What the database answers; nothing while it does not."""
    try:
        connection = psycopg2.connect(host=str(place.run / "postgres"), user=ROLE, dbname=DATABASE)
        with connection.cursor() as cursor:
            cursor.execute(words)
            found: list[tuple[str, ...]] = cursor.fetchall()
        connection.close()
    except psycopg2.Error:
        return []
    return found
