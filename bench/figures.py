"""A measured figure beside its floor, and the table that shows figures. Every benchmark is a `run(say) -> Iterator[Figure]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """What was measured and what the floor did in the same run. `goal` is the least `share`, or the most `value`."""

    what: str  # "sign in, list, connect: 50 people"
    value: float
    unit: str  # "/s", "MB/s", "µs", "KiB"
    floor: float | None = None
    floor_is: str = ""  # what the floor is, once a group of figures
    p50_ms: float | None = None
    p99_ms: float | None = None
    floor_p50_ms: float | None = None
    floor_p99_ms: float | None = None
    less_is_better: bool = False
    share_wanted: float | None = None  # the goal, as a share of the floor
    value_wanted: float | None = None  # the goal, as the value itself

    @property
    def share(self) -> float | None:
        """How much of the floor is reached: 1 is as good as the floor, 0.5 half as good."""
        if self.floor is None or not self.floor or not self.value:
            return None
        return self.floor / self.value if self.less_is_better else self.value / self.floor

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None when there is none."""
        if self.share_wanted is not None and self.share is not None:
            return self.share >= self.share_wanted
        if self.value_wanted is not None:
            return self.value <= self.value_wanted if self.less_is_better else self.value >= self.value_wanted
        return None

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.share_wanted is not None:
            return f"≥ {self.share_wanted:g} of the floor"
        if self.value_wanted is not None:
            return f"{'≤' if self.less_is_better else '≥'} {self.value_wanted:g} {self.unit}"
        return ""


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of some values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered) + 0.5) - 1))]


def table(title: str, figures: Sequence[Figure]) -> Table:
    """The figures as a table for people."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("what")
    for name in ("measured", "p50 / p99", "floor", "floor's p50 / p99", "ratio"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("goal", no_wrap=True)
    for figure in figures:
        mark = {True: "[green]reached[/]", False: "[red]missed[/]", None: ""}[figure.reached]
        shown.add_row(
            figure.what,
            f"{_number(figure.value)} {figure.unit}",
            _pair(figure.p50_ms, figure.p99_ms),
            "" if figure.floor is None else f"{_number(figure.floor)} {figure.unit}",
            _pair(figure.floor_p50_ms, figure.floor_p99_ms),
            "" if figure.share is None else f"{figure.share:.2f}",
            f"{figure.goal} {mark}".strip(),
        )
    said = dict.fromkeys(figure.floor_is for figure in figures if figure.floor_is)
    shown.caption, shown.caption_justify = "\n".join(f"Floor: {one}" for one in said) or None, "left"
    return shown


def _pair(p50: float | None, p99: float | None) -> str:
    return "" if p50 is None or p99 is None else f"{_number(p50)} / {_number(p99)} ms"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
