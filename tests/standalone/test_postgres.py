"""The private PostgreSQL: behind a socket that only we may use, and whole again after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from standalone import postgres
from standalone.place import Place
from standalone.processes import Processes
from standalone.trouble import Trouble

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing to PostgreSQL's user takes root")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    closed = tmp_path / "closed"  # as /root is: PostgreSQL's own user may not pass
    closed.mkdir(mode=0o700)
    made = Place(closed / "state", port=0)
    for folder in (made.state, made.run):
        folder.mkdir()
    yield made
    shutil.rmtree(made.run)


@pytest.fixture
def processes(place: Place) -> Iterator[Processes]:
    made = Processes(place.state, lambda part, text: None)
    yield made
    made.stop()


def ask(url: str, words: str) -> object:
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            answer = connection.execute(sa.text(words))
            return answer.scalar() if answer.returns_rows else None
    finally:
        engine.dispose()


def test_what_was_committed_survives_a_kill(place: Place, processes: Processes) -> None:
    url = postgres.start(processes, place)
    ask(url, "CREATE TABLE kept (word text)")
    ask(url, "INSERT INTO kept VALUES ('still here')")
    server = int((place.state / "postgres" / "postmaster.pid").read_text().split()[0])
    os.kill(server, signal.SIGKILL)
    processes.parts[0].popen.wait(30)
    processes.parts.clear()
    assert postgres.start(processes, place) == url
    assert ask(url, "SELECT word FROM kept") == "still here"
    assert ask(url, "SHOW fsync") == ask(url, "SHOW full_page_writes") == ask(url, "SHOW synchronous_commit") == "on"


def test_only_we_get_in_and_only_by_the_socket(place: Place, processes: Processes) -> None:
    url = postgres.start(processes, place)
    assert ask(url, "SHOW listen_addresses") == ""
    assert (place.state / "postgres").stat().st_mode & 0o077 == 0
    stranger = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
    psql = ["psql", "-h", str(place.run / "postgres"), "-U", postgres.ROLE, "-c", "SELECT 1", postgres.DATABASE]
    done = subprocess.run([*stranger, *psql], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode != 0 and 'Peer authentication failed for user "leasehold"' in done.stderr


def test_data_of_another_version_are_left_alone(place: Place, processes: Processes) -> None:
    data = place.state / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("14\n")
    with pytest.raises(Trouble, match="belong to PostgreSQL 14 .*apt-get install postgresql-14"):
        postgres.start(processes, place)
    assert processes.parts == [] and [file.name for file in data.iterdir()] == ["PG_VERSION"]


