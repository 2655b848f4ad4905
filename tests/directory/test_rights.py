"""Rights read from rows: who may what on what, what lists show, and who may give rights away."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from backend.changes import Change
from backend.db import Sessions, Tx
from backend.directory import rights
from backend.directory.commands import GrantRole, TakeRole
from backend.directory.models import Permission, User
from backend.errors import Denied, Impossible, Invalid, NotFound
from backend.events import Event
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.submit import submit
from backend.vms.models import Vm
from pools.models import Lease
from sim.make import NOW, a_group, a_host, a_lease, a_member, a_permission, a_pool, a_session, a_user, a_vm


def actor(user: User) -> Actor:
    return Actor(user.id, user.name)


def test_paths_lead_up_to_the_system(tx: Tx) -> None:
    pool = a_pool(tx, members=1)
    member = a_member(tx, pool)
    lease = a_lease(tx, pool, a_user(tx))
    cluster, center = ("cluster", pool.cluster_id), None
    path = rights.path_of(tx, "vm", member.vm_id)
    assert path[0] == ("vm", member.vm_id) and ("pool", pool.id) in path and cluster in path and path[-1] == ("system", None)
    center = next(place for place in path if place[0] == "datacenter")
    for kind, id in (("pool", pool.id), ("lease", lease.id), ("member", member.id), ("host", a_host(tx).id)):
        assert cluster in rights.path_of(tx, kind, id) and center in rights.path_of(tx, kind, id)
    assert rights.path_of(tx, "system", None) == (("system", None),)
    for kind in ("vm", "pool", "cluster", "datacenter"):
        with pytest.raises(NotFound, match="There is no"):
            rights.path_of(tx, kind, uuid4())


def test_a_right_on_a_pool_counts_for_its_desktops(tx: Tx) -> None:
    pool, other = a_pool(tx, members=1), a_pool(tx, members=1)
    mine, theirs = a_member(tx, pool), a_member(tx, other)
    group = a_group(tx)
    boss, stranger = a_user(tx, groups=[group]), a_user(tx)
    a_permission(tx, group, pool, role="pool_admin")
    rights.require(tx, actor(boss), "vm.operate", "vm", mine.vm_id, NOW)
    rights.require(tx, actor(boss), "pool.edit", "pool", pool.id, NOW)
    with pytest.raises(NotFound):  # not even that it is there
        rights.require(tx, actor(boss), "vm.operate", "vm", theirs.vm_id, NOW)
    with pytest.raises(NotFound):
        rights.require(tx, actor(stranger), "vm.operate", "vm", mine.vm_id, NOW)
    with pytest.raises(Denied, match="needs the right") as no:
        rights.require(tx, actor(boss), "vm.remove", "vm", mine.vm_id, NOW)
    assert no.value.facts["permit"] == "vm.remove"
    rights.require(tx, SYSTEM, "vm.remove", "vm", mine.vm_id, NOW)


def test_who_uses_a_desktop_knows_of_it_but_may_not_run_it(tx: Tx) -> None:
    vm, user = a_vm(tx), a_user(tx)
    a_permission(tx, user, vm, valid_until=NOW + timedelta(hours=1))
    with pytest.raises(Denied):
        rights.require(tx, actor(user), "vm.operate", "vm", vm.id, NOW)
    with pytest.raises(NotFound):  # when the period is over
        rights.require(tx, actor(user), "vm.operate", "vm", vm.id, NOW + timedelta(hours=1))


@pytest.mark.parametrize("where", ["vm", "pool", "cluster", "datacenter", "system"])
def test_lists_show_what_lies_below(tx: Tx, where: str) -> None:
    pool, user = a_pool(tx, members=1), a_user(tx)
    member, loose = a_member(tx, pool), a_vm(tx)
    path = dict(rights.path_of(tx, "vm", member.vm_id))
    tx.add(Permission(user_id=user.id, role="auditor", object_type=where, object_id=path[where]))
    tx.flush()
    clause = rights.visible(rights.grants_of(tx, user.id), "vm.see", NOW,
                            columns={"vm": Vm.id, "pool": Vm.pool_id, "cluster": Vm.cluster_id})
    shown = set(tx.scalars(sa.select(Vm.id).where(clause)))
    assert member.vm_id in shown and (loose.id in shown) is (where in ("cluster", "datacenter", "system"))
    nothing = rights.visible([], "vm.see", NOW, columns={"vm": Vm.id})
    assert not list(tx.scalars(sa.select(Vm.id).where(nothing)))


# -- giving and taking ---------------------------------------------------------------------------
def given(tx: Tx) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in tx.execute(sa.select(Permission.role, Permission.object_id, Permission.valid_until))]


def test_who_runs_a_pool_may_entitle_but_make_no_administrators(tx: Tx) -> None:
    pool, boss, user = a_pool(tx), a_user(tx), a_user(tx)
    a_permission(tx, boss, pool, role="pool_admin")
    task = submit(tx, GrantRole("user", "pool", pool.id, user_id=user.id), actor(boss), NOW)
    assert ("user", pool.id, None) in given(tx)
    for role, kind, id in (("pool_admin", "pool", pool.id), ("system_admin", "pool", pool.id)):
        with pytest.raises(Denied, match=r"permission\.edit"):
            submit(tx, GrantRole(role, kind, id, user_id=boss.id), actor(boss), NOW)
    for role in ("user", "system_admin"):
        with pytest.raises((Denied, NotFound)):
            submit(tx, GrantRole(role, "system", user_id=boss.id), actor(boss), NOW)
    with pytest.raises(NotFound):
        submit(tx, GrantRole("user", "pool", a_pool(tx).id, user_id=user.id), actor(boss), NOW)
    with pytest.raises((Denied, NotFound)):
        submit(tx, GrantRole("user", "pool", pool.id, user_id=boss.id), actor(user), NOW)
    sentence = tx.scalar(sa.select(Event.sentence).where(Event.code == "permission.granted"))
    assert sentence == f"{boss.name} gave {user.name} the role user on pool {pool.name}."
    submit(tx, TakeRole(UUID(task.result["id"])), actor(boss), NOW)
    assert ("user", pool.id, None) not in given(tx)


def test_a_pool_administrators_role_is_taken_by_who_may_give_it(tx: Tx) -> None:
    pool, boss = a_pool(tx), a_user(tx)
    permission = a_permission(tx, boss, pool, role="pool_admin")
    with pytest.raises(Denied):
        submit(tx, TakeRole(permission.id), actor(boss), NOW)
    admin = a_user(tx)
    a_permission(tx, admin, None, role="system_admin")
    submit(tx, TakeRole(permission.id), actor(admin), NOW)
    assert given(tx) == [("system_admin", None, None)]


def test_given_again_the_period_is_a_new_one(tx: Tx) -> None:
    pool, group = a_pool(tx), a_group(tx)
    submit(tx, GrantRole("user", "pool", pool.id, group_id=group.id), SYSTEM, NOW)
    until = NOW + timedelta(days=1)
    submit(tx, GrantRole("user", "pool", pool.id, group_id=group.id, valid_until=until), SYSTEM, NOW)
    assert given(tx) == [("user", pool.id, until)]


def test_the_people_of_a_group_are_told(sessions: Sessions) -> None:
    with sessions.begin() as tx:
        pool, group = a_pool(tx), a_group(tx)
        here, away = a_user(tx, groups=[group]), a_user(tx, groups=[group])
        a_session(tx, here)
        submit(tx, GrantRole("user", "pool", pool.id, group_id=group.id), SYSTEM, NOW)
    with sessions() as tx:
        told = set(tx.scalars(sa.select(Change.user_id).where(Change.kind == "permission")))
    assert here.id in told and away.id not in told


@pytest.mark.parametrize(("changes", "code"), [
    ({"role": "emperor"}, "no_such_role"), ({"object_type": "lease"}, "no_such_object"), ({"object_id": None}, "no_such_object"),
    ({"object_type": "system"}, "no_such_object"), ({"user_id": None}, "no_principal"), ({"group_id": uuid4()}, "no_principal"),
    ({"directory_id": uuid4()}, "no_principal"),
    ({"valid_from": NOW, "valid_until": NOW}, "bad_period"),
])
def test_a_wrong_grant_is_told(tx: Tx, changes: dict[str, Any], code: str) -> None:
    right: dict[str, Any] = {"role": "user", "object_type": "pool", "object_id": a_pool(tx).id, "user_id": a_user(tx).id}
    with pytest.raises(Invalid) as no:
        submit(tx, GrantRole(**{**right, **changes}), SYSTEM, NOW)
    assert no.value.code == code


def test_somebody_must_be_left_to_run_the_place(tx: Tx) -> None:
    group, pool = a_group(tx), a_pool(tx)
    admin, second = a_user(tx), a_user(tx, groups=[group])
    first = a_permission(tx, admin, None, role="system_admin")
    a_permission(tx, second, pool, role="system_admin")  # of one pool only
    with pytest.raises(Impossible, match="Nobody would be left"):
        submit(tx, TakeRole(first.id), actor(admin), NOW)
    a_permission(tx, group, None, role="system_admin", valid_until=NOW + timedelta(days=1))  # not for good
    with pytest.raises(Impossible):
        submit(tx, TakeRole(first.id), actor(admin), NOW)
    submit(tx, GrantRole("system_admin", "system", group_id=group.id), actor(admin), NOW)
    submit(tx, TakeRole(first.id), actor(admin), NOW)
    last = tx.scalars(sa.select(Permission.id).where(Permission.group_id == group.id)).one()
    with pytest.raises(Impossible):
        submit(tx, TakeRole(last), actor(second), NOW)


def test_leases_go_with_their_person(tx: Tx) -> None:
    """The commands know leases by their table's name only: here is the proof that the name is right."""
    from backend.directory.commands import RemoveUser

    user = a_user(tx)
    user_id, lease_id = user.id, a_lease(tx, a_pool(tx), user).id
    with pytest.raises(Impossible, match="holds 1 desktop"):
        submit(tx, RemoveUser(user.id), SYSTEM, NOW)
    tx.execute(sa.text("UPDATE lease SET state = 'ended' WHERE id = :id"), {"id": lease_id})
    submit(tx, RemoveUser(user_id), SYSTEM, NOW)
    tx.expire_all()
    assert tx.get(User, user_id) is None and tx.get(Lease, lease_id) is None
