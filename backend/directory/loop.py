"""Ask the directories about people who are signed in or hold a desktop; who is gone there is out here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from backend.clock import Clock
from backend.db import Tx, get
from backend.directory import accounts, throttle
from backend.directory.facts import DirectoryFacts, Person
from backend.directory.ldap import door
from backend.directory.models import Directory, User, WebSession
from backend.errors import Refused
from backend.secrets import Keyring

MANY = 3  # so many people all gone at once are rather a domain that does not let us see them


@dataclass(frozen=True)
class Wanted:
    """A directory and the SIDs of the people to ask it about."""

    directory: DirectoryFacts
    external_ids: Sequence[str]
    enabled: frozenset[str]  # those of them who may still sign in here


@dataclass(frozen=True)
class Answer:
    """What a directory said of them, or the sentence of its trouble."""

    directory_id: UUID
    people: Mapping[str, Person | None]
    upn_suffixes: tuple[str, ...] = ()
    trouble: str = ""


class RefreshDirectory:
    """Keeps what is known here of a domain's people true. Disabled, expired or deleted there: shut out here."""

    name = "refresh-directory"

    def __init__(self, clock: Clock, keyring: Keyring, every_s: float = 300) -> None:
        self.clock, self.keyring, self.every_s = clock, keyring, every_s

    def read(self, tx: Tx) -> list[Wanted]:
        """Every domain, and its people who have a live session or lease, or whom it shut out."""
        now = self.clock.now()
        lease = sa.table("lease", sa.column("user_id"), sa.column("state", sa.Text))  # of a higher floor
        signed_in = sa.select(WebSession.user_id).where(WebSession.ended_at.is_(None), WebSession.expires_at > now)
        holding = sa.select(lease.c.user_id).where(lease.c.state != "ended")
        asked = sa.or_(User.id.in_(signed_in), User.id.in_(holding), User.disabled_by == "directory")
        wanted = []
        for directory in tx.scalars(sa.select(Directory).where(Directory.type == "ad").order_by(Directory.name)):
            known = User.directory_id == directory.id, User.external_id.is_not(None)
            people = tx.execute(sa.select(User.external_id, User.enabled).where(*known, asked).order_by(User.external_id)).all()
            wanted.append(Wanted(accounts.facts_of(directory), [str(sid) for sid, _ in people],
                                 frozenset(str(sid) for sid, enabled in people if enabled)))
        return wanted

    def gather(self, wanted: list[Wanted]) -> list[Answer]:
        """Ask each domain, outside any transaction."""
        return [self._ask(one) for one in wanted]

    def apply(self, tx: Tx, found: list[Answer]) -> None:
        """Bring the rows up to date, and forget failures that count no more."""
        now = self.clock.now()
        throttle.forget_old(tx, now)
        for answer in found:
            directory = tx.get(Directory, answer.directory_id)
            if directory is None:  # removed meanwhile
                continue
            accounts.note_trouble(tx, directory.id, answer.trouble)
            if answer.trouble:
                continue
            directory.refreshed_at = now
            if set(answer.upn_suffixes) - set(directory.config.get("upn_suffixes", [])):
                directory = get(tx, Directory, directory.id, lock=True)
                known = {*directory.config.get("upn_suffixes", []), *answer.upn_suffixes}
                directory.config = {**directory.config, "upn_suffixes": sorted(known)}
            for external_id, person in answer.people.items():
                self._apply_one(tx, directory, external_id, person)

    def _apply_one(self, tx: Tx, directory: Directory, external_id: str, person: Person | None) -> None:
        now = self.clock.now()
        user = tx.scalars(sa.select(User).where(User.directory_id == directory.id, User.external_id == external_id)).first()
        if user is None:
            return
        if person is None:
            accounts.shut_out(tx, user, f"{directory.name} does not have this account any more.", now)
            return
        user = accounts.remember(tx, directory, person, now)
        if person.refusal is not None:
            accounts.shut_out(tx, user, f"{directory.name} says: {person.refusal.message}", now)

    def _ask(self, wanted: Wanted) -> Answer:
        domain = door(wanted.directory, self.keyring.unseal)
        try:
            suffixes = domain.suffixes()
            people = domain.people(wanted.external_ids, self.clock.now())
        except Refused as no:
            return Answer(wanted.directory.id, {}, trouble=no.message)
        if len(wanted.enabled) >= MANY and not any(people[sid] for sid in wanted.enabled):
            return Answer(wanted.directory.id, {}, trouble=f"{wanted.directory.name} answers, but shows none of the "
                          f"{len(wanted.enabled)} people it was asked about. Look at the base DN and at the rights of "
                          "Leasehold's own account.")
        return Answer(wanted.directory.id, people, suffixes)
