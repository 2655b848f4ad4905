"""One request, one transaction: opened at its first use, committed when the view has answered, else rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flask import Flask, g

from backend.db import Sessions, Tx
from portal.parts import parts


def tx() -> Tx:
    """The request's transaction."""
    if "tx" not in g:
        g.tx = parts().sessions()
        g.tx.begin()
    return g.tx  # type: ignore[no-any-return]


def after_commit(call: Callable[[], None]) -> None:
    """Do this once the request's transaction is safely in the database, and not at all when it is rolled back."""
    g.setdefault("after_commit", []).append(call)


def commit() -> None:
    """Commit what the request wrote, if it used the database; a later `tx()` begins anew."""
    if (session := g.pop("tx", None)) is not None:
        with session:
            session.commit()
    for call in g.pop("after_commit", ()):
        call()


def rollback() -> None:
    """Forget what the request wrote."""
    g.pop("after_commit", None)
    if (session := g.pop("tx", None)) is not None:
        session.close()


@contextmanager
def in_transaction(sessions: Sessions | None = None) -> Iterator[Tx]:
    """A short transaction beside the request's: the steps around a sign-in, a look of the change stream."""
    with (sessions or parts().sessions).begin() as short:
        yield short


def install(app: Flask) -> None:
    """However the request ends, its connection goes back to the pool."""
    app.teardown_request(lambda _: rollback())
