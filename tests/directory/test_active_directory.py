"""Against a real domain controller: who gets in, who does not and why, and what is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backend.db import Sessions
from backend.directory import accounts, ldap, rights
from backend.directory import sessions as live
from backend.directory.commands import AddDirectory, GrantRole, ImportPrincipal
from backend.directory.facts import DirectoryFacts, Found
from backend.directory.ldap import ActiveDirectory
from backend.directory.loop import RefreshDirectory
from backend.directory.models import Directory, Group, Membership, Throttle, User
from backend.directory.names import read_login
from backend.errors import Invalid, Unavailable
from backend.events import Event
from backend.loops import tick
from backend.secrets import Keyring
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.submit import submit
from sim.make import a_pool
from tests.conftest import ToldClock
from tests.directory.conftest import PASSWORD, SignIn
from tests.samba import YESTERDAY, SambaDomain, certificates

pytestmark = pytest.mark.ad
SECRET = "Pass-w0rd-for-all"
ODD = "P\u00e4ss \ufb01-\u00df 0\u00ad!"  # a ligature and a soft hyphen: nothing may be prepared away


@dataclass(frozen=True)
class People:
    """The domain's groups by DN: an outer one around a middle one around an inner one with a comma and umlauts."""

    inner: str
    middle: str
    outer: str
    juergen: str


@pytest.fixture(scope="module")
def people(samba: SambaDomain) -> People:
    inner = samba.add_group("Gruppe, Gr\u00f6\u00dfe", "gruppe-groesse")
    middle = samba.add_group("Mitte (alle)", "mitte", inner)
    outer = samba.add_group("Au\u00dfen", "aussen", middle)
    juergen = samba.add_user("jm\u00fcller", SECRET, cn="M\u00fcller, J\u00fcrgen", given="J\u00fcrgen", surname="M\u00fcller",
                             groups=[inner])
    samba.add_user("dora", SECRET, disabled=True)
    samba.add_user("emil", SECRET, accountExpires=YESTERDAY)
    samba.add_user("max", SECRET, must_change=True)
    samba.add_user("nina", SECRET, logonHours=bytes(21))  # type: ignore[arg-type]
    samba.add_user("willi", SECRET, userWorkstations="PC1")
    samba.add_user("lotte", SECRET)
    samba.add_user("odd", ODD)
    samba.add_user("paula", SECRET)
    samba.add_upn_suffix("outside.example")
    samba.add_user("otto", SECRET, upn="o.outside@outside.example", given="Otto", surname="Outside")
    return People(inner, middle, outer, juergen)


@pytest.fixture
def facts(samba: SambaDomain) -> DirectoryFacts:
    return DirectoryFacts(uuid4(), samba.realm, samba.servers, bind_user=samba.bind_user, ca_pem=samba.ca_pem,
                          bind_password_sealed=samba.bind_password, netbios=samba.netbios, upn_suffixes=("outside.example",))


@pytest.fixture
def open_door(facts: DirectoryFacts) -> Callable[..., ActiveDirectory]:
    """Doors to the domain with some facts changed, closed at the end; nothing is sealed."""
    doors = []

    def made(**changes: object) -> ActiveDirectory:
        doors.append(ActiveDirectory(replace(facts, **changes), str))  # type: ignore[arg-type]
        return doors[-1]

    yield made  # type: ignore[misc]
    for door in doors:
        door.close()


@pytest.fixture
def domain(sessions: Sessions, clock: ToldClock, keyring: Keyring, samba: SambaDomain) -> UUID:
    """The domain, added as an administrator adds it."""
    with sessions.begin() as tx:
        command = AddDirectory(samba.realm, samba.servers, samba.bind_user, keyring.seal(samba.bind_password), samba.ca_pem,
                               netbios=samba.netbios, upn_suffixes=("outside.example",))
        task = submit(tx, command, SYSTEM, clock.now())
        assert task.state == "succeeded"
        directory_id = UUID(task.result["id"])
    yield directory_id  # type: ignore[misc]
    ldap._doors.pop(directory_id, ldap.ActiveDirectory(DirectoryFacts(directory_id, "", ()), str)).close()


def edit(sessions: Sessions, directory_id: UUID, **config: object) -> None:
    with sessions.begin() as tx:
        directory = tx.get_one(Directory, directory_id)
        directory.config = {**directory.config, **config}


# -- signing in ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["jm\u00fcller@corp.example", "CORP\\jm\u00fcller", "JM\u00dcLLER@Corp.Example"])
def test_sign_in_with_comma_and_umlauts(
    sessions: Sessions, clock: ToldClock, people: People, domain: UUID, sign_in: SignIn, name: str,
) -> None:
    signed = sign_in(name, SECRET)
    assert signed.refusal is None
    with sessions.begin() as tx:
        facts = live.find(tx, signed.token, clock.now())
        assert facts is not None
        assert (facts.user_name, facts.display_name) == ("jm\u00fcller@corp.example", "J\u00fcrgen M\u00fcller")
        user = tx.get_one(User, signed.user_id)
        assert user.dn == people.juergen and user.external_id.startswith("S-1-5-21-") and user.password_hash is None
        assert user.email == "jm\u00fcller@corp.example"
    again = sign_in("jm\u00fcller", SECRET, domain="corp.example")
    assert again.user_id == signed.user_id


def test_a_name_that_ends_otherwise(people: People, domain: UUID, sign_in: SignIn) -> None:
    by_upn = sign_in("O.Outside@outside.example", SECRET)
    assert by_upn.refusal is None and sign_in("otto@corp.example", SECRET).user_id == by_upn.user_id
    assert sign_in("otto@outside.example", SECRET).refusal.code == "wrong_credentials"


def test_any_password_is_taken_as_it_is(people: People, domain: UUID, sign_in: SignIn) -> None:
    assert sign_in("odd@corp.example", ODD).refusal is None
    assert sign_in("odd@corp.example", "P\u00e4ss fi-\u00df 0!").refusal.code == "wrong_credentials"


@pytest.mark.parametrize(("name", "code", "words"), [
    ("dora", "account_disabled", "disabled"), ("emil", "account_expired", "has expired"),
    ("max", "must_change_password", "must change your password"), ("nina", "not_now", "time of day"),
    ("willi", "not_from_here", "certain computers"),
])
def test_refusals_are_told_in_sentences(
    sessions: Sessions, people: People, domain: UUID, sign_in: SignIn, name: str, code: str, words: str,
) -> None:
    told = sign_in(f"{name}@corp.example", SECRET).refusal
    assert told.code == code and words in told.message and told.message.endswith(".") and told.status == 401
    assert sign_in(f"{name}@corp.example", "wrong").refusal.code == "wrong_credentials"  # only its owner is told more
    with sessions() as tx:
        failures = sa.select(Event.sentence).where(Event.code == "user.sign_in_failed").order_by(Event.id)
        assert words in tx.scalars(failures).first()


def test_a_locked_account(samba: SambaDomain, people: People, open_door: Callable[..., ActiveDirectory]) -> None:
    door, login = open_door(), read_login("lotte@corp.example")
    samba.lock_after(3)
    try:
        for _ in range(4):
            assert door.prove(login, "wrong").refusal
        told = door.prove(login, SECRET).refusal
    finally:
        samba.lock_after(0)
    assert told.code == "account_locked" and "locked" in told.message


@pytest.mark.parametrize("name", [
    "*@corp.example", "jm*@corp.example", "CORP\\*", "CORP\\*)(objectClass=*", "jm\u00fcller@corp.example)(objectClass=*",
    "x)(|(sAMAccountName=jm\u00fcller)@corp.example", "CORP\\jm\u00fcller\\2a", "@corp.example", "CORP\\",
])
def test_text_never_becomes_part_of_a_filter(people: People, domain: UUID, sign_in: SignIn, name: str) -> None:
    assert sign_in(name, SECRET).refusal.code == "wrong_credentials"


def test_no_password_proves_nothing(people: People, domain: UUID, sign_in: SignIn) -> None:
    assert sign_in("jm\u00fcller@corp.example", "").refusal.code == "wrong_credentials"


# -- groups and rights ---------------------------------------------------------------------------
def test_nested_groups_give_rights(
    sessions: Sessions, clock: ToldClock, samba: SambaDomain, people: People, domain: UUID, sign_in: SignIn,
    open_door: Callable[..., ActiveDirectory],
) -> None:
    before = sign_in("jm\u00fcller@corp.example", SECRET)
    (outer,) = open_door().search("au\u00dfe", ["group"])
    assert outer.dn == people.outer
    with sessions.begin() as tx:
        pool = a_pool(tx)
        grant = GrantRole("user", "pool", pool.id, directory_id=domain, found=outer)
        task = submit(tx, grant, SYSTEM, clock.now())
        assert task.title == f"Give Au\u00dfen the role user on pool {pool.name}"

    def may(user_id: UUID) -> bool:
        with sessions() as tx:
            return ("pool", pool.id) in rights.places(rights.grants_of(tx, user_id), "desktop.use", clock.now())

    assert may(before.user_id)  # at once: the domain said long ago which groups there are
    samba.leave(people.inner, people.juergen)
    try:
        assert not may(sign_in("jm\u00fcller@corp.example", SECRET).user_id)
    finally:
        samba.join(people.inner, people.juergen)
    assert may(sign_in("jm\u00fcller@corp.example", SECRET).user_id)


def test_entitled_before_the_first_sign_in(
    sessions: Sessions, clock: ToldClock, people: People, domain: UUID, sign_in: SignIn,
    open_door: Callable[..., ActiveDirectory],
) -> None:
    (found,) = open_door().search("outside, otto") or open_door().search("otto out")
    with sessions.begin() as tx:
        ids = [submit(tx, ImportPrincipal(domain, found), SYSTEM, clock.now()).result["id"] for _ in range(2)]
        assert ids[0] == ids[1]
    assert str(sign_in("otto@corp.example", SECRET).user_id) == ids[0]


# -- finding -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "names"), [
    ("m\u00fcll", ["jm\u00fcller"]), ("J\u00dcRG", ["jm\u00fcller"]), ("gr\u00f6\u00dfe", ["Gruppe, Gr\u00f6\u00dfe"]),
    ("Gruppe, G", ["Gruppe, Gr\u00f6\u00dfe"]), ("Mitte (", ["Mitte (alle)"]), ("o.outside@out", ["otto"]),
    ("*", []), ("*)(objectClass=*", []), ("\\", []), ("\x00", []), ("", []), ("  ", []), ("x" * 300, []),
])
def test_search(people: People, open_door: Callable[..., ActiveDirectory], text: str, names: list[str]) -> None:
    assert [found.name for found in open_door().search(text)] == names


def test_many_are_found_page_by_page(
    samba: SambaDomain, open_door: Callable[..., ActiveDirectory], monkeypatch: pytest.MonkeyPatch,
) -> None:
    for n in range(7):
        samba.add_user(f"paged{n}", SECRET, disabled=True)
    monkeypatch.setattr(ldap, "PAGE", 2)
    assert [found.name for found in open_door().search("paged")] == [f"paged{n}" for n in range(7)]
    assert len(open_door().search("paged", limit=5)) == 5
    report = open_door().test(count_to=6)
    assert (report.people, report.people_more) == (6, True)


def test_found_again_by_sid(clock: ToldClock, people: People, open_door: Callable[..., ActiveDirectory]) -> None:
    door = open_door()
    (person,), (group,) = door.search("m\u00fcller"), door.search("gruppe")
    assert door.person(person.external_id, clock.now()).dn == people.juergen
    assert door.group(group.external_id) == group
    assert door.group(person.external_id) is None and door.person(group.external_id, clock.now()) is None


# -- reaching it ---------------------------------------------------------------------------------
@pytest.mark.parametrize("starttls", [False, True])
def test_what_a_test_shows(samba: SambaDomain, people: People, open_door: Callable[..., ActiveDirectory], starttls: bool) -> None:
    servers = samba.starttls_servers if starttls else samba.servers
    report = open_door(servers=(*servers, samba.dead), starttls=starttls, netbios="", base_dn="").test()
    assert report.ok and report.bind_ok and report.bind_why == ""
    assert (report.base_dn, report.netbios, report.upn_suffixes) == ("DC=corp,DC=example", "CORP", ("outside.example",))
    assert report.people >= 10 and not report.people_more
    here, dead = report.controllers
    assert here.reached and here.tls_subject == "commonName=dc1.corp.example" and here.tls_version == "TLSv1.3"
    assert here.tls_expires > here.tls_expires - timedelta(days=31) and here.tls_issuer == "commonName=Test domain CA"
    assert not dead.reached and dead.why == "the connection is refused"


@pytest.mark.parametrize("starttls", [False, True])
def test_only_who_can_be_trusted_hears_a_password(
    samba: SambaDomain, people: People, open_door: Callable[..., ActiveDirectory], tmp_path: Path, starttls: bool,
) -> None:
    servers = samba.starttls_servers if starttls else samba.servers
    other_ca, _ = certificates(tmp_path, "other.example", "127.0.0.1")
    misnamed = samba.misnamed.replace("ldaps", "ldap") if starttls else samba.misnamed
    for changes, why in [
        ({"ca_pem": other_ca, "servers": servers}, "not signed by the CA"),
        ({"ca_pem": "", "system_ca": True, "servers": servers}, "not signed by the CA"),
        ({"servers": (misnamed,)}, "made for another name"),
    ]:
        door = open_door(starttls=starttls, **changes)
        proof = door.prove(read_login("jm\u00fcller@corp.example"), SECRET)
        assert isinstance(proof.refusal, Unavailable) and why in proof.refusal.message and proof.trouble == proof.refusal.message
        report = door.test()
        assert not report.ok and not report.bind_ok and why in report.controllers[0].why and why in report.bind_why


def test_never_without_tls(samba: SambaDomain, people: People, open_door: Callable[..., ActiveDirectory]) -> None:
    proof = open_door(servers=samba.starttls_servers).prove(read_login("jm\u00fcller@corp.example"), SECRET)
    assert "without TLS nothing is said" in proof.refusal.message


def test_a_wrong_service_password_is_told(samba: SambaDomain, open_door: Callable[..., ActiveDirectory]) -> None:
    report = open_door(bind_password_sealed="wrong").test()
    assert report.controllers[0].reached and not report.bind_ok
    assert f"refuses Leasehold's own account {samba.bind_user}" in report.bind_why


def test_the_next_controller_is_asked(samba: SambaDomain, people: People, open_door: Callable[..., ActiveDirectory]) -> None:
    door = open_door(servers=(samba.dead, "ldaps://nowhere.invalid", samba.misnamed, *samba.servers))
    assert door.prove(read_login("jm\u00fcller@corp.example"), SECRET).person
    assert {url for url in door._shunned} == {samba.dead, "ldaps://nowhere.invalid", samba.misnamed}


def test_a_controller_that_was_restarted(samba: SambaDomain, people: People, open_door: Callable[..., ActiveDirectory]) -> None:
    """The kept connection is dead without anybody having said so."""
    door = open_door()
    assert door.search("m\u00fcller")
    samba.stop()
    silent = door.prove(read_login("jm\u00fcller@corp.example"), SECRET)
    assert isinstance(silent.refusal, Unavailable) and not silent.guess
    samba.start()
    assert door.search("m\u00fcller") and door.prove(read_login("jm\u00fcller@corp.example"), SECRET).person


def test_all_controllers_silent(
    sessions: Sessions, samba: SambaDomain, people: People, domain: UUID, alice: User, sign_in: SignIn,
) -> None:
    edit(sessions, domain, servers=[samba.dead])
    for _ in range(7):  # no guess was made, so nobody has to wait
        told = sign_in("jm\u00fcller@corp.example", SECRET).refusal
        assert told.status == 503 and told.code == "directory_silent" and "the connection is refused" in told.message
    with sessions() as tx:
        assert tx.get_one(Directory, domain).trouble == told.message
        assert not tx.scalar(sa.select(sa.func.max(Throttle.failures)))
    assert sign_in("alice", PASSWORD).refusal is None
    edit(sessions, domain, servers=list(samba.servers))
    assert sign_in("jm\u00fcller@corp.example", SECRET).refusal is None
    with sessions() as tx:
        assert tx.get_one(Directory, domain).trouble == ""
        codes = list(tx.scalars(sa.select(Event.code).where(Event.code.like("directory.%")).order_by(Event.id)))
        assert codes == ["directory.added", "directory.silent", "directory.answers"]


def test_no_secret_is_written_down(
    sessions: Sessions, samba: SambaDomain, people: People, domain: UUID, keyring: Keyring, sign_in: SignIn,
) -> None:
    sign_in("jm\u00fcller@corp.example", SECRET)
    with sessions() as tx:
        written = [str(row) for cls in (Task, Event, Directory, User)
                   for row in tx.execute(sa.select(*cls.__table__.columns)).all()]
        assert not [row for row in written if samba.bind_password in row or SECRET in row]
        facts = accounts.facts_of(tx.get_one(Directory, domain))
        assert keyring.unseal(facts.bind_password_sealed) == samba.bind_password
        assert facts.bind_password_sealed not in repr(facts)


# -- keeping it true -----------------------------------------------------------------------------
@pytest.fixture
def refresh(sessions: Sessions, clock: ToldClock, keyring: Keyring) -> Callable[[], None]:
    loop = RefreshDirectory(clock, keyring)
    return lambda: tick(sessions, loop)


@pytest.mark.parametrize("how", ["disabled", "expired", "deleted"])
def test_who_is_gone_there_is_out_here(
    sessions: Sessions, samba: SambaDomain, people: People, domain: UUID, sign_in: SignIn, refresh: Callable[[], None],
    clock: ToldClock, how: str,
) -> None:
    clock.time = clock.time.replace(year=2100)  # after all that can be set in the domain
    dn = samba.add_user(f"gone-{how}", SECRET)
    signed, stays = sign_in(f"gone-{how}@corp.example", SECRET), sign_in("otto@corp.example", SECRET)
    refresh()
    with sessions() as tx:
        assert live.find(tx, signed.token, clock.now()) and tx.get_one(Directory, domain).refreshed_at == clock.now()
    {"disabled": lambda: samba.modify(dn, userAccountControl="514"),
     "expired": lambda: samba.modify(dn, accountExpires=YESTERDAY),
     "deleted": lambda: samba.delete(dn)}[how]()
    refresh()
    with sessions() as tx:
        assert live.find(tx, signed.token, clock.now()) is None and live.find(tx, stays.token, clock.now())
        user = tx.get_one(User, signed.user_id)
        assert (user.enabled, user.disabled_by) == (False, "directory")
    assert sign_in(f"gone-{how}@corp.example", SECRET).refusal
    if how == "disabled":
        samba.modify(dn, userAccountControl="512")
        refresh()
        assert sign_in(f"gone-{how}@corp.example", SECRET).refusal is None


def test_who_an_administrator_disabled_stays_out(
    sessions: Sessions, clock: ToldClock, people: People, domain: UUID, sign_in: SignIn, refresh: Callable[[], None],
) -> None:
    signed = sign_in("otto@corp.example", SECRET)
    with sessions.begin() as tx:
        accounts.shut_out(tx, tx.get_one(User, signed.user_id), "a test says so.", clock.now(), by="administrator")
    refresh()
    assert sign_in("otto@corp.example", SECRET).refusal.code == "account_disabled"


def test_groups_are_refreshed_for_who_is_signed_in(
    sessions: Sessions, clock: ToldClock, samba: SambaDomain, people: People, domain: UUID, sign_in: SignIn,
    refresh: Callable[[], None], open_door: Callable[..., ActiveDirectory],
) -> None:
    signed = sign_in("jm\u00fcller@corp.example", SECRET)
    with sessions.begin() as tx:
        for found in open_door().search("gruppe") + open_door().search("au\u00dfen"):
            accounts.remember_found(tx, tx.get_one(Directory, domain), found, clock.now())

    def groups() -> list[str]:
        with sessions() as tx:
            mine = sa.select(Group.name).join(Membership, Membership.group_id == Group.id)
            return sorted(tx.scalars(mine.where(Membership.user_id == signed.user_id)))

    assert groups() == ["Au\u00dfen", "Gruppe, Gr\u00f6\u00dfe"]
    samba.leave(people.outer, people.middle)
    try:
        refresh()
        assert groups() == ["Gruppe, Gr\u00f6\u00dfe"]
    finally:
        samba.join(people.outer, people.middle)
    refresh()
    assert groups() == ["Au\u00dfen", "Gruppe, Gr\u00f6\u00dfe"]


def test_a_new_person_of_an_old_name_is_somebody_else(
    sessions: Sessions, samba: SambaDomain, domain: UUID, sign_in: SignIn, clock: ToldClock,
) -> None:
    dn = samba.add_user("heir", SECRET)
    first = sign_in("heir@corp.example", SECRET)
    samba.delete(dn)
    samba.add_user("heir", SECRET)
    second = sign_in("heir@corp.example", SECRET)
    assert second.refusal is None and second.user_id != first.user_id
    with sessions() as tx:
        old = tx.get_one(User, first.user_id)
        assert not old.enabled and old.name.startswith("heir#") and live.find(tx, first.token, clock.now()) is None


def test_a_domain_that_shows_nobody_shuts_nobody_out(
    sessions: Sessions, samba: SambaDomain, people: People, domain: UUID, clock: ToldClock, sign_in: SignIn,
    refresh: Callable[[], None],
) -> None:
    signed = [sign_in(f"{name}@corp.example", SECRET) for name in ("otto", "jm\u00fcller", "paula")]
    edit(sessions, domain, base_dn="OU=Domain Controllers,DC=corp,DC=example")
    refresh()
    with sessions() as tx:
        assert "shows none of the 3 people" in tx.get_one(Directory, domain).trouble
        assert all(live.find(tx, one.token, clock.now()) for one in signed)


def test_a_silent_domain_shuts_nobody_out(
    sessions: Sessions, samba: SambaDomain, people: People, domain: UUID, clock: ToldClock, sign_in: SignIn,
    refresh: Callable[[], None],
) -> None:
    signed = sign_in("otto@corp.example", SECRET)
    edit(sessions, domain, servers=[samba.dead])
    refresh()
    with sessions() as tx:
        assert "No domain controller of corp.example answers" in tx.get_one(Directory, domain).trouble
        assert live.find(tx, signed.token, clock.now())


# -- adding it -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("changes", "code"), [
    ({"servers": ()}, "no_server"), ({"servers": ("dc1.corp.example",)}, "bad_server"), ({"ca_pem": ""}, "no_ca"),
    ({"servers": ("https://dc1.corp.example",)}, "bad_server"), ({"servers": ("ldap://dc1.corp.example",)}, "no_tls"),
    ({"ca_pem": "no certificate"}, "bad_ca"), ({"bind_user": ""}, "no_service_account"),
    ({"directory_name": "internal"}, "bad_name"), ({"directory_name": "Corp.Example"}, "bad_name"),
])
def test_a_wrong_setting_is_told(
    sessions: Sessions, clock: ToldClock, keyring: Keyring, samba: SambaDomain, changes: dict[str, object], code: str,
) -> None:
    command = replace(AddDirectory("corp.example", samba.servers, samba.bind_user, keyring.seal("x"), samba.ca_pem), **changes)
    with sessions() as tx, pytest.raises(Invalid) as no:
        submit(tx, command, SYSTEM, clock.now())
    assert no.value.code == code and no.value.message.endswith(".") and no.value.facts["fields"]


def test_found_is_plain_data() -> None:
    import msgspec

    grant = GrantRole("user", "pool", uuid4(), directory_id=uuid4(), found=Found("group", "S-1-5-21-1", "g", "CN=g"))
    assert msgspec.convert(msgspec.to_builtins(grant), GrantRole) == grant


def test_many_at_once_under_gevent(samba: SambaDomain, people: People) -> None:
    """The web's own way: pool threads with cooperative sockets; the loop turns on meanwhile."""
    asked = {"servers": samba.servers, "name": samba.realm, "bind_user": samba.bind_user, "bind_password": samba.bind_password,
             "ca_pem": samba.ca_pem, "login": "jm\u00fcller@corp.example", "password": SECRET, "find": "m\u00fcll"}
    done = subprocess.run([sys.executable, "-m", "tests.directory.under_gevent"], input=json.dumps(asked), text=True,
                          capture_output=True, cwd=Path(__file__).parents[2], timeout=200)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["right"] and answer["ticks"] > 10
