"""`make revision M="words"`: write the migration that leads from the present chain to the models."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command

import assembly  # noqa: F401 -- every table must be known to be compared
from backend.schema import alembic_config
from standalone import postgres
from standalone.place import Place
from standalone.processes import Processes
from standalone.trouble import Trouble


def main(words: str) -> None:
    """Build the chain's schema in a PostgreSQL of its own, and write what the models have beyond it."""
    with TemporaryDirectory(prefix="leasehold-revision-") as folder:
        place = Place(Path(folder) / "state", port=0)
        for needed in (place.state, place.run):
            needed.mkdir()
        processes = Processes(place.state, lambda part, text: print(part, text))
        try:
            config = alembic_config(postgres.start(processes, place))
            command.upgrade(config, "head")
            command.revision(config, words, autogenerate=True)
        finally:
            processes.stop()


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].strip():
        sys.exit('Say in a few words what the migration does: make revision M="words".')
    try:
        main(sys.argv[1])
    except Trouble as trouble:
        sys.exit(str(trouble))
