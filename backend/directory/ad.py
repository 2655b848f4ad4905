"""Pure: what Active Directory's attributes, numbers and sub-codes mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from backend.directory.facts import Found, Person, wrong
from backend.directory.names import Login
from backend.errors import NotSignedIn

PERSON = ("objectSid", "sAMAccountName", "userPrincipalName", "displayName", "givenName", "sn", "mail", "userAccountControl",
          "accountExpires", "distinguishedName")
GROUP = ("objectSid", "cn", "description", "distinguishedName")
DISABLED = 0x2  # userAccountControl
NEVER = 0x7FFFFFFFFFFFFFFF  # accountExpires; 0 means the same
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)  # FILETIME: 100 ns since then

# what AD adds to "invalid credentials": (code for programs, sentence for the person)
_SUBCODES = {
    "525": None,  # no such user: told as a wrong password
    "52e": None,  # wrong password
    "530": ("not_now", "Your account may not sign in at this time of day. Try again within your hours, "
                       "or ask your administrator to change them."),
    "531": ("not_from_here", "Your account may sign in only at certain computers, and this is none of them. "
                             "Ask your administrator."),
    "532": ("password_expired", "Your password has expired. Change it at a computer of your domain, then sign in here."),
    "533": ("account_disabled", "Your account is disabled in your domain. Ask your administrator to enable it."),
    "701": ("account_expired", "Your account has expired. Ask your administrator to extend it."),
    "773": ("must_change_password", "You must change your password before you can sign in. Change it at a computer "
                                    "of your domain, then sign in here."),
    "775": ("account_locked", "Your account is locked after too many wrong passwords. Wait until your domain unlocks it, "
                              "or ask your administrator."),
}


def subcode(message: str) -> str:
    """The sub-code in a refused bind's message, "52e" when there is none to be read."""
    found = re.search(r"\bdata ([0-9a-f]+)\b", message, re.IGNORECASE)
    return found.group(1).lower() if found else "52e"


def refusal(code: str) -> NotSignedIn:
    """Why the domain does not let its person in."""
    told = _SUBCODES.get(code)
    return NotSignedIn(*told, subcode=code) if told else wrong()


def sid(raw: bytes) -> str:
    """objectSid's bytes as text: S-1-5-21-… (MS-DTYP, 2.4.2)."""
    parts = [int.from_bytes(raw[at:at + 4], "little") for at in range(8, 8 + 4 * raw[1], 4)]
    return "-".join(["S", str(raw[0]), str(int.from_bytes(raw[2:8], "big")), *map(str, parts)])


def sid_bytes(text: str) -> bytes:
    """The other way round, for a filter."""
    revision, authority, *parts = map(int, text.removeprefix("S-").split("-"))
    return bytes([revision, len(parts)]) + authority.to_bytes(6, "big") + b"".join(p.to_bytes(4, "little") for p in parts)


def sid_filter(texts: list[str]) -> str:
    """A filter for the objects with these SIDs."""
    each = ["(objectSid=" + "".join(f"\\{byte:02x}" for byte in sid_bytes(text)) + ")" for text in texts]
    return f"(|{''.join(each)})"


def choose(login: Login, entries: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The entry that is meant: AD too lets a userPrincipalName go before a sAMAccountName that reads the same."""
    for entry in entries:
        if login.domain and first(entry, "userPrincipalName").lower() == f"{login.account}@{login.domain}":
            return entry
    return entries[0] if len(entries) == 1 else None


def person(entry: Mapping[str, Any], groups: list[bytes], now: datetime | None = None) -> Person:
    """The person of this entry; with `now`, refused when their account is disabled or has expired."""
    name = first(entry, "sAMAccountName").lower()
    given = f"{first(entry, 'givenName')} {first(entry, 'sn')}".strip()
    return Person(
        external_id=sid(entry["objectSid"][0]), name=name, dn=first(entry, "distinguishedName"),
        display_name=first(entry, "displayName") or given or name, email=first(entry, "mail"),
        upn=first(entry, "userPrincipalName").lower(), group_sids=tuple(sorted(map(sid, groups))),
        refusal=refusal(code) if now is not None and (code := _standing(entry, now)) else None,
    )


def found(kind: str, entry: Mapping[str, Any]) -> Found:
    """The person or group of this entry, as a line in a list of found ones."""
    if kind == "group":
        return Found(kind, sid(entry["objectSid"][0]), first(entry, "cn"), first(entry, "distinguishedName"),
                     first(entry, "description") or first(entry, "cn"))
    who = person(entry, [])
    return Found(kind, who.external_id, who.name, who.dn, who.display_name, who.email)


def first(entry: Mapping[str, Any], attribute: str) -> str:
    """The attribute's first value as text, or ""."""
    values = entry.get(attribute) or [b""]
    return bytes(values[0]).decode("utf-8", "replace")


def _standing(entry: Mapping[str, Any], now: datetime) -> str:
    """The sub-code a disabled or expired account would be refused with, or "". A locked one is not shut out for it:
    whoever guesses at somebody's password must not be able to end their sessions."""
    if int(first(entry, "userAccountControl") or 0) & DISABLED:
        return "533"
    expires = int(first(entry, "accountExpires") or 0)
    if expires not in (0, NEVER) and _EPOCH + timedelta(microseconds=expires // 10) <= now:
        return "701"
    return ""
