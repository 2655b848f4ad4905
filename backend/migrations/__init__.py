"""Alembic revisions, each marked pre or post."""
