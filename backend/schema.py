"""`migrate()`: bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

HEAD_LOCK = 7_316_274  # two managers starting at once migrate one after the other


def alembic_config(url: str) -> Config:
    """Alembic's settings for this database; the revisions travel inside the package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    return config


def migrate(url: str) -> None:
    """Run every migration this database has not had yet."""
    command.upgrade(alembic_config(url), "head")
