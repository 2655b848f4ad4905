"""Roles, periods and the tree of objects; no database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.directory.rules import OBJECT_TYPES, ROLES, Grant, may, permits, places

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
VM, POOL, CLUSTER, CENTER, OTHER = (uuid4() for _ in range(5))
PATH = (("vm", VM), ("pool", POOL), ("cluster", CLUSTER), ("datacenter", CENTER), ("system", None))


@pytest.mark.parametrize(("role", "type", "id", "permit", "answer"), [
    ("user", "vm", VM, "desktop.use", True),
    ("user", "pool", POOL, "desktop.use", True),
    ("user", "datacenter", CENTER, "desktop.use", True),
    ("user", "system", None, "desktop.use", True),
    ("user", "pool", OTHER, "desktop.use", False),
    ("user", "vm", VM, "vm.see", False),
    ("user", "vm", VM, "vm.operate", False),
    ("pool_admin", "pool", POOL, "vm.operate", True),
    ("pool_admin", "pool", POOL, "desktop.use", False),
    ("pool_admin", "pool", OTHER, "vm.operate", False),
    ("pool_admin", "pool", POOL, "user.edit", False),
    ("pool_admin", "system", None, "permission.edit", False),
    ("auditor", "system", None, "vm.see", True),
    ("auditor", "system", None, "vm.operate", False),
    ("auditor", "system", None, "desktop.use", False),
    ("system_admin", "system", None, "anything.at_all", True),
    ("system_admin", "system", None, "desktop.use", False),
    ("system_admin", "cluster", CLUSTER, "vm.operate", True),
    ("no_such_role", "system", None, "vm.see", False),
])
def test_what_a_role_gives(role: str, type: str, id: UUID | None, permit: str, answer: bool) -> None:
    assert may([Grant(role, type, id)], permit, PATH, NOW) is answer


@pytest.mark.parametrize(("begins", "ends", "answer"), [
    (None, None, True), (0, None, True), (1, None, False), (None, 0, False), (None, 1, True), (-2, -1, False), (-1, 1, True),
])
def test_a_period_begins_at_its_first_and_ends_before_its_last_moment(begins: int | None, ends: int | None, answer: bool) -> None:
    def at(hours: int | None) -> datetime | None:
        return None if hours is None else NOW + timedelta(hours=hours)

    grant = Grant("user", "vm", VM, at(begins), at(ends))
    assert grant.holds(NOW) is answer
    assert may([grant], "desktop.use", PATH, NOW) is answer
    assert (("vm", VM) in places([grant], "desktop.use", NOW)) is answer


def test_only_a_user_may_use_a_desktop() -> None:
    assert {role for role, held in ROLES.items() if "desktop.use" in held} == {"user"}


grants = st.lists(st.builds(
    Grant, st.sampled_from(list(ROLES)), st.sampled_from(OBJECT_TYPES), st.sampled_from([VM, POOL, CLUSTER, CENTER, OTHER, None]),
    st.none() | st.integers(-5, 5).map(lambda h: NOW + timedelta(hours=h)),
    st.none() | st.integers(-5, 5).map(lambda h: NOW + timedelta(hours=h)),
), max_size=6)
some_permit = st.sampled_from(["desktop.use", "vm.see", "vm.operate", "pool.entitle", "user.edit"])
a_path = st.integers(0, len(PATH) - 1).map(lambda at: PATH[at:])


@given(grants, grants, some_permit, a_path)
def test_more_grants_never_give_less(some: list[Grant], more: list[Grant], permit: str, path: tuple) -> None:  # type: ignore[type-arg]
    assert may(some + more, permit, path, NOW) == (may(some, permit, path, NOW) or may(more, permit, path, NOW))


@given(grants, some_permit, st.integers(0, len(PATH) - 1))
def test_what_counts_above_counts_below(some: list[Grant], permit: str, at: int) -> None:
    if may(some, permit, PATH[at:], NOW):
        assert may(some, permit, PATH, NOW)


@given(grants, some_permit, a_path)
def test_lists_show_what_questions_allow(some: list[Grant], permit: str, path: tuple) -> None:  # type: ignore[type-arg]
    """`places`, from which lists are made, and `may`, which pages ask, never disagree."""
    assert may(some, permit, path, NOW) == bool(places(some, permit, NOW) & set(path))


@given(st.sampled_from(list(ROLES)), some_permit)
def test_the_system_administrator_has_every_right_of_an_administrator(role: str, permit: str) -> None:
    if permits(role, permit):
        assert permits("system_admin", permit)
