"""`Refused` and its kinds: code, sentence, facts; mapped once to HTTP status and exit codes."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """The one exception for "no, because". `str()` of it is a whole sentence for a person."""

    status = 409

    def __init__(self, code: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.facts = code, message, facts


class NotFound(Refused):
    """The thing does not exist, or this person may not know that it does."""

    status = 404


class Denied(Refused):
    """The person may know of the thing but may not do this to it."""

    status = 403


class NotSignedIn(Refused):
    """Nobody is signed in, or the session has ended."""

    status = 401


class Busy(Refused):
    """Somebody else is at it: a lock is held, or the row changed meanwhile."""

    status = 409


class Impossible(Refused):
    """The state of things does not allow it."""

    status = 409


class Invalid(Refused):
    """The request itself is wrong; `facts['fields']` names the fields where it can."""

    status = 422


class TooMany(Refused):
    """Asked too often; `facts['retry_after_s']` says when to ask again."""

    status = 429


class Unavailable(Refused):
    """Something Leasehold needs does not answer at the moment."""

    status = 503
