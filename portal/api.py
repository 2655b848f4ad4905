"""REST: list, get, act; actions answer 202 with a task address."""

from __future__ import annotations

from flask import Blueprint, Flask

api = Blueprint("api", __name__, url_prefix="/api/v1")


def install(app: Flask) -> None:
    """Register the REST API."""
    app.register_blueprint(api)
