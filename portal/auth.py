"""Sign in, out, who is this; a cookie for browsers, a bearer token for programs; CSRF for what comes by cookie."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from flask import Flask, Request, Response, current_app, g, request, session
from flask_login import LoginManager, UserMixin, current_user
from flask_wtf.csrf import CSRFError, CSRFProtect

from backend.devices.enrolling import DeviceFacts
from backend.directory import rights, sessions, signin
from backend.directory.rules import Grant
from backend.errors import Denied, NotSignedIn
from backend.line import Line
from backend.tasks.command import Actor
from portal.errors import is_api, refused
from portal.parts import parts
from portal.transaction import commit, tx

COOKIE = "__Host-leasehold"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
T = TypeVar("T")


class Person(UserMixin):  # type: ignore[misc]
    """flask-login's view of a session: everything but `get_id` is the session's facts."""

    def __init__(self, facts: Any) -> None:
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.facts, name)

    def get_id(self) -> str:
        return str(self.facts.id)


def person() -> Any:
    """The `SessionFacts` of who asks; `NotSignedIn` when nobody does."""
    if not current_user.is_authenticated:
        raise NotSignedIn("not_signed_in", "Sign in first: nobody is signed in here, or the session has ended.")
    if current_user.read_only and request.method not in SAFE:
        raise Denied("read_only_token", f"The token {current_user.name} may only read. Make one that may do more.")
    return current_user.facts


def actor() -> Actor:
    """Who asks, as commands want to know it."""
    who = person()
    return Actor(who.user_id, who.user_name, roles=who.roles)


def grants() -> list[Grant]:
    """What who asks may do now: the person's grants, held to what their token gives if they come with one."""
    who = person()
    return rights.grants_of(tx(), who.user_id, who.roles)


def holder() -> Any:
    """Who asks, for their own desktops; `Denied` with a token that is not for that."""
    who = person()
    if who.roles is not None and "user" not in who.roles:
        raise Denied("token_limited", f"The token {who.name} is not for desktops: make one with the role “user”.")
    return who


def in_person() -> Any:
    """Who asks, for what must not be done by a token: passwords, sessions, tokens; else one would outlive itself."""
    who = person()
    if who.client == sessions.TOKEN:
        raise Denied("not_by_token", "This is not done with an API token: sign in yourself.")
    return who


def token_of(asked: Request) -> str | None:
    """The token of the request: a bearer's before a cookie's."""
    bearer = _bearer(asked)
    return asked.cookies.get(COOKIE) if bearer is None else bearer


def _bearer(asked: Request) -> str | None:
    kind, _, token = asked.headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def by_cookie() -> bool:
    """Whether the request is a browser's: then another site may have sent it, and it must prove that none did.
    An Authorization of another kind proves nothing: browsers may be made to send one."""
    return _bearer(request) is None


def own_address(wanted: str) -> str | None:
    """The address when it is a page of ours, by its path alone; None for everything else. Browsers drop tabs and
    line ends from an address and read a backslash as a slash, so none of these may be in it."""
    ours = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted and wanted.isprintable()
    return wanted if ours else None


def sign_in(name: str, password: str, *, client: str, device: DeviceFacts | None = None) -> Any:
    """Check name and password; answers `SignedIn` with the new session's token, or raises the refusal. `device` is the
    enrolled thin client that asks.

    The password is proved between two transactions: hashing and a domain controller both take their time. The second one
    goes on in the caller's view.
    """
    address = request.remote_addr or ""
    now = parts().clock.now
    attempt = signin.begin(tx(), name, address, now(), keyring=parts().keyring)
    commit()
    with in_line() if attempt.domain is None else nullcontext():
        proof = aside(lambda: attempt.prove(password))
        signed = signin.finish(tx(), attempt, proof, client=client, address=address, now=now(), device=device)
    if isinstance(signed, signin.Turned):
        commit()
        raise signed.refusal  # told after the failure has been counted and recorded
    return signed


_HASHING = Line(len(os.sched_getaffinity(0)))


@contextmanager
def in_line() -> Iterator[None]:
    """Hash as many passwords at a time as there are cores, in the order of asking, and write down what came of each.

    Ten hashing threads would else take the cores from the loop that answers everybody, and hundreds of people with a
    proved password would wait for a connection to the database together, longer than they may. Here they wait without
    one, and the next comes in when somebody is through."""
    _HASHING.enter()
    try:
        yield
    finally:
        _HASHING.leave()


def remember(response: Response, signed: Any) -> None:
    """Give the browser its session; a new form secret keeps what was sent before the sign-in from counting after it."""
    session.clear()
    g.pop("csrf_token", None)
    response.set_cookie(
        COOKIE, signed.token, expires=signed.expires_at, path="/", secure=True, httponly=True, samesite="Lax",
    )


def sign_out() -> None:
    """End the session of who asks."""
    sessions.end(tx(), in_person().id, parts().clock.now())
    session.clear()


def forget(response: Response) -> None:
    """Take the session back from the browser."""
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Lax")


def aside(work: Callable[[], T]) -> T:
    """The answer of work that blocks or computes: in a real thread when this process is gevent's, else here."""
    try:
        from gevent import get_hub
        from gevent.monkey import is_module_patched
    except ImportError:
        return work()
    if not is_module_patched("socket"):
        return work()

    def kept() -> tuple[Any, Exception | None]:
        # gevent prints what a pool thread raises; a wrong password is no news for standard error
        try:
            return work(), None
        except Exception as error:  # noqa: BLE001 -- raised again below, in the greenlet that asked
            return None, error

    value, failed = get_hub().threadpool.spawn(kept).get()
    if failed is not None:
        raise failed
    return value  # type: ignore[no-any-return]


def check_forgery(csrf: CSRFProtect) -> None:
    """Refuse a change asked by cookie that does not prove it came from our own page."""
    if request.method in SAFE or not by_cookie() or getattr(_view(), "no_cookie", False):
        return
    if is_api() and COOKIE not in request.cookies:
        return  # nobody is signed in, so there is nothing to misuse: the view says so in its own words
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Denied("cross_site", "This change was asked by another web site, so it was not made.")
    csrf.protect()


def no_cookie(view: Any) -> Any:
    """Mark a view that never looks at cookies (sign-in by program, enrollment): nobody can be tricked into it."""
    view.no_cookie = True
    return view


def _view() -> Any:
    return current_app.view_functions.get(request.endpoint or "")


def install(app: Flask) -> None:
    """Load the person of each request, and guard changes against forgery."""
    app.config.update(WTF_CSRF_CHECK_DEFAULT=False, WTF_CSRF_TIME_LIMIT=None, WTF_CSRF_SSL_STRICT=False)
    csrf, login = CSRFProtect(app), LoginManager(app)

    @login.request_loader  # type: ignore[untyped-decorator]
    def load(asked: Request) -> Person | None:
        token = token_of(asked)
        facts = sessions.find(tx(), token, parts().clock.now()) if token else None
        if facts is not None and facts.client == sessions.TOKEN and (by_cookie() or not is_api()):
            return None  # for programs and REST: no page, and no browser's cookie
        return Person(facts) if facts else None

    @app.before_request
    def guard() -> None:
        check_forgery(csrf)

    @app.errorhandler(CSRFError)
    def forged(_: CSRFError) -> Response:
        return refused(Denied("csrf", "This form is too old, or it is not ours. Load the page again and repeat."))
