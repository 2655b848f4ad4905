"""How many SQL statements the way to a desktop takes: a count, which no busy machine changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from backend.directory.models import User
from sim import make
from tests.web.place import PASSWORD, Place

MOST = {"sign_in": 9, "list": 5, "connect": 27}


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    said: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("others", [0, 3])
def test_signing_in_listing_and_connecting_take_no_more_statements(place: Place, others: int) -> None:
    with place.sessions.begin() as tx:
        host = make.a_host(tx, "beta")
        pool = make.a_pool(tx, "Spares", host=host, size=3, spares=3)
        for _ in range(3):
            make.a_member(tx, pool, "spare", host=host)
        carol = make.a_user(tx, "carol", password_hash=tx.get_one(User, place.people["alice"]).password_hash)
        make.a_permission(tx, carol, pool)
        for n in range(others):  # more pools to list are no more questions
            make.a_permission(tx, carol, make.a_pool(tx, f"Other {n}", host=host))
        pool_id = pool.id
    nobody, engine, took = place.as_(None), place.sessions.kw["bind"], dict[str, list[str]]()
    with statements(engine) as took["sign_in"]:
        signed = nobody.post("/api/v1/session", {"user": "carol", "password": PASSWORD})
    nobody.token = signed.get_json()["token"]
    with statements(engine) as took["list"]:
        listed = nobody.get("/api/v1/me/desktops").get_json()["items"]
    with statements(engine) as took["connect"]:
        got = nobody.post(f"/api/v1/me/desktops/{pool_id}/connect", {"protocol": "vnc", "client": "browser"})
    assert len(listed) == 1 + others and (got.status_code, got.get_json()["state"]) == (201, "ready")
    for request, most in MOST.items():
        assert len(took[request]) <= most, f"{request}: {len(took[request])} statements\n" + "\n".join(took[request])
