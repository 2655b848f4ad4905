"""`make revision M="words"`: write the migration that leads from the present chain to the models."""

from __future__ import annotations

import sys

from alembic import command

import assembly  # noqa: F401 -- every table must be known to be compared
from backend.schema import alembic_config

if __name__ == "__main__":
    url, words = sys.argv[1:]
    command.upgrade(alembic_config(url), "head")
    command.revision(alembic_config(url), words, autogenerate=True)
