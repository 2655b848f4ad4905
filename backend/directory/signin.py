"""Sign a person in, in three parts: `begin` (a transaction), `prove` (none: hash, or ask the directory), `finish` (another).

    attempt = signin.begin(tx, name, address, now, keyring=keyring)      # may refuse: TooMany
    proof = attempt.prove(password)                                       # in a thread of its own under gevent
    signed = signin.finish(tx, attempt, proof, client="browser", address=address, now=now)
    … commit, and only then:  if signed.refusal: raise signed.refusal

Both transactions must be committed, also when the answer is no: they hold the count of guesses and the event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.devices.enrolling import DeviceFacts
from backend.directory import accounts, internal, sessions, throttle
from backend.directory.facts import Proof, wrong
from backend.directory.ldap import ActiveDirectory, door
from backend.directory.models import Directory, Group, Membership, User
from backend.directory.names import INTERNAL, Login, full_name, read_login
from backend.directory.sessions import SessionFacts
from backend.errors import Denied, NotSignedIn, Refused
from backend.events import record
from backend.secrets import Keyring


@dataclass(frozen=True)
class Attempt:
    """Somebody says who they are; `prove` tries whether it is so. Plain data and a door: no transaction in it."""

    login: Login
    directory: str  # internal, corp.example; "" when nothing is known by the domain that was typed
    address: str
    user_id: UUID | None = None  # of an internal user
    password_hash: str | None = field(default=None, repr=False)
    domain: ActiveDirectory | None = None

    @property
    def account(self) -> str:
        """Who is said to sign in, for events."""
        return full_name(self.login.account, self.directory or self.login.domain or self.login.netbios)

    @property
    def key(self) -> str:
        """What this attempt is counted under."""
        return throttle.account_key(self.directory or f"?{self.login.domain}{self.login.netbios}", self.login.account)

    def prove(self, password: str) -> Proof:
        """Try the password. Takes tens of milliseconds of CPU, or seconds of waiting for a directory; thread-safe.

        A name that nobody has costs the same and is told the same as a wrong password.
        """
        if self.domain is not None:
            return self.domain.prove(self.login, password)
        if not internal.verify(self.password_hash, password):
            return Proof(wrong())
        assert self.password_hash is not None
        return Proof(better_hash=internal.better_hash(self.password_hash, password))


@dataclass(frozen=True)
class SignedIn:
    """A new session; its token is told only here."""

    session_id: UUID
    token: str = field(repr=False)
    user_id: UUID
    expires_at: datetime
    facts: SessionFacts  # the session as the next request will find it
    refusal: ClassVar[None] = None


@dataclass(frozen=True)
class Turned:
    """No session; the refusal is to be raised once the transaction is committed."""

    refusal: Refused


def begin(tx: Tx, name: str, address: str, now: datetime, *, keyring: Keyring, domain: str = "") -> Attempt:
    """Read the name (see `names.read_login`; `domain` is the chosen one), charge the account, or refuse with `TooMany`."""
    login = read_login(name, domain)
    attempt = _attempt(tx, login, address, keyring)
    throttle.begin(tx, attempt.key, throttle.address_key(address), now)
    return attempt


def finish(
    tx: Tx, attempt: Attempt, proof: Proof, *, client: str, address: str, now: datetime, device: DeviceFacts | None = None
) -> SignedIn | Turned:
    """Write down what came of it: a session, or why not. The refusal is answered, not raised, so that the count stays.
    `device` is the enrolled thin client that the person stands before."""
    refusal, user = proof.refusal, None
    if proof.person is not None or proof.trouble is not None:
        directory = tx.scalars(sa.select(Directory).where(Directory.name == attempt.directory)).first()
        if proof.trouble is not None and directory is not None:
            accounts.note_trouble(tx, directory.id, proof.trouble)
        if refusal is None and proof.person is not None and directory is not None:
            user = accounts.remember(tx, directory, proof.person, now)
    elif refusal is None and attempt.user_id is not None:
        user = tx.get(User, attempt.user_id, populate_existing=True)
        if user is not None and user.password_hash != attempt.password_hash:
            user = None  # the password was changed while this one was being tried
    if refusal is None and user is None:
        refusal = wrong()
    elif user is not None and not user.enabled:
        refusal = NotSignedIn("account_disabled", "This account is disabled. Ask your administrator to enable it.")
    if refusal is not None or user is None:
        return _turned(tx, attempt, refusal or wrong(), address, now, guess=proof.refusal is None or proof.guess)
    if device is not None and (elsewhere := _not_theirs(tx, device, user)):
        return _turned(tx, attempt, elsewhere, address, now, guess=False)
    if proof.better_hash:
        user.password_hash = proof.better_hash
    user.signed_in_at = now
    tx.flush()
    throttle.succeeded(tx, attempt.key)
    device_id = device.id if device else None
    if device_id is not None:  # whoever comes next at a thin client finds nothing of who was there before
        sessions.end_of_device(tx, device_id, now, client=client)
    session_id, token, expires_at = sessions.create(
        tx, user.id, client=client, address=address, now=now, device_id=device_id
    )
    name = full_name(user.name, attempt.directory)
    record(tx, "user.signed_in", user, user_id=user.id, name=name, address=address)
    facts = SessionFacts(
        session_id, user.id, name, user.display_name or user.name, client, address, now, now, expires_at, False, device_id
    )
    return SignedIn(session_id, token, user.id, expires_at, facts)


def _not_theirs(tx: Tx, device: DeviceFacts, user: User) -> Refused | None:
    """The refusal when the device is for a group that the person is not in."""
    if device.group_id is None or tx.get(Membership, (user.id, device.group_id), populate_existing=True) is not None:
        return None
    group = tx.scalar(sa.select(Group.name).where(Group.id == device.group_id))
    return Denied("not_your_device", f"{device.name} is for the people of {group}; sign in at another device.")


def _turned(tx: Tx, attempt: Attempt, refusal: Refused, address: str, now: datetime, *, guess: bool) -> Turned:
    if not guess:
        throttle.give_back(tx, attempt.key)
    else:
        throttle.failed(tx, throttle.address_key(address), now)
    record(tx, "user.sign_in_failed", user_id=attempt.user_id, account=attempt.account[:200], address=address,
           why=refusal.message)
    return Turned(refusal)


_INTERNAL = (
    sa.select(User.id, User.password_hash).join(Directory, Directory.id == User.directory_id)
    .where(Directory.name == INTERNAL, User.name == sa.bindparam("account"))
)


def _attempt(tx: Tx, login: Login, address: str, keyring: Keyring) -> Attempt:
    if not login.netbios and login.domain in ("", INTERNAL):
        row = tx.execute(_INTERNAL, {"account": login.account}).first()
        return Attempt(login, INTERNAL, address, *(row or (None, None)))
    for directory in tx.scalars(sa.select(Directory).where(Directory.type == "ad").order_by(Directory.name)):
        facts = accounts.facts_of(directory)
        if (login.netbios and login.netbios in (facts.netbios.lower(), facts.name)) or (
            login.domain and login.domain in (facts.name, *facts.upn_suffixes)
        ):
            return Attempt(login, facts.name, address, domain=door(facts, keyring.unseal))
    return Attempt(login, "", address)
