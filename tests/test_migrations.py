"""The migration chain leads to exactly what the models say, and may be run twice and by two at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import assembly  # noqa: F401 -- every table must be known to be compared
from backend.db import Base
from backend.schema import migrate
from sim.postgres import Cluster

ROOT = Path(__file__).parent.parent


@pytest.fixture
def empty_url(cluster: Cluster) -> Iterator[str]:
    name = f"m_{uuid4().hex[:12]}"
    cluster.sql(f"CREATE DATABASE {name}")
    yield cluster.url(name)
    cluster.drop(name)


def constraints(engine: sa.Engine) -> set[tuple[str, str]]:
    """Every check, exclusion, unique and key constraint and index, as PostgreSQL words it: Alembic compares few of them."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
                " AND conrelid <> 'alembic_version'::regclass AND contype <> 't'"  # triggers are the chain's alone
                " UNION SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
            )
        )
        return {(row[0], row[1]) for row in rows}


def test_chain_and_models_agree(empty_url: str, cluster: Cluster) -> None:
    migrate(empty_url)
    migrate(empty_url)
    engine = sa.create_engine(empty_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    name = f"m_{uuid4().hex[:12]}"
    cluster.sql(f"CREATE DATABASE {name}")
    models = sa.create_engine(cluster.url(name))
    with models.begin() as connection:
        connection.execute(sa.text("CREATE EXTENSION btree_gist"))
        connection.execute(sa.text("CREATE TABLE alembic_version (x int)"))
        Base.metadata.create_all(connection)
    assert constraints(engine) == constraints(models)
    engine.dispose()
    models.dispose()
    cluster.drop(name)


def test_two_managers_may_migrate_at_once(empty_url: str) -> None:
    script = "import sys; from backend.schema import migrate; migrate(sys.argv[1])"
    both = [subprocess.Popen([sys.executable, "-c", script, empty_url], cwd=ROOT) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
