"""Three real hosts with the product on them, once a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sim.postgres import Cluster
from tests.lab.place import Place


@pytest.fixture(scope="session")
def place(cluster: Cluster) -> Iterator[Place]:
    """Hosts hv1 to hv3, up, with shared storage and a template in it; a test leaves them up and without VMs."""
    made = Place(cluster)
    try:
        made.start()
        made.furnish()
        yield made
    finally:
        made.stop()
