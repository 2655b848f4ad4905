"""Sign in, list, connect at 1, 50 and 500 people at once, against the same SQL in a bare Flask + psycopg2 app."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from bench.figures import Figure, percentile
from bench.place import Place
from bench.processes import Process, free_port, listens
from bench.recipe import Recipe
from bench.recorder import recipe_file, record

LEVELS = {1: 30, 50: 150, 500: 500}  # people at once: flows
WARM_UP = 8  # flows before anything is timed
LIMIT_S = 300  # a level is given up after so long, or after so many flows as
SLOWEST = 5  # a second
GOAL = 0.5
FLOOR = "the same statements, commits and argon2 check in a bare Flask + psycopg2 app, same server, TLS, pool size"


@dataclass(frozen=True)
class Level:
    """What one storm came to."""

    flows: list[dict[str, Any]]
    s: float
    cpu_s: dict[str, float]

    @property
    def per_s(self) -> float:
        return len(self.flows) / self.s

    def ms(self, part: str, percent: float) -> float:
        return percentile([flow[part] for flow in self.flows], percent)

    def cpu_ms(self, process: str) -> float:
        """CPU ms a flow in this process."""
        return self.cpu_s[process] * 1000 / len(self.flows)


def run(say: Callable[[str], None], levels: dict[int, int] = LEVELS) -> Iterator[Figure]:
    """Every level, product and floor in turn, each on a fresh copy of the same database."""
    place = Place(people=WARM_UP + max(levels.values()) + 1)
    try:
        place.set_up()
        recipe = record(place.environ(place.database(), 8443), place.pool_id)
        say(f"a flow says {_statements(recipe)}")
        for at_once, flows in levels.items():
            ours = _level(place, at_once, flows, None)
            floor = _level(place, at_once, flows, recipe_file(recipe, place.folder / "recipe"))
            for name, level in (("Leasehold", ours), ("floor", floor)):
                used = ", ".join(f"{process} {level.cpu_ms(process):.0f}" for process in level.cpu_s)
                parts = ", ".join(f"{p} {level.ms(p, 50):.0f}/{level.ms(p, 99):.0f}" for p in ("sign_in", "list", "connect"))
                rate = f"{level.per_s:.1f}/s, {3 * level.per_s:.0f} requests/s"
                say(f"{at_once:4} at once, {name}: {rate}; CPU ms a flow: {used}; p50/p99 ms: {parts}")
            yield from _figures(at_once, ours, floor)
    finally:
        place.clear_up()


def _statements(recipe: Recipe) -> str:
    return ", ".join(f"{r.name}: {r.statements} statements in {r.commits} transactions" for r in recipe.requests)


def _figures(at_once: int, ours: Level, floor: Level) -> list[Figure]:
    people = f"{at_once} {'person' if at_once == 1 else 'people'}"
    return [
        Figure(
            f"sign in, list, connect: {people} at once", ours.per_s, "/s", floor.per_s, FLOOR,
            ours.ms("ms", 50), ours.ms("ms", 99), floor.ms("ms", 50), floor.ms("ms", 99), share_wanted=GOAL,
        ),
        Figure(
            f"  CPU of the web process a flow, {people}", ours.cpu_ms("web"), "ms", floor.cpu_ms("web"), less_is_better=True,
        ),
    ]  # fmt: skip


def _level(place: Place, at_once: int, flows: int, recipe: Path | None) -> Level:
    """One storm on a fresh database: against Leasehold, or against the floor when there is a recipe."""
    database, port = place.database(), free_port()
    environ = place.environ(database, port)
    with ExitStack() as stack:
        stack.callback(place.cluster.drop, database)

        def start(name: str, *argv: str) -> Process:
            process = Process(name, argv, place.folder, environ)
            stack.callback(process.stop)
            return process

        manager = start("manager", "-m", "sim.manager")
        tls = ["--cert", f"{place.folder}/web.pem", "--key", f"{place.folder}/web-key.pem"]
        dsn = f"host={place.cluster.folder} user=leasehold dbname={database}"
        web = (
            start("web", "wsgi.py") if recipe is None
            else start("floor", "-m", "bench.floor", "--recipe", str(recipe), "--dsn", dsn, "--listen", f"127.0.0.1:{port}", *tls)
        )  # fmt: skip
        web.wait_for(lambda: listens(port))
        manager.wait_for(lambda: not _ask(dsn, "SELECT count(*) FROM vm WHERE guest IS NULL")[0][0], 60)

        def storm(first: int, count: int, at_once: int, *more: str) -> dict[str, Any]:
            result = place.folder / "result.json"
            limit_s = max(LIMIT_S, count / SLOWEST)
            watch = [f"web={web.pid}", f"manager={manager.pid}", f"postgres={place.postmaster}"]
            people = start(
                "people", "-m", "bench.people", "--port", str(port), "--ca", f"{place.folder}/ca.pem",
                "--pool", str(place.pool_id), "--first", str(first), "--flows", str(count), "--at-once", str(at_once),
                "--limit-s", str(limit_s), "--result", str(result), "--watch", *watch, *more,
            )  # fmt: skip
            people.finish(2 * limit_s)
            return json.loads(result.read_text())  # type: ignore[no-any-return]

        storm(0, WARM_UP, 2)
        got = storm(WARM_UP, flows, at_once)
        if got["failed"] or got["unfinished"]:
            raise SystemExit(f"{len(got['failed'])} of {flows} people failed, {got['unfinished']} did not get through in time: "
                             f"{got['failed'][:3]}\n{web.tail()}")
        _require_honest(dsn, flows + WARM_UP)
        if recipe is None:
            back = storm(WARM_UP + flows, 1, 1, "--give-back")  # everybody else's leases go with the database
            assert back["given_back"] == 1, back
        return Level(got["flows"], got["s"], got["cpu_s"])


def _require_honest(dsn: str, people: int) -> None:
    """Everybody has one desktop, and nobody has another one's; that it was so at every moment says the constraint."""
    live = _ask(dsn, "SELECT count(*), count(DISTINCT vm_id), count(DISTINCT user_id) FROM lease WHERE state <> 'ended'")[0]
    if live != (people, people, people):
        raise SystemExit(f"{people} people connected, but leases, desktops and holders number {live}.")
    both = "SELECT count(*) FROM lease a JOIN lease b ON a.vm_id = b.vm_id AND a.id < b.id AND a.period && b.period"
    overlaps = _ask(dsn, both)
    if overlaps != [(0,)]:
        raise SystemExit(f"{overlaps[0][0]} desktops were given to two people at once.")


def _ask(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()
    finally:
        connection.close()
