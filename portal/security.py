"""Headers and checks that every answer and request passes: CSP, HSTS, host name, no caching of what is personal."""

from __future__ import annotations

from flask import Flask, Response, abort, request

from portal.errors import is_api
from portal.parts import Parts

# asked by load balancers and Prometheus under whatever address they know
BY_ANY_NAME = frozenset({"/healthz", "/readyz", "/metrics"})


def content_security_policy(parts: Parts) -> str:
    """Nothing inline, nothing from elsewhere; consoles connect to the gateway's address."""
    return "; ".join([
        "default-src 'none'", "script-src 'self'", "style-src 'self'",
        f"connect-src 'self' wss://{parts.settings.gateway_public}",
        "img-src 'self' data: blob:", "media-src 'self' blob:", "font-src 'self'", "manifest-src 'self'",
        "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'",
    ])


def install(app: Flask) -> None:
    """Check each request's host, and send the headers with each answer."""
    parts: Parts = app.extensions["parts"]
    headers = {
        "Content-Security-Policy": content_security_policy(parts),
        "Strict-Transport-Security": "max-age=31536000",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Frame-Options": "DENY",
    }

    @app.before_request
    def right_host() -> None:
        # a page fetched under another name would have its cookies and links under that name too (DNS rebinding)
        if request.host.lower() != parts.public_host and request.path not in BY_ANY_NAME:
            abort(421)

    @app.before_request
    def no_zeros() -> None:
        # PostgreSQL's text cannot hold a zero character, so neither may a form (for JSON see portal/routes.py)
        if not is_api() and any("\0" in value for values in request.form.listvalues() for value in values):
            abort(400)

    @app.after_request
    def protect(response: Response) -> Response:
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        if request.endpoint != "static" and "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        return response
