"""What is known of a directory and of the people in it, as plain data: what may be carried out of a transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from backend.errors import NotSignedIn, Refused


@dataclass(frozen=True)
class DirectoryFacts:
    """An Active Directory domain and how to reach it. Its service account's password stays sealed."""

    id: UUID
    name: str  # corp.example
    servers: tuple[str, ...]  # ldaps://dc1.corp.example, or ldap://… with StartTLS; asked in this order
    starttls: bool = False
    base_dn: str = ""  # none: what the domain says itself
    netbios: str = ""
    bind_user: str = ""  # alice@corp.example, CORP\\alice or a DN
    bind_password_sealed: str = field(default="", repr=False)
    ca_pem: str = ""  # who signs the controllers' certificates; none: refused, but with system_ca
    system_ca: bool = False  # trust the machine's own bundle; slow, and seldom what is wanted
    upn_suffixes: tuple[str, ...] = ()  # what may stand after the @ besides the domain's name


@dataclass(frozen=True)
class Person:
    """A person as their directory says; `refusal` when it would not let them in."""

    external_id: str  # objectSid as text
    name: str  # sAMAccountName, lower case: unique in the domain
    dn: str
    display_name: str = ""
    email: str = ""
    upn: str = ""
    group_sids: tuple[str, ...] = ()  # all groups, nested ones included
    refusal: Refused | None = None


@dataclass(frozen=True)
class Found:
    """A person or a group found in a directory by text, not necessarily known here yet."""

    kind: str  # user | group
    external_id: str
    name: str
    dn: str
    display_name: str = ""
    email: str = ""


@dataclass(frozen=True)
class Proof:
    """What came of trying a password: the person, or why not. `guess`: whether the refusal counts as a wrong guess."""

    refusal: Refused | None = None
    guess: bool = True
    person: Person | None = None  # of a directory; internal users are known by their row
    better_hash: str | None = field(default=None, repr=False)
    trouble: str | None = None  # "" when a controller answered, a sentence when none did, None when none was asked


@dataclass(frozen=True)
class ControllerFacts:
    """What was found at one domain controller: reached and trusted, or why not, and whose certificate it showed."""

    url: str
    reached: bool
    why: str = ""
    tls_subject: str = ""
    tls_issuer: str = ""
    tls_expires: datetime | None = None
    tls_version: str = ""


@dataclass(frozen=True)
class DirectoryReport:
    """What a test of a directory found. `people` is None when they could not be counted."""

    controllers: tuple[ControllerFacts, ...]
    bind_ok: bool = False
    bind_why: str = ""
    base_dn: str = ""
    netbios: str = ""
    upn_suffixes: tuple[str, ...] = ()
    people: int | None = None
    people_more: bool = False  # counting stopped there

    @property
    def ok(self) -> bool:
        """Whether people could sign in with it now."""
        return self.bind_ok and bool(self.people)


def wrong() -> NotSignedIn:
    """What a wrong password and an unknown name are told alike."""
    return NotSignedIn("wrong_credentials",
                       "The user name or the password is wrong. A person of a domain signs in as name@domain.")
