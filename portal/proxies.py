"""Behind reverse proxies: the address and the scheme that the person has, as far as the proxy's word is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

from backend.proxies import Proxies
from portal.parts import Parts


def install(app: Flask) -> None:
    """From here on `request.remote_addr` is the person's address, for throttling, events and the log alike."""
    parts: Parts = app.extensions["parts"]
    proxies, inner = Proxies.of(parts.settings.trusted_proxies), app.wsgi_app

    def believing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        peer = environ.get("REMOTE_ADDR") or ""
        if proxies.trusts(peer):
            environ["REMOTE_ADDR"] = proxies.client(peer, environ.get("HTTP_X_FORWARDED_FOR", ""))
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        return inner(environ, start_response)

    app.wsgi_app = believing  # type: ignore[method-assign]
