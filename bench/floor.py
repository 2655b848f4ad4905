"""The floor of a storm: a bare Flask app that says the recorded SQL through psycopg2, `python -m bench.floor`.

The same statements, transactions and connection pool size, the same argon2 check in a thread, JSON in and out, behind
the same gevent server with TLS; but no ORM, no rights, no rules, no headers, no logging: what any product in Python
would cost at least.
"""

from __future__ import annotations

from backend import green

green.patch()

import argparse
import hashlib
import pickle
import secrets
import signal
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
from argon2 import PasswordHasher
from flask import Flask, jsonify, request
from gevent import get_hub, spawn
from gevent.pywsgi import WSGIServer
from gevent.queue import LifoQueue

from backend.garbage import look_seldom
from bench.recipe import Context, Recipe, Request, said
from portal.serve import listening

CONNECTIONS = 20  # as many as the product's pool has


class Database:
    """A plain pool of connections; one is held from the first statement to the commit."""

    def __init__(self, dsn: str) -> None:
        self.free: LifoQueue[Any] = LifoQueue()
        for _ in range(CONNECTIONS):
            self.free.put(psycopg2.connect(dsn, options="-c timezone=UTC -c lock_timeout=10s"))

    def say(self, wanted: Request, context: Context, first: int = 0, until_commit: bool = False) -> int:
        """Say the statements from `first` on; answers where to go on, when it was to stop at the first commit."""
        connection: Any = None
        try:
            for n, op in enumerate(wanted.ops[first:], first):
                connection = connection or self.free.get()
                if op.kind == "commit":
                    connection.commit()
                elif op.kind == "rollback":
                    connection.rollback()
                elif op.kind == "ping":
                    connection.autocommit = True
                    with connection.cursor() as cursor:
                        cursor.execute(op.sql)
                    connection.autocommit = False
                else:
                    with connection.cursor() as cursor:
                        cursor.execute(op.sql, said(op.parameters, context))
                        if op.reads:
                            context.rows[n] = cursor.fetchall()
                if op.kind in ("commit", "rollback"):
                    self.free.put(connection)
                    connection = None
                    if until_commit:
                        return n + 1
        finally:
            if connection is not None:
                connection.rollback()
                self.free.put(connection)
        return len(wanted.ops)


def make_app(recipe: Recipe, database: Database) -> Flask:
    """Three routes, as the product's."""
    app, hasher = Flask("floor"), PasswordHasher()
    sign_in, listing, connecting = recipe.requests

    def check(hashed: str, password: str) -> bool:
        return hasher.verify(hashed, password.encode())

    @app.post("/api/v1/session")
    def create_session() -> Any:
        body, token = request.get_json(), secrets.token_urlsafe(32)
        context = Context(_now(), {"user": body["user"], "token_hash": _hash(token)})
        onwards = database.say(sign_in, context, until_commit=True)
        hashed = next(v for rows in context.rows.values() for row in rows for v in row if str(v).startswith("$argon2"))
        get_hub().threadpool.spawn(check, hashed, body["password"]).get()
        database.say(sign_in, context, onwards)
        return jsonify(sign_in.answer | {"token": token}), 201

    @app.get("/api/v1/me/desktops")
    def my_desktops() -> Any:
        database.say(listing, Context(_now(), {"token_hash": _token()}))
        return jsonify(listing.answer)

    @app.post("/api/v1/me/desktops/<id>/connect")
    def connect(id: str) -> Any:
        request.get_json()
        database.say(connecting, Context(_now(), {"token_hash": _token()}))
        return jsonify(connecting.answer), 201

    return app


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 -- the floor has no clock of ours


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _token() -> bytes:
    return _hash(request.headers["Authorization"].partition(" ")[2])


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser("bench.floor", description=__doc__)
    for name in ("recipe", "dsn", "listen", "cert", "key"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given.cert, given.key)
    app = make_app(pickle.loads(Path(given.recipe).read_bytes()), Database(given.dsn))
    look_seldom()
    server = WSGIServer(listening(given.listen), app, log=None, ssl_context=context)
    signal.signal(signal.SIGTERM, lambda *_: spawn(server.stop))
    server.serve_forever()


if __name__ == "__main__":
    main()
