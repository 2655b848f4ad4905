"""`python -m tests.chaos`: the long form; see `make chaos`. SHORT=1 plays the form of the tests."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

from tests.chaos.options import Options
from tests.chaos.run import run

began = time.monotonic()
options = Options.long()
sys.exit(bool(run(
    replace(Options(options.seed), settle_s=options.settle_s) if os.environ.get("SHORT") else options,
    lambda line: print(f"{time.monotonic() - began:7.1f} {line}", flush=True),
)))  # fmt: skip
