"""What one person's flow says to PostgreSQL, statement by statement, through the real web app: the recipe of the floor.

A recipe keeps every statement with its parameters and says of each parameter where it comes from, so that a program
without any of our code can say the same on behalf of somebody else: a constant, something the person sent, a row of
an earlier answer, a fresh id, or so many seconds from now.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2.extensions
import psycopg2.extras
import sqlalchemy as sa

import assembly
from backend import logs
from backend.clock import WallClock
from backend.config import load
from backend.db import new_sessions
from backend.secrets import Keyring
from bench.cast import PASSWORD, person
from bench.place import FIRST_TASK
from bench.recipe import Fresh, Given, Moment, Op, Recipe, Request, Row, Span, Text

_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
PING = "SELECT 1"


@dataclass
class Said:
    """One statement as it went over the wire, and the rows that were read of its answer."""

    kind: str  # sql | commit | rollback
    sql: str = ""
    parameters: Any = None
    rows: list[Sequence[Any]] = field(default_factory=list)


def _recording(said: list[Said]) -> type[psycopg2.extensions.connection]:
    """A psycopg2 connection that notes down everything that is said over it."""

    class Cursor(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> Any:
            said.append(Said("sql", query.decode() if isinstance(query, bytes) else query, vars))
            self._rows = said[-1].rows
            return super().execute(query, vars)

        def executemany(self, query: Any, vars_list: Any) -> Any:
            raise NotImplementedError("The hot path is thought to have no executemany; teach the recorder.")

        def fetchone(self) -> Any:
            row = super().fetchone()
            if row is not None:
                self._rows.append(row)
            return row

        def fetchall(self) -> Any:
            rows = super().fetchall()
            self._rows.extend(rows)
            return rows

        def fetchmany(self, size: int | None = None) -> Any:
            rows = super().fetchmany(size or self.arraysize)
            self._rows.extend(rows)
            return rows

    class Connection(psycopg2.extensions.connection):
        def cursor(self, *given: Any, **named: Any) -> Any:
            return super().cursor(*given, **{"cursor_factory": Cursor, **named})

        def commit(self) -> None:
            said.append(Said("commit"))
            super().commit()

        def rollback(self) -> None:
            said.append(Said("rollback"))
            super().rollback()

    return Connection


class _Still:
    """A clock that stands, so that every time in a statement is told from the moment of the request."""

    def __init__(self) -> None:
        self._now = WallClock().now().replace(microsecond=123457)

    def now(self) -> datetime:
        return self._now

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def record(environ: dict[str, str], pool_id: UUID) -> Recipe:
    """Take one person through the real app in this process, another one before to warm it up, and note what is said."""
    from portal import create_app
    from portal.parts import Parts

    logs.configure("ERROR")
    settings, clock, said = load(environ), _Still(), list[Said]()
    sessions = new_sessions(settings.database_url)
    engine = sessions.kw["bind"]

    @sa.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, connection_record: Any, args: Any, named: dict[str, Any]) -> None:
        named["connection_factory"] = _recording(said)

    app = create_app(Parts(settings, sessions, Keyring(settings.secret_key()), clock, assembly.COMMANDS))
    _flow(app.test_client(), settings.public_url, pool_id, person(0), lambda: None)
    parts: list[tuple[str, dict[str, Any], list[Said]]] = []

    def next_part() -> None:
        said.clear()

    client = app.test_client()
    for name, answer in _steps(client, settings.public_url, pool_id, person(1), next_part):
        parts.append((name, answer, list(said)))
    engine.dispose()
    return _recipe(parts, clock.now(), person(1))


def _flow(client: Any, url: str, pool_id: UUID, name: str, before: Callable[[], None]) -> None:
    for _ in _steps(client, url, pool_id, name, before):
        pass


def _steps(client: Any, url: str, pool_id: UUID, name: str, before: Callable[[], None]) -> Any:
    """Sign in, list, connect; yields the name and the answer of each."""
    before()
    signed = client.post("/api/v1/session", json={"user": name, "password": PASSWORD}, base_url=url)
    assert signed.status_code == 201, signed.text
    yield "sign_in", signed.json
    head = {"Authorization": f"Bearer {signed.json['token']}"}
    before()
    listed = client.get("/api/v1/me/desktops", base_url=url, headers=head)
    assert listed.status_code == 200, listed.text
    yield "list", listed.json
    before()
    body = {"protocol": "vnc", "client": "browser"}
    got = client.post(f"/api/v1/me/desktops/{pool_id}/connect", json=body, base_url=url, headers=head)
    assert got.status_code == 201, got.text
    yield "connect", got.json


def _recipe(parts: list[tuple[str, dict[str, Any], list[Said]]], now: datetime, name: str) -> Recipe:
    token_hash = hashlib.sha256(parts[0][1]["token"].encode()).digest()
    requests = []
    for part, answer, said in parts:
        sources = _Sources(now, name, token_hash)
        ops = []
        for one in said:
            if one.kind != "sql":
                ops.append(Op(one.kind))
                continue
            parameters = sources.of(one.parameters, inserted=one.sql.lstrip().startswith("INSERT"))
            ops.append(Op("ping" if one.sql.strip() == PING else "sql", one.sql, parameters, bool(one.rows)))
            sources.learn(len(ops) - 1, one)
        requests.append(Request(part, tuple(ops), json.loads(json.dumps(answer))))
    return Recipe(tuple(requests))


class _Sources:
    """Where each value of a request's statements comes from."""

    def __init__(self, now: datetime, name: str, token_hash: bytes) -> None:
        self.now, self.name, self.token_hash = now, name, token_hash
        self.ids: dict[UUID, Any] = {}
        self.numbers: dict[int, Any] = {}
        self.fresh = 0
        self.user: Any = Given("user")  # only who signs in sends their name

    def learn(self, op: int, said: Said) -> None:
        """The rows of this answer are known from now on; the latest place of an id counts."""
        for r, row in enumerate(said.rows):
            for c, value in enumerate(row):
                if isinstance(value, int) and value >= FIRST_TASK:
                    self.numbers[value] = Row(op, r, c)
                elif (id := _id(value)) is not None and not isinstance(self.ids.get(id), Fresh):
                    self.ids[id] = Row(op, r, c)
                elif value == self.name:
                    self.user = Row(op, r, c)

    def of(self, value: Any, *, inserted: bool) -> Any:
        """The value, with everything in it replaced that another flow has otherwise."""
        if isinstance(value, dict):
            return {key: self.of(one, inserted=inserted) for key, one in value.items()}
        if isinstance(value, tuple):
            return tuple(self.of(one, inserted=inserted) for one in value)
        if isinstance(value, list):
            return [self.of(one, inserted=inserted) for one in value]
        if isinstance(value, psycopg2.extensions.Binary):
            return Given("token_hash") if bytes(value.adapted) == self.token_hash else bytes(value.adapted)
        if isinstance(value, datetime):
            return Moment((value - self.now).total_seconds())
        if isinstance(value, psycopg2.extras.Range):
            ends = [None if end is None else self.of(end, inserted=inserted) for end in (value.lower, value.upper)]
            return Span(type(value), *ends)
        if str(value).isdigit() and int(value) in self.numbers:
            return self.numbers[int(value)]
        if (id := _id(value)) is not None:
            return self._id(id, inserted)
        return self._text(value, inserted) if isinstance(value, str) else value

    def _id(self, id: UUID, inserted: bool) -> Any:
        if id not in self.ids and inserted:
            self.fresh += 1
            self.ids[id] = Fresh(self.fresh)
        return self.ids.get(id, str(id))

    def _text(self, text: str, inserted: bool) -> Any:
        pieces: list[Any] = []
        for piece in re.split(f"({_UUID.pattern}|{re.escape(self.name)})", text):
            id = _id(piece)
            pieces.append(self.user if piece == self.name else piece if id is None else self.ids.get(id, piece))
        return text if all(isinstance(piece, str) for piece in pieces) else Text(tuple(p for p in pieces if p != ""))


def _id(value: Any) -> UUID | None:
    if isinstance(value, UUID):
        return value
    return UUID(value) if isinstance(value, str) and _UUID.fullmatch(value) else None


def recipe_file(recipe: Recipe, file: Path) -> Path:
    """The recipe written down, for the floor's process."""
    import pickle

    file.write_bytes(pickle.dumps(recipe))
    return file
