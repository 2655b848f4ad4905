"""People and sign-ins for the directory's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backend.db import Sessions
from backend.directory import internal, signin
from backend.directory.models import User
from backend.secrets import Keyring
from tests.conftest import ToldClock
from tests.samba import certificates

PASSWORD = "correct horse battery"


@pytest.fixture
def keyring() -> Keyring:
    return Keyring(b"k" * 32)


@pytest.fixture
def alice(sessions: Sessions) -> User:
    with sessions.begin() as tx:
        user = User(directory_id=internal.directory(tx).id, name="alice", display_name="Alice",
                    password_hash=internal.hash_password(PASSWORD))
        tx.add(user)
    return user


SignIn = Callable[..., "signin.SignedIn | signin.Turned"]


@pytest.fixture
def sign_in(sessions: Sessions, clock: ToldClock, keyring: Keyring) -> SignIn:
    """Signs in as the portal does: begin, commit, prove, finish, commit."""

    def go(name: str, password: str, *, domain: str = "", address: str = "192.0.2.7", client: str = "browser"):  # type: ignore[no-untyped-def]
        with sessions.begin() as tx:
            attempt = signin.begin(tx, name, address, clock.now(), keyring=keyring, domain=domain)
        proof = attempt.prove(password)
        with sessions.begin() as tx:
            return signin.finish(tx, attempt, proof, client=client, address=address, now=clock.now())

    return go


@pytest.fixture
def samba_ca(tmp_path: Path) -> str:
    """The certificate of a CA, as PEM."""
    return certificates(tmp_path, "dc1.corp.example", "127.0.0.1")[0]
