"""Pure: a device's one-time code: made to be typed at a machine without a mouse, read whatever way it was typed."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # no I, L, O, U: nobody has to ask which of two it is
CODE_LENGTH = 16  # 80 random bits
CODE_LASTS = timedelta(hours=24)
_ALIKE = str.maketrans({"I": "1", "L": "1", "O": "0"})


def new_code() -> str:
    """A one-time code as it is shown: K7QF-2M9X-…"""
    text = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
    return "-".join(text[n : n + 4] for n in range(0, CODE_LENGTH, 4))


def read_code(typed: str) -> str:
    """The code in what was typed: without dashes and spaces, in capitals, letters that look like digits as digits."""
    return "".join(c for c in typed.upper() if c.isalnum()).translate(_ALIKE)


def digest(secret: str) -> bytes:
    """What is kept of a code or token. A plain hash is enough: there are too many to guess."""
    return hashlib.sha256(secret.encode()).digest()
