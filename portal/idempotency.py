"""`Idempotency-Key`: the same key and body gives the same answer, and no second effect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from flask import Response, make_response, request
from sqlalchemy.dialects import postgresql as pg

from backend.errors import Busy, Invalid
from backend.tasks.models import Idempotency
from portal.auth import person
from portal.parts import parts
from portal.transaction import in_transaction, rollback, tx

HEADER = "Idempotency-Key"
LONGEST = 200


def once(view: Callable[[], Any]) -> Any:
    """The view's answer, or the answer it gave when this person used this key before.

    The key's row is written first and its answer last, both in the request's transaction: a second request with the
    key waits for the first one's commit, and a refusal leaves no trace, so that it can be tried again.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return view()
    if not 1 <= len(key) <= LONGEST or not key.isprintable():
        raise Invalid("bad_key", f"An {HEADER} has 1 to {LONGEST} printable characters.", fields=[HEADER])
    who, fingerprint = person().user_id, _fingerprint()
    taken = tx().execute(
        pg.insert(Idempotency)
        .values(user_id=who, key=key, fingerprint=fingerprint, status=0, answer={}, created_at=parts().clock.now())
        .on_conflict_do_nothing().returning(Idempotency.key)
    ).first()
    mine = (Idempotency.user_id == who, Idempotency.key == key)
    if taken is None:
        row = tx().execute(sa.select(Idempotency.fingerprint, Idempotency.status, Idempotency.answer).where(*mine)).one()
        if row.fingerprint != fingerprint:
            raise Invalid("key_reused", f"This {HEADER} was used for another request; choose a new one.", fields=[HEADER])
        if not row.answer:
            raise Busy("key_in_use", f"The request with this {HEADER} has no answer yet. Look whether it was done, "
                       "or use a new one.")
        return _again(row.status, row.answer)
    try:
        response = make_response(view())
    except Exception:
        # a view that talks to a directory or hashes a password has committed the key before it refused
        rollback()
        with in_transaction() as short:
            short.execute(sa.delete(Idempotency).where(*mine, Idempotency.status == 0))
        raise
    # an answer may hold a token (a ticket's, a host's): sealed, as every secret that must be stored
    sealed = parts().keyring.seal(json.dumps([response.get_data(as_text=True), response.content_type]))
    tx().execute(sa.update(Idempotency).where(*mine).values(status=response.status_code, answer={"sealed": sealed}))
    return response


def _again(status: int, answer: dict[str, Any]) -> Response:
    text, content_type = json.loads(parts().keyring.unseal(answer["sealed"]))
    response = make_response(text, status)
    response.content_type = content_type
    response.headers["Idempotent-Replay"] = "true"
    return response


def _fingerprint() -> bytes:
    whole = hashlib.sha256()
    for piece in (request.method.encode(), request.full_path.encode(), request.get_data()):
        whole.update(len(piece).to_bytes(8, "big") + piece)
    return whole.digest()
