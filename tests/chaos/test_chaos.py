"""The short form of `make chaos`: every kind of process is killed while people work; nothing is lost, doubled or stuck."""

from __future__ import annotations

import os
import random

import pytest

from tests.chaos.options import Options
from tests.chaos.run import run


@pytest.mark.timeout(900)  # 30 s, on a machine that is not busy
def test_chaos() -> None:
    assert run(Options(seed=int(os.environ.get("SEED") or random.randrange(1_000_000))), print) == []
