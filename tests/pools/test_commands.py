"""What administrators may want of pools: who may, what is refused in which words, what is written."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from backend.db import Tx
from backend.directory.models import User
from backend.errors import Busy, Denied, Impossible, Invalid, NotFound
from backend.tasks.command import SYSTEM, Actor
from backend.tasks.models import Task
from backend.tasks.submit import submit
from pools.commands import CreatePool, EditPool, ExtendLease, ReclaimLease, RemovePool
from pools.member_commands import RemoveMember, RepairMember, ResetMember
from pools.models import Pool
from sim import make
from sim.make import NOW


def actor(user: User) -> Actor:
    return Actor(user.id, user.name)


def create(tx: Tx, who: Actor = SYSTEM, **fields: Any) -> Task:
    if "template_id" not in fields:
        fields["template_id"] = make.a_template(tx, domain=make.a_domain(tx)).id
    return submit(tx, CreatePool(**{"pool_name": "Desktops", "size": 4, **fields}), who, NOW)


def test_a_pool_is_created_as_it_was_wanted(tx: Tx) -> None:
    task = create(tx, pool_name=" Desktops ", spares=1, lease_s=0, rights=("start",), protocols=("spice", "vnc"), warn_s=60)
    pool = tx.get(Pool, UUID(task.result["id"]))
    assert (pool.name, pool.size, pool.spares, pool.lease_s, pool.rights) == ("Desktops", 4, 1, None, ["start"])
    assert pool.protocols == ["spice", "vnc"] and pool.state == "up" and pool.stateless and task.state == "succeeded"
    assert pool.domain_id is not None and pool.cluster_id is not None


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"pool_name": "   "}, "between 1 and 60 characters"),
        ({"pool_name": "x" * 61}, "between 1 and 60 characters"),
        ({"pool_name": "Taken"}, "already a pool named Taken"),
        ({"size": 0}, "between 1 and 10,000"),
        ({"spares": 9}, "9 spares cannot be kept in a pool of 4"),
        ({"warn_s": 3600}, "warn later or lease for longer"),
    ],
)
def test_creating_is_refused_in_words(tx: Tx, fields: dict[str, Any], sentence: str) -> None:
    make.a_pool(tx, "Taken")
    with pytest.raises(Invalid, match=sentence) as no:
        create(tx, **fields)
    assert no.value.facts["fields"]


def test_a_locked_template_or_one_without_a_disk_is_refused(tx: Tx) -> None:
    with pytest.raises(Impossible, match="is locked; choose one that is ok"):
        create(tx, template_id=make.a_template(tx, state="locked").id)
    with pytest.raises(Invalid, match="say which storage domain"):
        create(tx, template_id=make.a_template(tx).id)


def test_editing_changes_what_is_said_and_tells_it(tx: Tx) -> None:
    pool = make.a_pool(tx, "Desktops", size=4)
    submit(tx, EditPool(pool.id, pool_name="Labs", size=6, lease_s=0, protocols=("spice",)), SYSTEM, NOW)
    assert (pool.name, pool.size, pool.lease_s, pool.protocols, pool.warn_s) == ("Labs", 6, None, ["spice"], 300)
    with pytest.raises(Invalid, match="spares"):
        submit(tx, EditPool(pool.id, spares=7), SYSTEM, NOW)
    with pytest.raises(Invalid, match="warning"):
        submit(tx, EditPool(pool.id, lease_s=120), SYSTEM, NOW)
    assert pool.spares == 0 and pool.lease_s is None
    other = make.a_pool(tx, "Other")
    with pytest.raises(Invalid, match="already a pool named Other"):
        submit(tx, EditPool(pool.id, pool_name="Other"), SYSTEM, NOW)
    submit(tx, EditPool(other.id, pool_name="Other"), SYSTEM, NOW)


def test_who_may_run_a_pool(tx: Tx) -> None:
    pool, other = make.a_pool(tx), make.a_pool(tx)
    lease = make.a_lease(tx, pool, make.a_user(tx))
    admin, person, stranger, auditor = (make.a_user(tx) for _ in range(4))
    make.a_permission(tx, admin, pool, "pool_admin")
    make.a_permission(tx, person, pool)
    make.a_permission(tx, auditor, None, "auditor")
    submit(tx, EditPool(pool.id, size=3), actor(admin), NOW)
    with pytest.raises(NotFound):
        submit(tx, EditPool(other.id, size=3), actor(admin), NOW)
    with pytest.raises(Denied):
        create(tx, actor(auditor))
    for command in (EditPool(pool.id, size=9), RemovePool(pool.id, True), ReclaimLease(lease.id), ExtendLease(lease.id, 600)):
        for who, refusal in ((person, Denied), (auditor, Denied), (stranger, NotFound)):
            with pytest.raises(refusal):
                submit(tx, command, actor(who), NOW)
    end = lease.ends_at
    submit(tx, ExtendLease(lease.id, 600), actor(admin), NOW)
    assert lease.ends_at == end + timedelta(seconds=600)
    submit(tx, ReclaimLease(lease.id, "Fire drill."), actor(admin), NOW)
    assert (lease.state, lease.end_reason, lease.why) == ("returning", "reclaimed", "Fire drill.")


def test_members_that_somebody_holds_are_left_alone(tx: Tx) -> None:
    pool = make.a_pool(tx)
    member = make.a_member(tx, pool, "leased")
    make.a_lease(tx, pool, make.a_user(tx), member=member)
    with pytest.raises(Impossible, match="Somebody holds desktop"):
        submit(tx, ResetMember(member.id), SYSTEM, NOW)
    for command in (RemoveMember(member.id), RepairMember(member.id)):
        with pytest.raises(Impossible, match="is leased; it cannot be"):
            submit(tx, command, SYSTEM, NOW)


def test_a_member_has_one_task_at_a_time(tx: Tx) -> None:
    pool = make.a_pool(tx)
    member = make.a_member(tx, pool, "broken")
    submit(tx, RepairMember(member.id), SYSTEM, NOW)
    with pytest.raises(Busy, match="is at it"):
        submit(tx, RemoveMember(member.id), SYSTEM, NOW)


def test_a_pool_that_is_being_removed_is_not_edited_nor_removed_again(tx: Tx) -> None:
    pool = make.a_pool(tx)
    submit(tx, RemovePool(pool.id), SYSTEM, NOW)
    assert pool.state == "removing"
    with pytest.raises(Impossible, match="is being removed"):
        submit(tx, EditPool(pool.id, size=2), SYSTEM, NOW)
    with pytest.raises(Impossible, match="is removing"):
        submit(tx, RemovePool(pool.id), SYSTEM, NOW)
