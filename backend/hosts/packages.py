"""The wheel that agents are upgraded with: read by the manager, told in a row, handed over at the wire."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.db import Tx
from backend.errors import Impossible
from backend.hosts.models import AgentPackage
from hostapi.types import Secret

SECRET = "package:"
NAME = re.compile(r"leasehold-([^-]+)-.*\.whl")


class Packages:
    """A loop that writes down which package this manager has; what it holds is `reveal`ed to the runner by its SHA-256."""

    name, every_s = "agent package", 5.0

    def __init__(self, path: str) -> None:
        self._path = path
        self._content, self._version = b"", ""
        if path:
            named = NAME.fullmatch(Path(path).name)
            if named is None:
                raise SystemExit(f"agent_package must be a wheel, leasehold-VERSION-py3-none-any.whl: {path} is not.")
            try:
                self._content, self._version = Path(path).read_bytes(), named[1]
            except OSError as no:
                raise SystemExit(f"agent_package cannot be read: {no}.") from no
        self._sha256 = hashlib.sha256(self._content).hexdigest()

    def reveal(self, otherwise: Callable[[str], str]) -> Callable[[str], str]:
        """What a `Secret` stands for: this package, or what `otherwise` says."""

        def reveal(name: str) -> str:
            if not name.startswith(SECRET):
                return otherwise(name)
            if name != SECRET + self._sha256:
                raise Impossible("no_package", "This manager has another package of the agent than the one that was asked for.")
            return base64.b64encode(self._content).decode()

        return reveal

    @property
    def wheel(self) -> tuple[str, bytes]:
        """The package's file name and content."""
        return Path(self._path).name, self._content

    def read(self, tx: Tx) -> None:
        return None

    def gather(self, wanted: None) -> None:
        return None

    def apply(self, tx: Tx, found: None) -> None:
        values = {"version": self._version, "sha256": self._sha256}
        if not self._path:
            tx.execute(sa.delete(AgentPackage))
            return
        row = pg.insert(AgentPackage).values(one=True, **values)
        tx.execute(row.on_conflict_do_update(index_elements=["one"], set_=values))


def package(tx: Tx) -> AgentPackage:
    """The package that there is; `Impossible` when no manager has one."""
    found = tx.scalars(sa.select(AgentPackage).execution_options(populate_existing=True)).first()
    if found is None:
        sentence = "There is no package of the agent: name one in the manager's setting agent_package."
        raise Impossible("no_package", sentence)
    return found


def arguments(found: AgentPackage) -> dict[str, Any]:
    """What a host is asked with; the package itself is filled in at the wire."""
    return {"version": found.version, "sha256": found.sha256, "package": Secret(SECRET + found.sha256)}
