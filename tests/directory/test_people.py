"""Creating, editing and removing internal users, and the directory itself."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from backend.db import Sessions, Tx
from backend.directory import accounts, internal
from backend.directory.commands import (
    AddDirectory,
    CreateUser,
    EditDirectory,
    EditGroup,
    EditUser,
    RemoveDirectory,
    RemoveUser,
    SignOutUser,
)
from backend.directory.facts import Person
from backend.directory.models import Directory, Group, Permission, User
from backend.errors import Denied, Impossible, Invalid, NotFound
from backend.events import Event
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.models import Task
from backend.tasks.submit import submit
from sim.make import NOW, a_directory, a_group, a_permission, a_user
from tests.conftest import ToldClock
from tests.directory.conftest import PASSWORD, SignIn


def test_a_new_user_signs_in_once_a_password_is_set(sessions: Sessions, clock: ToldClock, sign_in: SignIn) -> None:
    with sessions.begin() as tx:
        task = submit(tx, CreateUser("bob", "Bob B."), SYSTEM, clock.now())
    assert sign_in("bob", "").refusal and sign_in("bob", PASSWORD).refusal.code == "wrong_credentials"
    made = internal.hash_password(PASSWORD)
    with sessions.begin() as tx:
        internal.set_password(tx, tx.scalars(sa.select(User.id)).one(), made, SYSTEM, clock.now())
    signed = sign_in("bob", PASSWORD)
    assert str(signed.user_id) == task.result["id"]
    with sessions() as tx:
        written = " ".join(str(row) for row in tx.execute(sa.select(Task.args, Task.result, Task.title)))
        assert PASSWORD not in written and "argon2" not in written


@pytest.mark.parametrize("name", ["", "Bob", "a b", "a@b", "CORP\\bob", "-bob", "b" * 65, "j\u00fcrgen"])
def test_a_users_name(tx: Tx, name: str) -> None:
    with pytest.raises(Invalid) as no:
        submit(tx, CreateUser(name), SYSTEM, NOW)
    assert no.value.code == "bad_name"


def test_a_name_is_given_once(tx: Tx) -> None:
    submit(tx, CreateUser("bob"), SYSTEM, NOW)
    with pytest.raises(Invalid, match="already a user named bob"):
        submit(tx, CreateUser("bob"), SYSTEM, NOW)


def test_disabling_ends_sessions_at_once(sessions: Sessions, clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    from backend.directory import sessions as live

    signed = sign_in("alice", PASSWORD)
    with sessions.begin() as tx:
        submit(tx, EditUser(alice.id, enabled=False), SYSTEM, clock.now())
        assert live.find(tx, signed.token, clock.now()) is None
    assert sign_in("alice", PASSWORD).refusal.code == "account_disabled"
    with sessions.begin() as tx:
        submit(tx, EditUser(alice.id, enabled=True), SYSTEM, clock.now())
        assert live.find(tx, signed.token, clock.now()) is None  # a session that has ended stays so
    assert sign_in("alice", PASSWORD).refusal is None


def test_editing_says_what(tx: Tx) -> None:
    user = a_user(tx)
    submit(tx, EditUser(user.id, auto_launch=True, email="a@b.example"), SYSTEM, NOW)
    assert (user.auto_launch, user.email, user.enabled) == (True, "a@b.example", True)
    sentence = tx.scalar(sa.select(Event.sentence).where(Event.code == "user.edited"))
    assert sentence == f"Leasehold changed the user {user.name}: auto launch, email."
    group = a_group(tx)
    submit(tx, EditGroup(group.id, auto_launch=True), SYSTEM, NOW)
    assert tx.get_one(Group, group.id).auto_launch


def test_signing_somebody_out(sessions: Sessions, clock: ToldClock, alice: User, sign_in: SignIn) -> None:
    from backend.directory import sessions as live

    signed = [sign_in("alice", PASSWORD) for _ in range(2)]
    with sessions.begin() as tx:
        assert submit(tx, SignOutUser(alice.id), SYSTEM, clock.now()).result == {"ended": 2}
        assert not [one for one in signed if live.find(tx, one.token, clock.now())]


def test_only_administrators_edit_people(tx: Tx) -> None:
    user, other = a_user(tx), a_user(tx)
    for command in (CreateUser("bob"), EditUser(other.id, enabled=False), RemoveUser(other.id), SignOutUser(other.id)):
        with pytest.raises((Denied, NotFound)):
            submit(tx, command, Actor(user.id, user.name), NOW)


def test_the_last_administrator_stays(tx: Tx) -> None:
    admin = a_user(tx)
    a_permission(tx, admin, None, role="system_admin")
    for command in (RemoveUser(admin.id), EditUser(admin.id, enabled=False)):
        with pytest.raises(Impossible, match="Nobody would be left"):
            submit(tx, command, SYSTEM, NOW)
    submit(tx, EditUser(admin.id, auto_launch=True), SYSTEM, NOW)
    submit(tx, RemoveUser(a_user(tx).id), SYSTEM, NOW)


def test_a_directory_does_not_take_the_last_administrator_along(tx: Tx) -> None:
    directory = a_directory(tx, "corp.example", "ad", config={"servers": []})
    a_permission(tx, a_user(tx, directory=directory), None, role="system_admin")
    with pytest.raises(Impossible, match="Nobody would be left"):
        submit(tx, RemoveDirectory(directory.id), SYSTEM, NOW)
    a_permission(tx, a_user(tx), None, role="system_admin")
    submit(tx, RemoveDirectory(directory.id), SYSTEM, NOW)


def test_a_directory_goes_with_its_people(sessions: Sessions, clock: ToldClock, samba_ca: str) -> None:
    with sessions.begin() as tx:
        add = AddDirectory("corp.example", ("ldaps://dc1.corp.example",), "reader", "sealed", samba_ca)
        task = submit(tx, add, SYSTEM, clock.now())
        directory = tx.get_one(Directory, task.result["id"])
        user, group = a_user(tx, directory=directory), a_group(tx, directory=directory)
        a_permission(tx, group, None, role="auditor")
        a_permission(tx, user, None, role="auditor")
        servers = ("ldaps://dc1.corp.example", "ldaps://evil.example")
        for elsewhere in ({"servers": servers}, {"system_ca": True}, {"ca_pem": samba_ca * 2}):
            with pytest.raises(Invalid, match="Give the password of reader again") as no:
                submit(tx, EditDirectory(directory.id, **elsewhere), SYSTEM, clock.now())
            assert no.value.facts["fields"] == ["bind_password"]
        submit(tx, EditDirectory(directory.id, servers=("ldaps://dc1.corp.example",), base_dn="DC=corp"), SYSTEM, clock.now())
        new = {"servers": ("ldap://dc2.corp.example",), "starttls": True, "bind_password_sealed": "sealed anew"}
        submit(tx, EditDirectory(directory.id, **new), SYSTEM, clock.now())
        assert directory.config["bind_password_sealed"] == "sealed anew"
        assert directory.config["servers"] == ["ldap://dc2.corp.example"] and directory.config["bind_user"] == "reader"
        with pytest.raises(Invalid, match="switch StartTLS on"):
            submit(tx, EditDirectory(directory.id, starttls=False), SYSTEM, clock.now())
    with sessions.begin() as tx:
        submit(tx, RemoveDirectory(directory.id), SYSTEM, clock.now())
    with sessions() as tx:
        assert not [cls for cls in (User, Group, Permission, Directory) if tx.scalars(sa.select(cls)).first()]
        assert tx.scalar(sa.select(Event.sentence).where(Event.code == "directory.removed")) == \
            "Leasehold removed the directory corp.example."


def test_the_internal_directory_stays(tx: Tx) -> None:
    directory = internal.directory(tx)
    assert internal.directory(tx).id == directory.id
    for command in (RemoveDirectory(directory.id), EditDirectory(directory.id, netbios="X")):
        with pytest.raises(Impossible, match="Leasehold's own"):
            submit(tx, command, SYSTEM, NOW)


def test_somebody_new_at_two_places_at_once_is_one(sessions: Sessions, clock: ToldClock) -> None:
    with sessions.begin() as tx:
        directory = Directory(name="corp.example", type="ad")
        tx.add(directory)
    person = Person("S-1-5-21-1-2-3-4", "jm\u00fcller", "CN=M\u00fcller\\, J\u00fcrgen", group_sids=("S-1-5-21-1-2-3-5",))
    go, made = threading.Barrier(8), []

    def arrive() -> None:
        go.wait()
        with sessions.begin() as tx:
            made.append(accounts.remember(tx, tx.get_one(Directory, directory.id), person, clock.now()).id)

    threads = [threading.Thread(target=arrive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(set(made)) == 1


def test_two_people_may_swap_their_names(tx: Tx) -> None:
    directory = Directory(name="corp.example", type="ad")
    tx.add(directory)
    tx.flush()
    one, two = (Person(f"S-1-5-21-1-2-3-{n}", name, f"CN={name}") for n, name in ((4, "kim"), (5, "lee")))
    ids = [accounts.remember(tx, directory, person, NOW).id for person in (one, two)]
    swapped = [replace(one, name="lee"), replace(two, name="kim")]
    assert [accounts.remember(tx, directory, person, NOW).id for person in swapped] == ids
    assert [tx.get_one(User, id).name for id in ids] == ["lee", "kim"]
    assert all(tx.get_one(User, id).enabled for id in ids)  # the one shut out meanwhile is let in again
