"""The storm with 5,000 people, 500 of them at a time: not run by default, it takes half an hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench import storm
from bench.figures import Figure


def run(say: Callable[[str], None]) -> Iterator[Figure]:
    """As `storm`, with one level."""
    yield from storm.run(say, {500: 5000})
