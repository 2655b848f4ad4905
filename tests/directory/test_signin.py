"""Signing in as an internal user: sessions, refusals, waiting after failures."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from backend.changes import Change
from backend.db import Sessions
from backend.directory import accounts, internal, sessions, signin, throttle
from backend.directory.models import Throttle, User, WebSession
from backend.errors import Denied, Invalid, Refused, TooMany
from backend.events import Event
from backend.secrets import Keyring
from backend.tasks.command import SYSTEM, Actor
from tests.conftest import ToldClock
from tests.directory.conftest import PASSWORD, SignIn


def codes(db: Sessions) -> list[str]:
    with db() as tx:
        return list(tx.scalars(sa.select(Event.code).order_by(Event.id)))


def test_a_right_password_gives_a_session(sessions: Sessions, clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    from backend.directory import sessions as live

    signed = sign_in(" Alice ", PASSWORD)
    assert isinstance(signed, signin.SignedIn) and signed.refusal is None and signed.user_id == alice.id
    assert signed.expires_at == clock.now() + timedelta(hours=12)
    with sessions.begin() as tx:
        facts = live.find(tx, signed.token, clock.now())
        assert facts is not None
        assert (facts.id, facts.user_name, facts.display_name, facts.client) == (signed.session_id, "alice", "Alice", "browser")
        assert not facts.launched and facts.address == "192.0.2.7"
        assert live.find(tx, signed.token + "x", clock.now()) is None
        row = tx.get_one(WebSession, signed.session_id)
        assert signed.token.encode() not in row.token_hash and len(row.token_hash) == 32
        assert tx.get_one(User, alice.id).signed_in_at == clock.now()
    assert codes(sessions) == ["user.signed_in"]
    assert sign_in("alice@internal", PASSWORD).refusal is None
    assert sign_in("alice", PASSWORD, domain="internal").refusal is None


@pytest.mark.parametrize(("client", "hours"), [("browser", 12), ("api", 24)])
def test_a_session_ends_by_itself(
    sessions: Sessions, clock: ToldClock, alice: User, sign_in: SignIn, client: str, hours: int,
) -> None:
    from backend.directory import sessions as live

    signed = sign_in("alice", PASSWORD, client=client)
    with sessions.begin() as tx:
        assert live.find(tx, signed.token, clock.now() + timedelta(hours=hours, seconds=-1))
        assert live.find(tx, signed.token, clock.now() + timedelta(hours=hours)) is None


def test_seen_at_is_written_once_a_minute(sessions: Sessions, clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    from backend.directory import sessions as live

    signed, began = sign_in("alice", PASSWORD), clock.now()
    for seconds, seen in [(59, 0), (60, 60), (100, 60), (120, 120)]:
        with sessions.begin() as tx:
            live.find(tx, signed.token, began + timedelta(seconds=seconds))
        with sessions() as tx:
            assert tx.get_one(WebSession, signed.session_id).seen_at == began + timedelta(seconds=seen)


def test_ending_sessions_is_told_to_streams(sessions: Sessions, clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    from backend.directory import sessions as live

    one, two, three = (sign_in("alice", PASSWORD) for _ in range(3))
    with sessions.begin() as tx:
        assert [f.id for f in live.live(tx, clock.now(), alice.id)] and len(live.live(tx, clock.now())) == 3
        live.end(tx, one.session_id, clock.now())
        live.end(tx, one.session_id, clock.now())  # twice is harmless
        assert live.find(tx, one.token, clock.now()) is None
        assert live.end_all(tx, alice.id, clock.now(), but=three.session_id) == [two.session_id]
        assert live.find(tx, three.token, clock.now())
    assert codes(sessions)[-2:] == ["user.signed_out", "user.sessions_ended"]
    with sessions() as tx:
        told = tx.scalars(sa.select(Change.object_id).where(Change.kind == "session", Change.user_id == alice.id)).all()
        assert told.count(str(one.session_id)) == told.count(str(two.session_id)) == 2
        with pytest.raises(Refused, match="There is no session"):
            live.end(tx, alice.id, clock.now())


def test_a_disabled_user_is_out_at_once(sessions: Sessions, clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    from backend.directory import sessions as live

    signed = sign_in("alice", PASSWORD)
    with sessions.begin() as tx:
        accounts.shut_out(tx, tx.get_one(User, alice.id), "a test says so.", clock.now(), by="administrator")
        assert live.find(tx, signed.token, clock.now()) is None
    turned = sign_in("alice", PASSWORD)
    assert turned.refusal.code == "account_disabled"


def test_unknown_names_and_wrong_passwords_are_told_alike(sessions: Sessions, alice: User, sign_in: SignIn) -> None:
    told = {(t.refusal.code, t.refusal.message, t.refusal.status) for t in (
        sign_in("alice", "wrong password"), sign_in("nobody", PASSWORD), sign_in("alice@nowhere.example", PASSWORD),
        sign_in("NOWHERE\\alice", PASSWORD), sign_in("", PASSWORD), sign_in("alice", ""), sign_in("alice", "\ud800" * 10),
        sign_in("al\x00ice", PASSWORD),
    )}
    assert len(told) == 1 and told.pop()[2] == 401
    assert set(codes(sessions)) == {"user.sign_in_failed"}
    with sessions() as tx:
        assert not tx.scalar(sa.select(sa.func.count()).select_from(WebSession))


def test_the_password_may_not_change_while_it_is_tried(
    sessions: Sessions, clock: ToldClock, keyring: Keyring, alice: User,
) -> None:
    with sessions.begin() as tx:
        attempt = signin.begin(tx, "alice", "192.0.2.7", clock.now(), keyring=keyring)
    proof = attempt.prove(PASSWORD)
    assert proof.refusal is None
    with sessions.begin() as tx:
        internal.set_password(tx, alice.id, internal.hash_password("another password"), SYSTEM, clock.now())
    with sessions.begin() as tx:
        assert signin.finish(tx, attempt, proof, client="api", address="192.0.2.7", now=clock.now()).refusal


def test_setting_a_password_ends_other_sessions(sessions: Sessions, clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    from backend.directory import sessions as live

    mine, other = sign_in("alice", PASSWORD), sign_in("alice", PASSWORD)
    new = internal.hash_password("gr\u00fcne Wiese am See", "alice")
    with sessions.begin() as tx:
        internal.set_password(tx, alice.id, new, Actor(alice.id, "alice"), clock.now(), keep=mine.session_id)
        assert live.find(tx, mine.token, clock.now()) and live.find(tx, other.token, clock.now()) is None
    assert sign_in("alice", PASSWORD).refusal
    assert sign_in("alice", "gru\u0308ne Wiese am See").refusal is None  # the same letters, composed differently
    with sessions() as tx:
        for event in tx.scalars(sa.select(Event)):
            assert "argon2" not in event.sentence + str(event.facts)


def test_only_who_may_sets_another_persons_password(sessions: Sessions, clock: ToldClock, alice: User) -> None:
    with sessions.begin() as tx:
        bob = User(directory_id=alice.directory_id, name="bob")
        tx.add(bob)
        tx.flush()
        with pytest.raises(Refused) as no:
            internal.set_password(tx, alice.id, "hash", Actor(bob.id, "bob"), clock.now())
        assert no.value.status in (403, 404) and not isinstance(no.value, Denied)  # not even that she exists


@pytest.mark.parametrize(("password", "code"), [
    ("short", "password_too_short"), ("x" * 1025, "password_too_long"), ("aaaaaaaaaaaa", "password_too_plain"),
    ("Christopher", "password_too_plain"),
])
def test_password_rules(password: str, code: str) -> None:
    with pytest.raises(Invalid) as no:
        internal.require_good(password, "christopher")
    assert no.value.code == code and no.value.facts["fields"] == ["password"] and no.value.message.endswith(".")


def test_an_older_hash_is_made_anew(sessions: Sessions, alice: User, sign_in: SignIn) -> None:
    from argon2 import PasswordHasher

    weak = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    with sessions.begin() as tx:
        tx.get_one(User, alice.id).password_hash = weak
    assert sign_in("alice", PASSWORD).refusal is None
    with sessions() as tx:
        assert "m=19456,t=2,p=1" in tx.get_one(User, alice.id).password_hash
    assert sign_in("alice", PASSWORD).refusal is None


# -- throttle ------------------------------------------------------------------------------------
def test_the_wait_grows(clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    for n in range(5):
        assert sign_in("alice", "wrong password", address=f"192.0.2.{n}").refusal.code == "wrong_credentials"
    for wait in (2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        with pytest.raises(TooMany) as no:
            sign_in("alice", PASSWORD)
        assert no.value.facts["retry_after_s"] == wait and f"in {wait} seconds" in no.value.message
        clock.sleep(wait)
        assert sign_in("alice", "wrong password", address=f"198.51.100.{wait % 250}").refusal
    clock.sleep(300)
    assert sign_in("alice", PASSWORD).refusal is None  # the right one, and all is forgotten
    assert sign_in("alice", "wrong password").refusal and sign_in("alice", PASSWORD).refusal is None


def test_an_address_waits_too(clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    for n in range(20):
        sign_in(f"guess{n}", "wrong password", address="2001:db8::1")
    with pytest.raises(TooMany, match="from this address") as no:
        sign_in("alice", PASSWORD, address="2001:db8::ffff")  # the same customer's network
    assert no.value.facts["retry_after_s"] == 2
    assert sign_in("alice", PASSWORD, address="2001:db8:0:1::1").refusal is None


def test_quiet_forgets(sessions: Sessions, clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    for _ in range(5):
        sign_in("alice", "wrong password")
    clock.sleep(15 * 60 + 1)
    for _ in range(4):
        assert sign_in("alice", "wrong password").refusal
    assert sign_in("alice", PASSWORD).refusal is None
    sign_in("nobody", "wrong password")
    clock.sleep(15 * 60 + 1)
    with sessions.begin() as tx:
        throttle.forget_old(tx, clock.now())
        assert not tx.scalar(sa.select(sa.func.count()).select_from(Throttle))


def test_a_thousand_guesses_at_once_are_all_counted(sessions: Sessions, clock: ToldClock, alice: User, keyring: Keyring) -> None:
    """Sixteen threads begin attempts with no time between; the account's free ones are given out once in all."""
    begun, go = [], threading.Barrier(16)

    def guess() -> None:
        go.wait()
        for _ in range(10):
            try:
                with sessions.begin() as tx:
                    begun.append(signin.begin(tx, "alice", "192.0.2.7", clock.now(), keyring=keyring))
            except TooMany:
                pass

    threads = [threading.Thread(target=guess) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == throttle.ACCOUNT_FREE


@pytest.mark.parametrize(("address", "key"), [
    ("192.0.2.7", "address:192.0.2.7"), ("::ffff:192.0.2.7", "address:192.0.2.7"),
    ("2001:db8::7", "address:2001:db8::/64"), ("", "address:"),
])
def test_address_keys(address: str, key: str) -> None:
    assert throttle.address_key(address) == key


def test_waits() -> None:
    assert [throttle.wait_s(n, 5) for n in (0, 4, 5, 6, 7, 12, 13, 10**6)] == [0, 0, 2, 4, 8, 256, 300, 300]
    assert sessions.TOKEN_BYTES * 8 == 256
