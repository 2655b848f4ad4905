"""Two real manager processes on one database: the one that leads is killed, the other goes on, with half-done work too."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any

import sqlalchemy as sa

from backend.ca import HOSTS_CA, HOSTS_CA_KEY, keep_hosts_authority, write_private
from backend.clock import WallClock
from backend.db import Sessions
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from backend.vms.commands.power import StartVm
from sim import make
from standalone.processes import Process

# whoever leads a loop holds its lock in the database, as does whoever looks after a share of the hosts
LOCKS = sa.text("SELECT count(DISTINCT (classid, objid)) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")  # fmt: skip


def until(true: Callable[[], Any], what: str, limit_s: float = 120) -> float:
    """Seconds until this is true."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < limit_s, f"not within {limit_s} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def test_another_manager_goes_on(sessions: Sessions, database_url: str, tmp_path: Path) -> None:
    clock = WallClock()
    with sessions.begin() as tx:
        hosts = [make.a_host(tx, name, address=name, memory_mib=65_536, cpus=16, reported_at=clock.now()) for name in ("a", "b")]
        domain = make.a_shared_domain(tx, "shared", hosts=hosts, path="/srv/shared")
        vms = [make.a_vm(tx, f"w{n}", memory_mib=256).id for n in range(2)]
        assert domain
    keep_hosts_authority(tmp_path, clock.now())
    write_private(tmp_path / "key", os.urandom(32))
    settings = {"DATABASE_URL": database_url, "SECRET_KEY_FILE": tmp_path / "key", "PUBLIC_URL": "https://localhost",
                "HOSTS_CA_FILE": tmp_path / HOSTS_CA, "HOSTS_CA_KEY_FILE": tmp_path / HOSTS_CA_KEY}  # fmt: skip
    environ = {f"LEASEHOLD_{name}": str(value) for name, value in settings.items()}

    def manager(name: str) -> Process:  # each has hosts of its own: what is asked of them is not done before one is killed
        argv = [sys.executable, "-m", "sim.manager", "--launch-s", "15"]
        return Process(name, argv, tmp_path / f"{name}.log", environ, SIGTERM)

    def locks() -> int:
        with sessions() as tx:
            return tx.scalar(LOCKS) or 0

    def state(task: int) -> str:
        with sessions() as tx:
            return tx.scalar(sa.select(Task.state).where(Task.id == task)) or ""

    def start(number: int) -> int:
        with sessions.begin() as tx:
            return submit(tx, StartVm(vms[number]), SYSTEM, clock.now()).id

    first = manager("one")
    second = None
    try:
        until(lambda: "READY" in first.said(), f"the first manager runs: {first.last_words()}")
        until(lambda: locks() >= 80, "it leads every loop")
        led = locks()
        second = manager("two")
        until(lambda: "READY" in second.said(), f"the second manager runs: {second.last_words()}")
        half_done = start(0)
        until(lambda: state(half_done) == "running", "the first or the second is at it")
        first.popen.kill()
        first.popen.wait()
        leads = until(lambda: locks() >= led, "every loop is led again, every host looked after")
        fresh = start(1)
        until(lambda: state(fresh) == "running", "new work is taken up")
        goes_on = until(lambda: state(half_done) == "succeeded", "what was half done is done")
        print(f"\nmanager killed: all loops led again after {leads:.1f} s, half-done work done after {leads + goes_on:.1f} s")
    finally:
        for each in (first, second):
            if each is not None:
                each.popen.kill()
                each.popen.wait()
