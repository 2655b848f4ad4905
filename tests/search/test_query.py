"""Searches on real rows: every field of every kind, order, pages, rights, and nothing that gets out of its value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.db import Tx
from backend.directory.rights import grants_of
from backend.directory.rules import Grant
from backend.errors import Invalid, NotFound
from backend.search.query import Kind, Viewer, one, page
from portal.collections import COLLECTIONS
from sim import make

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
ROOT = [Grant("system_admin", "system", None)]
VMS = COLLECTIONS["vms"]


def viewer(user_id: object, grants: list[Grant] | None = None) -> Viewer:
    return Viewer(user_id, ROOT if grants is None else grants, NOW)  # type: ignore[arg-type]


@pytest.fixture
def root(tx: Tx) -> Viewer:
    return viewer(make.a_user(tx, "root").id)


def names(tx: Tx, kind: Kind, who: Viewer, search: str) -> list[str]:
    return [item[kind.name] for item in page(tx, kind, who, search=search).items]


VALUES = {"text": "x", "texts": "x", "number": "1", "time": "2026-01-01", "yesno": "true", "id": "x"}


@pytest.mark.parametrize("plural", sorted(COLLECTIONS))
def test_every_field_can_be_searched_and_sorted(tx: Tx, root: Viewer, plural: str) -> None:
    kind = COLLECTIONS[plural]
    for name, facts in kind.language().items():
        value = facts.values[0] if facts.values else VALUES[facts.type]
        for search in (f"{name} = {value}", f"not {name} != {value} sortby {name} desc"):
            page(tx, kind, root, search=search)
        if facts.type in ("text", "texts", "choice"):
            page(tx, kind, root, search=f"{name} like *a*")
    assert page(tx, kind, root, search="word").items is not None


def test_finds_what_is_meant(tx: Tx, root: Viewer) -> None:
    alpha = make.a_host(tx, "alpha")
    pool = make.a_pool(tx, "Desktops")
    make.a_vm(tx, "w1", state="up", host=alpha, memory_mib=512)
    make.a_vm(tx, "W2", state="down", memory_mib=1024)
    make.a_vm(tx, "d_1", state="up", pool_id=pool.id, memory_mib=2048, guest={"ips": ["192.0.2.7"]})
    make.a_vm(tx, "dx1", state="up", memory_mib=2048, guest={"ips": None})

    def found(search: str) -> set[str]:
        return set(names(tx, VMS, root, search))

    assert found("status = up") == {"w1", "d_1", "dx1"}
    assert found("state != up") == {"W2"}
    assert found("name = w2") == {"W2"}
    assert found("name = w*") == {"w1", "W2"}
    assert found("d_1") == {"d_1"}, "an underscore is not a wildcard"
    assert found("pool = desktops") == {"d_1"}
    assert found("pool != desktops") == {"w1", "W2", "dx1"}, "a VM without a pool is not of the pool"
    assert found("not pool = desktops") == {"w1", "W2", "dx1"}
    assert found("host = alpha and status = up") == {"w1"}
    assert found("memory_mib > 512 and not status = down") == {"d_1", "dx1"}
    assert found("ip = 192.0.2.7") == {"d_1"}
    assert found("(name = w1 or name = W2) memory_mib >= 1024") == {"W2"}
    assert names(tx, VMS, root, "sortby memory_mib desc, name") == ["d_1", "dx1", "W2", "w1"]


def test_a_vm_is_found_by_who_holds_it(tx: Tx, root: Viewer) -> None:
    pool, alice = make.a_pool(tx, "Desktops"), make.a_user(tx, "alice")
    member = make.a_member(tx, pool)
    make.a_lease(tx, pool, alice, member=member, state="active")
    assert [item["id"] for item in page(tx, VMS, root, search="user = alice").items] == [str(member.vm_id)]


@pytest.mark.parametrize("order", ["", "sortby name desc", "sortby host, memory_mib desc", "sortby started_at desc",
                                   "sortby protocols"])
def test_pages_give_each_row_once(tx: Tx, root: Viewer, order: str) -> None:
    alpha = make.a_host(tx, "alpha")
    for n in range(11):
        make.a_vm(tx, f"w{n}", host=alpha if n % 3 else None, memory_mib=512 * (1 + n % 2),
                  started_at=NOW + timedelta(minutes=n) if n % 2 else None)
    whole = names(tx, VMS, root, order)
    got, after = [], None
    while True:
        part = page(tx, VMS, root, search=order, max=3, after=after)
        assert part.total == 11
        got += [item["name"] for item in part.items]
        if (after := part.next) is None:
            break
    assert got == whole
    assert len(set(got)) == 11


@pytest.mark.parametrize("cursor", ["x", "W10", "bnVsbA", "WzEsMl0", "é", "W1t9LCJ4Il0", "A" * 5000])
def test_a_foreign_cursor_is_refused(tx: Tx, root: Viewer, cursor: str) -> None:
    with pytest.raises(Invalid, match="cursor"):
        page(tx, VMS, root, after=cursor)


def test_only_what_may_be_seen(tx: Tx) -> None:
    mine, other = make.a_pool(tx, "Mine"), make.a_pool(tx, "Other")
    keeper, user = make.a_user(tx, "keeper"), make.a_user(tx, "user")
    make.a_permission(tx, keeper, mine, role="pool_admin")
    make.a_permission(tx, user, mine)
    seen, hidden = make.a_vm(tx, "m1", pool_id=mine.id), make.a_vm(tx, "o1", pool_id=other.id)
    for kind, want in (("pools", ["Mine"]), ("vms", ["m1"]), ("hosts", []), ("directories", ["internal"])):
        who = viewer(keeper.id, grants_of(tx, keeper.id))
        got = page(tx, COLLECTIONS[kind], who)
        assert [item["name"] for item in got.items] == want
        assert got.total == len(want)
    who = viewer(user.id, grants_of(tx, user.id))
    for kind in ("pools", "vms", "hosts", "directories", "events", "tasks"):
        assert page(tx, COLLECTIONS[kind], who).total == 0
    assert names(tx, COLLECTIONS["users"], who, "") == ["user"]
    assert one(tx, VMS, viewer(keeper.id, grants_of(tx, keeper.id)), str(seen.id))["name"] == "m1"
    for id in (str(hidden.id), "no-id", "'; drop table vm"):
        with pytest.raises(NotFound):
            one(tx, VMS, viewer(keeper.id, grants_of(tx, keeper.id)), id)


def test_a_search_never_shows_more_than_may_be_seen(tx: Tx) -> None:
    pool, keeper = make.a_pool(tx, "Mine"), make.a_user(tx, "keeper")
    make.a_permission(tx, keeper, pool, role="pool_admin")
    make.a_vm(tx, "hidden")
    who = viewer(keeper.id, grants_of(tx, keeper.id))
    for search in ("not name = x", "name = x or name != x", "hidden", "status = down or status = up"):
        assert page(tx, VMS, who, search=search).total == 0


NASTY = st.one_of(st.text(max_size=30), st.sampled_from([
    "'; DROP TABLE vm; --", "%", "_", "\\", "' or 1=1 --", "$1", ":x", "%(a)s", "\ud800"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NASTY)
def test_no_value_gets_out_of_its_quotes(tx: Tx, root: Viewer, text: str) -> None:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    for search in (f"name = {quoted}", f"name like {quoted}", quoted):
        try:
            got = page(tx, VMS, root, search=search)
        except Invalid:
            assert "\0" in text or "\ud800" in text
        else:
            assert got.total == 0
