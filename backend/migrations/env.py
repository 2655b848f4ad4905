"""Alembic's environment: one connection, one transaction, our metadata."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from backend.db import Base
from backend.schema import HEAD_LOCK

engine = sa.create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    connection.execute(sa.text(f"SELECT pg_advisory_lock({HEAD_LOCK})"))
    connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS btree_gist"))
    connection.commit()
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
