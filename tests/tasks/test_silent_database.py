"""PostgreSQL goes away in the middle of a task: the task is gone on with by the same living worker, and does not fail."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from backend.db import Sessions, is_silent
from backend.tasks.models import Task
from backend.vms.commands.power import StartVm
from sim.postgres import Cluster
from tests.conftest import ToldClock
from tests.tasks.bench import Bench


@pytest.fixture
def bench(sessions: Sessions, clock: ToldClock) -> Bench:
    return Bench(sessions, clock)


def hang_up(cluster: Cluster, sessions: Sessions) -> None:
    """End every connection to the database."""
    name = sessions.kw["bind"].url.database
    cluster.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


# the first statement of a task's way that begins so meets a database that has just gone
@pytest.mark.parametrize("statement", ["UPDATE task", "INSERT INTO step", "SELECT step", "UPDATE step", "UPDATE vm"])
def test_a_connection_that_is_lost(bench: Bench, cluster: Cluster, statement: str) -> None:
    vm_id, runner = bench.a_vm("w1"), bench.runner()
    task_id = bench.submit(StartVm(vm_id))
    lost: list[str] = []

    def before(_: Any, __: Any, sql: str, *___: Any) -> None:
        if not lost and sql.startswith(statement):
            lost.append(sql)
            hang_up(cluster, bench.sessions)

    sa.event.listen(bench.sessions.kw["bind"], "before_cursor_execute", before)
    for _ in range(20):
        try:
            runner.step()
        except sa.exc.DBAPIError as error:
            assert is_silent(error)
        bench.clock.sleep(0.1)
    assert lost
    bench.settle(runner)
    with bench.sessions() as tx:
        assert tx.get_one(Task, task_id).state == "succeeded"
    assert bench.vm("w1").state == "up"


def test_a_database_that_is_away_for_a_while(bench: Bench, cluster: Cluster) -> None:
    vm_id, runner, name = bench.a_vm("w1"), bench.runner(), bench.sessions.kw["bind"].url.database
    task_id = bench.submit(StartVm(vm_id))
    door, asked = runner.doors, []

    def doors(*where: Any) -> Any:
        if not asked:  # the host does it, and nobody can write down that it did
            asked.append(where)
            cluster.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            hang_up(cluster, bench.sessions)
        return door(*where)

    runner.doors = doors
    with pytest.raises(sa.exc.OperationalError):
        for _ in range(20):
            runner.step()
    with pytest.raises(sa.exc.OperationalError):
        runner.step()
    cluster.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    bench.settle(runner)
    with bench.sessions() as tx:
        assert tx.get_one(Task, task_id).state == "succeeded"


def test_what_is_silence() -> None:
    assert is_silent(psycopg2.OperationalError())
    assert is_silent(sa.exc.DBAPIError("x", {}, Exception(), connection_invalidated=True))
    assert not is_silent(sa.exc.ProgrammingError("x", {}, Exception()))
    assert not is_silent(ValueError())
