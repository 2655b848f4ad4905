"""When Python looks for garbage in cycles: seldom, and never through what stays for good."""

from __future__ import annotations

import gc

OBJECTS = 20_000  # so many new ones before it looks; Python's own 700 are those of two or three queries


def look_seldom() -> None:
    """Call once everything is imported and made. Queries make many objects, of which next to none are in cycles: by
    Python's own measure a fifth of the time goes into looking for them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS, 20, 20)
