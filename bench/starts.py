"""Desktops a minute through the real manager on simulated hosts: started, made and started, and refilled after 20 were taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import psycopg2

from bench.figures import Figure
from bench.place import Place
from bench.processes import Process, cpu_s, free_port
from bench.starts_floor import bare_starts

DESKTOPS, TAKEN = 300, 20
BOOT_S = 5.0  # with a guest that boots so long
GOAL = 1000  # starts a minute
LIMIT_S = 240
FLOOR = "starts: the rows of a start in as many transactions, by bare psycopg2, as many threads and the same server"
MIN = "/min"


@dataclass(frozen=True)
class Run:
    """What one run of the manager came to."""

    s: float
    cpu_s: dict[str, float]
    split_ms: dict[str, float]


def run(say: Callable[[str], None], desktops: int = DESKTOPS) -> Iterator[Figure]:
    """Each run on a database of its own; the floor between them, so that it meets the same crowd."""
    place = Place(people=desktops, member_state="ready")
    try:
        place.set_up()
        floor = _floor(place, desktops)
        for what, boot_s, goal in (("started", 0.0, GOAL), (f"started, guests boot in {BOOT_S:g} s", BOOT_S, None)):
            got = _until_spares(place, desktops, boot_s)
            _tell(say, what, desktops, got)
            yield Figure(f"desktops {what}", desktops / got.s * 60, MIN, floor, FLOOR, value_wanted=goal)
        got = _until_spares(place, desktops, 0.0, made=False)
        _tell(say, "made and started", desktops, got)
        yield Figure("desktops made and started", desktops / got.s * 60, MIN, _floor(place, desktops))
        for boot_s in (0.0, BOOT_S):
            took = _refill(place, desktops, boot_s)
            say(f"{TAKEN} spares taken at once: as many are up again after {took:.1f} s, guests boot in {boot_s:g} s")
            yield Figure(f"  {TAKEN} spares taken: up again, guests boot in {boot_s:g} s", took, "s")
    finally:
        place.clear_up()


def _tell(say: Callable[[str], None], what: str, desktops: int, got: Run) -> None:
    used = ", ".join(f"{name} {s * 1000 / desktops:.0f}" for name, s in got.cpu_s.items())
    split = ", ".join(f"{name} {ms:.0f}" for name, ms in got.split_ms.items())
    say(f"{desktops} {what} in {got.s:.1f} s; CPU ms each: {used}; mean ms: {split}")


def _floor(place: Place, desktops: int) -> float:
    database = place.database()
    try:
        return desktops / bare_starts(_dsn(place, database), desktops) * 60
    finally:
        place.cluster.drop(database)


def _dsn(place: Place, database: str) -> str:
    return f"host={place.cluster.folder} user=leasehold dbname={database}"


@contextmanager
def _managed(place: Place, boot_s: float, prepare: Sequence[str]) -> Iterator[tuple[Callable[..., list[Any]], Process]]:
    """A database made ready by these statements, with a manager at work on it; answers how to ask the database."""
    database = place.database()
    with ExitStack() as stack:
        stack.callback(place.cluster.drop, database)
        connection = psycopg2.connect(_dsn(place, database))
        connection.autocommit = True
        stack.callback(connection.close)

        def ask(sql: str, *given: Any) -> list[Any]:
            with connection.cursor() as cursor:
                cursor.execute(sql, given)
                return cursor.fetchall() if cursor.description else []

        for sql in prepare:
            ask(sql)
        argv = ["-m", "sim.manager", "--boot-s", str(boot_s)]
        manager = Process("manager", argv, place.folder, place.environ(database, free_port()))
        stack.callback(manager.stop)
        manager.wait_for(lambda: ask("SELECT count(*) FROM worker")[0][0] > 0)
        yield ask, manager


def _until_spares(place: Place, desktops: int, boot_s: float, *, made: bool = True) -> Run:
    """Let the pool want all its desktops as spares; how long until they are."""
    prepare = [] if made else [
        "DELETE FROM pool_member", "DELETE FROM disk WHERE vm_id IS NOT NULL", "DELETE FROM vm",
        "UPDATE pool SET next_member = 1",
    ]  # fmt: skip
    with _managed(place, boot_s, ["UPDATE pool SET spares = 0, size = 0", *prepare]) as (ask, manager):
        before = {"manager": cpu_s(manager.pid), "postgres": cpu_s(place.postmaster)}
        began = monotonic()
        ask("UPDATE pool SET spares = %s, size = %s", desktops, desktops)
        _spares(ask, desktops)
        took = monotonic() - began
        used = {"manager": cpu_s(manager.pid) - before["manager"], "postgres": cpu_s(place.postmaster) - before["postgres"]}
        return Run(took, used, _split(ask))


def _spares(ask: Callable[..., list[Any]], wanted: int) -> None:
    end = monotonic() + LIMIT_S
    while (up := ask("SELECT count(*) FROM pool_member WHERE state = 'spare'")[0][0]) < wanted:
        if monotonic() > end:
            tasks = ask("SELECT state, count(*) FROM task GROUP BY 1")
            raise SystemExit(f"{up} of {wanted} desktops are up after {LIMIT_S} s; tasks: {tasks}")
        sleep(0.1)


def _split(ask: Callable[..., list[Any]]) -> dict[str, float]:
    """Where the mean start was: waiting for a worker, being launched, between the steps, booting."""
    sql = """SELECT avg(t.started_at - t.created_at), avg(l.ended_at - l.asked_at), avg(b.asked_at - l.ended_at),
             avg(b.ended_at - b.asked_at) FROM task t JOIN step l ON l.task_id = t.id AND l.name = 'launch'
             JOIN step b ON b.task_id = t.id AND b.name = 'boot' WHERE t.command = 'vm.start'"""
    names = ("waits for a worker", "launch", "between the steps", "boot")
    return {name: part.total_seconds() * 1000 for name, part in zip(names, ask(sql)[0], strict=True) if part is not None}


def _refill(place: Place, desktops: int, boot_s: float) -> float:
    """Seconds until as many spares are up again, after so many were taken at once, as people take them who stay."""
    with _managed(place, boot_s, [f"UPDATE pool SET spares = {TAKEN}, size = {desktops}"]) as (ask, _):
        _spares(ask, TAKEN)
        began = monotonic()
        ask(f"""WITH taken AS (UPDATE pool_member SET state = 'leased' WHERE id IN
                  (SELECT id FROM pool_member WHERE state = 'spare' LIMIT {TAKEN}) RETURNING vm_id, pool_id),
                numbered AS (SELECT vm_id, pool_id, row_number() OVER () AS n FROM taken),
                people AS (SELECT id, row_number() OVER () AS n FROM user_account)
                INSERT INTO lease (id, pool_id, user_id, vm_id, state, asked_at, starts_at, ends_at, period)
                SELECT gen_random_uuid(), pool_id, people.id, vm_id, 'active', now(), now(), now() + interval '1 hour',
                       tstzrange(now(), now() + interval '1 hour') FROM numbered JOIN people USING (n)""")
        _spares(ask, TAKEN)
        return monotonic() - began
