"""Managers share the hosts: each looks after a part, and after another's as soon as that one is gone."""

from __future__ import annotations

from backend.db import Sessions
from backend.shares import SHARDS, Shares
from tests.broker.processes import wait_until

ALL = set(range(SHARDS))


def test_one_manager_has_all(sessions: Sessions) -> None:
    one = Shares(sessions, "monitor")
    assert one.mine() == ALL == one.mine()
    one.resign()


def test_several_share_and_take_over(sessions: Sessions) -> None:
    """No shard is anybody's twice at any moment, and none is nobody's for long."""
    managers = [Shares(sessions, "monitor") for _ in range(3)]
    held = [set(one.mine()) for one in managers]
    for _ in range(3):  # those who came first let go what the others take
        held = [set(one.mine()) for one in managers]
    assert set().union(*held) == ALL
    assert sum(map(len, held)) == SHARDS
    assert max(map(len, held)) - min(map(len, held)) <= 3
    managers[0].resign()  # as PostgreSQL does for a process that died

    def taken_over() -> bool:
        now = [set(one.mine()) for one in managers[1:]]
        assert sum(map(len, now)) == len(set().union(*now))
        return set().union(*now) == ALL

    wait_until(taken_over, "the others look after all hosts")
    for one in managers[1:]:
        one.resign()


def test_other_work_is_shared_otherwise(sessions: Sessions) -> None:
    one, other = Shares(sessions, "monitor"), Shares(sessions, "watch")
    assert one.mine() == other.mine() == ALL
    one.resign()
    other.resign()
