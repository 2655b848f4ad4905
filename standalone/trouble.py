"""`Trouble`: what keeps Leasehold from starting, as one sentence with its remedy."""

from __future__ import annotations


class Trouble(Exception):
    """A missing piece of this machine; its text is what the person at the terminal reads."""
