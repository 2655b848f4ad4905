"""The portal on a real database, with one of everything in it."""

from __future__ import annotations

import pytest

from backend.db import Sessions
from tests.conftest import ToldClock
from tests.pki import Pki
from tests.web.place import Place


@pytest.fixture
def place(sessions: Sessions, clock: ToldClock, pki: Pki) -> Place:
    files = pki.issue("gateway", "gateway")
    return Place(sessions, clock, ca_file=str(files.ca_file), tls_cert_file=str(files.cert_file))
