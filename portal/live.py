"""Server-sent events: task progress and changed rows."""

from flask import Flask


def install(app: Flask) -> None:
    """Register the change stream."""
