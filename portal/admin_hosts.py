"""What stands on a host's page besides its facts: how busy it was lately, as small curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from portal.collections import listed
from portal.thing import Thing
from portal.transaction import tx

MOST = 120  # samples: two hours
WIDTH, HEIGHT = 240, 40
CURVES = (("cpu_percent", "Processors", "%", 100.0), ("memory_percent", "Memory", "%", 100.0),
          ("swap_percent", "Swap", "%", 100.0), ("network_mib_s", "Network", "MiB/s", 0.0),
          ("storage_percent", "Storage", "%", 100.0))


@dataclass(frozen=True)
class Curve:
    """A line of points in a box of `WIDTH` by `HEIGHT`, with its latest and its highest value."""

    label: str
    unit: str
    points: str
    now: float
    most: float


def curves(samples: list[dict[str, Any]]) -> list[Curve]:
    """The samples, the oldest first, as curves; what was never used has none."""
    found = []
    for field, label, unit, full in CURVES:
        values = [float(one[field]) for one in samples]
        if len(values) < 2 or (field != "cpu_percent" and not any(values)):
            continue
        top, step = full or max(values), WIDTH / (len(values) - 1)
        heights = [HEIGHT - 2 - (HEIGHT - 4) * min(1.0, value / top) for value in values]
        points = " ".join(f"{n * step:.1f},{height:.1f}" for n, height in enumerate(heights))
        found.append(Curve(label, unit, points, values[-1], max(values)))
    return found


def beside(thing: Thing, row: dict[str, Any]) -> dict[str, Any]:
    """The curves of the last two hours."""
    if thing.kind != "host":
        return {}
    got = listed(tx(), "hostsamples", search=f"host_id = {row['id']}", max=MOST)
    return {"curves": curves(list(reversed(got.items)))}
