"""Pages: placeholder until they are written."""

from flask import Blueprint, Flask

pages = Blueprint("admin", __name__)


def install(app: Flask) -> None:
    """Register the pages."""
    app.register_blueprint(pages)
