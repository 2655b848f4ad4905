"""The portal on a real database, with one of everything in it."""

from __future__ import annotations

import pytest

from backend.db import Sessions
from tests.conftest import ToldClock
from tests.web.place import Place


@pytest.fixture
def place(sessions: Sessions, clock: ToldClock) -> Place:
    return Place(sessions, clock)
