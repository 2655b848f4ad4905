"""Pure: when a host is too busy or too full, and when that is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from backend.errors import Invalid


@dataclass(frozen=True)
class Alerts:
    """Above which value an event tells of it; 0: never."""

    alert_cpu_percent: int = 95
    alert_memory_percent: int = 95
    alert_swap_percent: int = 80
    alert_network_mib_s: int = 0  # what a host's network bears nobody else knows
    alert_storage_percent: int = 90


WORDS = {
    "alert_cpu_percent": ("its processors are at {value:.0f} %", "its processors"),
    "alert_memory_percent": ("its memory is used to {value:.0f} %", "its memory"),
    "alert_swap_percent": ("its swap is used to {value:.0f} %", "its swap"),
    "alert_network_mib_s": ("{value:.0f} MiB a second go over its network", "its network"),
    "alert_storage_percent": ("its storage is full to {value:.0f} %", "its storage"),
}
OVER_SHARE = 0.9  # it is over when the value is below this share of the threshold, so that one on the brink tells once


def alerts(own: Mapping[str, int]) -> Alerts:
    """The usual thresholds, but for a cluster's own."""
    return Alerts(**{f.name: int(own.get(f.name, f.default)) for f in fields(Alerts)})  # type: ignore[arg-type]


def crossed(values: Mapping[str, float | None], limits: Alerts, before: Sequence[str]) -> list[str]:
    """Which are too much now, given which were before. A value that is not known changes nothing."""
    found = []
    for name, limit in asdict(limits).items():
        value, was = values.get(name), name in before
        over = was if value is None else value >= limit * (OVER_SHARE if was else 1)
        if limit and over:
            found.append(name)
    return found


def require_alerts(wanted: Alerts) -> None:
    """`Invalid` unless each is a value that a host can have."""
    for name, value in asdict(wanted).items():
        most = 1_000_000 if name.endswith("mib_s") else 100
        if not 0 <= value <= most:
            raise Invalid("bad_threshold", f"{name} lies between 0 (never) and {most:,}.", fields=[name])
