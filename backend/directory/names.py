"""Pure: the forms in which people write who they are, and the words a person's name is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass

INTERNAL = "internal"
LONGEST = 256
ACCOUNT_FORM = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Login:
    """A name as it was typed, taken apart; all lower case. No `domain` means: the one chosen, or internal."""

    account: str
    domain: str = ""  # corp.example, from alice@corp.example
    netbios: str = ""  # corp, from CORP\\alice


def read_login(text: str, chosen: str = "") -> Login:
    """Take `alice`, `alice@corp.example` or `CORP\\alice` apart; a name without a domain is of the chosen one.

    The last @ divides, because an account's own part may hold one.
    """
    text = _readable(text)
    if "\\" in text:
        netbios, _, account = text.partition("\\")
        return Login(account, netbios=netbios)
    if "@" in text:
        account, _, domain = text.rpartition("@")
        return Login(account, domain=domain)
    return Login(text, domain=_readable(chosen))


def full_name(account: str, directory: str) -> str:
    """How a person is written everywhere: `alice` of the internal directory, else `alice@corp.example`."""
    return account if directory == INTERNAL else f"{account}@{directory}"


def _readable(text: str) -> str:
    # no name has a control character or half a surrogate pair in it, and no database takes them
    return "".join(c if c.isprintable() else "\ufffd" for c in text.strip()[:LONGEST]).lower()
