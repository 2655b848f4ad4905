"""A refusal, an HTTP error or a bug -> status, and the JSON envelope for programs or a page for people."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Flask, Response, g, jsonify, make_response, redirect, render_template, request, url_for
from flask_login import AnonymousUserMixin
from jinja2 import TemplateNotFound
from markupsafe import escape
from psycopg2 import errors as pg
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, SQLAlchemyError, TimeoutError
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BuildError

from backend.errors import Busy, Invalid, NotSignedIn, Refused, Unavailable
from portal.transaction import rollback

log = structlog.get_logger("web")

SENTENCES = {
    400: ("bad_request", "This request cannot be read; check its address and its body."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not answer that method."),
    413: ("too_large", "The request is larger than what may be sent here; send less at once."),
    415: ("not_json", "Send the body as JSON, with the header Content-Type: application/json."),
    421: ("wrong_host", "This server does not answer under that name; use its public address."),
}


def is_api() -> bool:
    """Whether the request came from a program: it is answered in JSON."""
    return request.path.startswith("/api/") or request.path in ("/healthz", "/readyz", "/metrics")


def is_partial() -> bool:
    """Whether the page asks for a part of itself anew."""
    return request.headers.get("HX-Request") == "true"


def reload() -> Response:
    """For a part of a page whose person is signed out: the page itself asks again and is led on. Were the part led on,
    it would eat the sentence that is meant for the page."""
    return Response(status=204, headers={"HX-Refresh": "true"})


def answer(status: int, code: str, message: str, facts: dict[str, Any]) -> Response:
    """The refusal as JSON under /api, as a page elsewhere."""
    if is_api():
        response = jsonify({"error": {"code": code, "message": message, "facts": facts}})
        response.status_code = status
    else:
        response = make_response(_page(status, code, message), status)
    if retry := facts.get("retry_after_s"):
        response.headers["Retry-After"] = str(int(retry))
    if status == 401 and is_api():
        response.headers["WWW-Authenticate"] = 'Bearer realm="leasehold"'
    return response


def _page(status: int, code: str, message: str) -> str:
    try:
        return render_template("error.html", status=status, code=code, message=message)
    except SQLAlchemyError:  # the page asks who looks at it; while the database is silent, nobody is known
        rollback()
        g._login_user = AnonymousUserMixin()
        return render_template("error.html", status=status, code=code, message=message)
    except TemplateNotFound:
        return (f'<!doctype html><html lang="en"><title>{status}</title><h1>{status}</h1>'
                f"<p>{escape(message)}</p><p><a href=\"/\">Home</a></p></html>")


def refused(no: Refused) -> Response:
    """The answer to a refusal; who is not signed in and asks for a page is led to the sign-in page."""
    rollback()
    if isinstance(no, NotSignedIn) and is_partial():
        return reload()
    if isinstance(no, NotSignedIn) and not is_api() and request.method == "GET":
        try:
            here = request.full_path.rstrip("?") if request.path != "/" else None
            return redirect(url_for("user.login", next=here), 303)  # type: ignore[return-value]
        except BuildError:
            pass
    return answer(no.status, no.code, no.message, no.facts)


def of_database(error: Exception) -> Refused | None:
    """What a failure of the database means for the person who waits; None when it is a bug of ours."""
    cause = getattr(error, "orig", None)
    if isinstance(cause, (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure)):
        return Busy("busy", "Somebody else is changing the same thing right now; try again.")
    if isinstance(error, DataError):
        return Invalid("bad_value", "A number or a text is too large, or of a kind that cannot be kept.", fields=[])
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, (OperationalError, TimeoutError)):
        return Unavailable("database_silent", "Leasehold cannot reach its database at the moment; try again shortly.")
    return None


def install(app: Flask) -> None:
    """Handlers for every way a request can end badly."""

    def http(error: HTTPException) -> Response:
        rollback()
        status = error.code or 500
        if status < 400:
            return error.get_response()  # type: ignore[return-value]
        code, message = SENTENCES.get(status, ("http_error", error.description or "The request was refused."))
        response = answer(status, code, message, {})
        if allow := getattr(error, "valid_methods", None):
            response.headers["Allow"] = ", ".join(sorted(allow))
        return response

    def bug(error: Exception) -> Response:
        rollback()
        if (no := of_database(error)) is not None:
            log.warning("database", why=type(error).__name__)
            return refused(no)
        log.error("request failed", exc_info=error, method=request.method, path=request.path)
        return answer(500, "internal_error", "Something went wrong inside Leasehold; its log has the details.", {})

    app.register_error_handler(Refused, refused)
    app.register_error_handler(HTTPException, http)
    app.register_error_handler(Exception, bug)
