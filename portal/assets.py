"""Static files: an address that changes with the content, kept by browsers for a year, compressed where it pays."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from flask import Flask, Response, current_app, request, send_from_directory, url_for

A_YEAR = 31_536_000


@lru_cache(maxsize=512)
def _digest(path: Path, changed_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def asset(name: str) -> str:
    """The address of a static file, with a mark of its content, so that a new version is fetched at once."""
    path = Path(current_app.static_folder or "") / name
    if not path.is_file():  # the front-end files were not put in place; the page should still come
        return url_for("static", filename=name)
    return url_for("static", filename=name, v=_digest(path, path.stat().st_mtime_ns))


def send(filename: str) -> Response:
    """A static file, as its gzip twin when there is one and the browser takes it."""
    folder = Path(current_app.static_folder or "")
    marked = "v" in request.args
    zipped = request.accept_encodings["gzip"] > 0 and (folder / f"{filename}.gz").is_file()
    response = send_from_directory(folder, f"{filename}.gz" if zipped else filename, max_age=A_YEAR if marked else 3600)
    if zipped:
        kind = send_from_directory(folder, filename).content_type
        response.content_type = kind
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    if marked:
        response.cache_control.immutable = True
    return response


def install(app: Flask) -> None:
    """Serve static files this way, and let templates name them."""
    app.view_functions["static"] = send
    app.jinja_env.globals["asset"] = asset
