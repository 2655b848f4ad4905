"""What pages and REST ask of directories: people found by text, a domain tested, a person or group taken in by SID.

Each of these reads what it needs, ends the request's transaction, and only then talks to a domain controller.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from backend.db import get
from backend.directory import accounts, rights
from backend.directory.commands import AddDirectory
from backend.directory.facts import DirectoryFacts, DirectoryReport, Found
from backend.directory.ldap import ActiveDirectory, door
from backend.directory.models import Directory, Group, User
from backend.directory.names import INTERNAL
from backend.directory.rules import places
from backend.errors import Denied, Impossible, NotFound
from backend.search.query import pattern
from portal.auth import actor, aside, grants
from portal.parts import parts
from portal.transaction import commit, tx

MOST = 50


def require_search() -> None:
    """Who entitles people anywhere may look for them."""
    if not places(grants(), "directory.search", parts().clock.now()):
        raise Denied("denied", "You may not search directories: it needs the right “directory.search”. Ask your administrator.",
                     permit="directory.search")


def require_edit() -> None:
    """Who may change directories and ask them questions about themselves."""
    rights.require(tx(), actor(), "directory.edit", "directory", None, parts().clock.now())


def search(directory_id: UUID, text: str) -> list[Found]:
    """People and groups of the directory with a name that begins with the text. Talks to the domain."""
    require_search()
    directory = get(tx(), Directory, directory_id)
    if directory.name == INTERNAL:
        return _internal(directory_id, text)
    domain = _door(accounts.facts_of(directory))
    commit()
    return aside(lambda: domain.search(text, limit=MOST))


def lookup(directory_id: UUID, kind: str, external_id: str) -> Found:
    """The person or group with this SID, as the domain itself says; `NotFound` when it has none."""
    require_search()
    directory = get(tx(), Directory, directory_id)
    if directory.name == INTERNAL:
        raise Impossible("internal_directory", "People of the internal directory are known already: give their user_id.")
    domain, now = _door(accounts.facts_of(directory)), parts().clock.now()
    commit()
    gone = NotFound("not_found", f"The domain has no {kind} with the SID {external_id[:80]}.", kind=kind)
    if not _is_sid(external_id):
        raise gone
    if kind == "group":
        found = aside(lambda: domain.group(external_id))
    else:
        who = aside(lambda: domain.person(external_id, now))
        found = Found("user", who.external_id, who.name, who.dn, who.display_name, who.email) if who else None
    if found is None:
        raise gone
    return found


def test(directory_id: UUID) -> DirectoryReport:
    """Try every controller of the domain, the service account and a search, and tell what was found."""
    require_edit()
    directory = get(tx(), Directory, directory_id)
    if directory.name == INTERNAL:
        raise Impossible("internal_directory", "The internal directory is Leasehold's own: there is nothing to test.")
    domain = _door(accounts.facts_of(directory))
    commit()
    return aside(domain.test)


def try_out(fields: dict[str, Any]) -> DirectoryReport:
    """The same for a domain that is not added yet; `fields` as `DirectoryFacts` has them, the password sealed."""
    require_edit()
    facts = msgspec.convert({"id": UUID(int=0), "name": "", **fields}, DirectoryFacts)
    domain = ActiveDirectory(facts, parts().keyring.unseal)
    commit()
    return aside(domain.test)


def completed(command: AddDirectory, report: DirectoryReport) -> AddDirectory:
    """The command with what the domain says of itself where nothing was given."""
    told: dict[str, Any] = {"netbios": report.netbios, "upn_suffixes": report.upn_suffixes, "base_dn": report.base_dn}
    return replace(command, **{name: value for name, value in told.items() if value and not getattr(command, name)})


def _door(facts: DirectoryFacts) -> ActiveDirectory:
    return door(facts, parts().keyring.unseal)


def _is_sid(text: str) -> bool:
    numbers = text.removeprefix("S-").split("-")
    return (text.startswith("S-1-") and 3 <= len(numbers) <= 17
            and all(n.isascii() and n.isdigit() and int(n) < 2**32 for n in numbers))


def _internal(directory_id: UUID, text: str) -> list[Found]:
    """Users and groups of the internal directory, by the same rule; their ids stand where a SID would."""
    start = pattern(f"{text.strip()}*")
    if start == "%":
        return []
    found = []
    kinds: tuple[tuple[str, Any], ...] = (("user", User), ("group", Group))
    for kind, cls in kinds:
        named = cls.name.ilike(start, escape="\\")
        if cls is User:
            named = sa.or_(named, User.display_name.ilike(start, escape="\\"),
                           User.display_name.ilike(f"% {start}", escape="\\"))
        rows = tx().scalars(sa.select(cls).where(cls.directory_id == directory_id, named).order_by(cls.name).limit(MOST))
        found += [Found(kind, str(row.id), row.name, "", getattr(row, "display_name", "") or row.name) for row in rows]
    return found
