"""One structured line a request: method, path, status, time, who; never query strings, tokens or bodies."""

from __future__ import annotations

import time

import structlog
from flask import Flask, Response, g, request

log = structlog.get_logger("web")


def install(app: Flask) -> None:
    """Log every request once, when its answer begins."""

    @app.before_request
    def start() -> None:
        g.started = time.monotonic()

    @app.after_request
    def done(response: Response) -> Response:
        ms = round((time.monotonic() - g.get("started", time.monotonic())) * 1000, 1)
        person = getattr(g.get("_login_user"), "user_name", None)
        quiet = request.path in ("/healthz", "/readyz", "/metrics") or request.path.startswith("/static/")
        (log.debug if quiet else log.info)(
            "request", method=request.method, path=request.path, status=response.status_code, ms=ms,
            address=request.remote_addr, user=person,
        )
        return response
