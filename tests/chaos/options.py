"""How much chaos, for how long."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The short form; `long` is the one of `make chaos`."""

    seed: int
    people: int = 8
    seconds: float = 0  # kills go on for so long, and at least until each kind of process was killed once
    hosts: int = 2
    desktops: int = 3  # of each host, …
    own: int = 2  # … and so many that belong to somebody
    managers: int = 1
    lease_s: int = 8
    between_s: tuple[float, float] = (1.0, 3.0)  # from a process's return to the next kill
    down_s: tuple[float, float] = (0.1, 2.0)  # from a kill to the return
    settle_s: float = 300  # after the last kill all must be at rest within this, on however busy a machine

    @classmethod
    def long(cls) -> Options:
        """A hundred people for ten minutes, or what PEOPLE, SECONDS, HOSTS, DESKTOPS, MANAGERS and SEED say."""

        def given(name: str, otherwise: int) -> int:
            return int(os.environ.get(name) or otherwise)

        return cls(
            settle_s=given("SETTLE", 900),
            seed=given("SEED", random.randrange(1_000_000)), people=given("PEOPLE", 100), seconds=given("SECONDS", 600),
            hosts=given("HOSTS", 4), desktops=given("DESKTOPS", 15), managers=given("MANAGERS", 2), lease_s=30,
            between_s=(1.0, 8.0), down_s=(0.1, 8.0),
        )  # fmt: skip
