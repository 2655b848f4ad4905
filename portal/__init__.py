"""The web face: pages for people, REST for programs. `create_app(parts)`; nothing happens at import time."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, Response

from portal.parts import Parts
from portal.transaction import commit

__all__ = ["Parts", "create_app", "web_folder"]

MAX_BODY = 1024 * 1024  # bytes; a command is far smaller, and nothing is uploaded here yet


def web_folder(name: str) -> Path:
    """templates/ and static/ lie beside portal/ in a checkout and inside it in a wheel."""
    here = Path(__file__).parent
    return next(p for p in (here / name, here.parent / name) if p.is_dir())


class Portal(Flask):
    """Flask whose view and commit are one step, so that a commit that fails is answered as any other failure."""

    def dispatch_request(self) -> Response:
        response = self.make_response(super().dispatch_request())
        commit()
        return response


def create_app(parts: Parts) -> Flask:
    """The portal of these parts: pages, REST, change stream, health."""
    from portal import admin, api, auth, bookings, errors, kiosk, live, log, proxies, security, transaction, user

    app = Portal("portal", static_folder=str(web_folder("static")), template_folder=str(web_folder("templates")))
    app.extensions["parts"] = parts
    app.config.update(
        SECRET_KEY=parts.keyring.derive("web-forms"),
        MAX_CONTENT_LENGTH=MAX_BODY,
        MAX_FORM_MEMORY_SIZE=MAX_BODY,
        SESSION_COOKIE_NAME="__Host-leasehold-form",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/",
        SEND_FILE_MAX_AGE_DEFAULT=3600,
        PREFERRED_URL_SCHEME="https",
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    for part in (proxies, log, security, transaction, errors, auth, api, live, user, kiosk, bookings, admin):
        part.install(app)
    return app
