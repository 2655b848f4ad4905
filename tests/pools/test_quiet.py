"""Quiet desktops: what is due when, once in each stretch of quiet, and who is warned."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from backend.errors import Invalid
from pools.quiet import Due, Quietness, Watched, due, require_quietness
from sim.make import NOW

IDLE = Quietness(idle_s=600, idle_action="end")
LOCK = Quietness(disconnect_s=30, disconnect_action="lock")
BOTH = Quietness(600, "end", 30, "lock")


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(("quietness", "watched", "now", "done", "wanted"), [
    (Quietness(), Watched(), 10**6, {}, None),
    (IDLE, Watched(True, None, at(0)), 500, {}, None),
    (IDLE, Watched(True, None, at(0)), 540, {}, Due("idle", "end", at(600), warn=True)),
    (IDLE, Watched(True, None, at(0)), 550, {"warned_at": at(540)}, None),
    (IDLE, Watched(True, None, at(0)), 600, {"warned_at": at(540)}, Due("idle", "end", at(600))),
    (IDLE, Watched(True, None, at(550)), 600, {"warned_at": at(540)}, None),  # they came back
    (IDLE, Watched(True, None, at(550)), 1100, {"warned_at": at(540)}, Due("idle", "end", at(1150), warn=True)),
    (IDLE, Watched(False, at(10), at(5)), 590, {}, None),  # nobody is there to be warned
    (IDLE, Watched(False, at(10), at(5)), 605, {}, Due("idle", "end", at(605))),
    (IDLE, Watched(), 600, {}, Due("idle", "end", at(600))),  # nobody ever opened it
    (Quietness(600, "lock"), Watched(True, None, at(0)), 590, {}, None),  # a lock loses nothing: no warning
    (LOCK, Watched(True, at(5), at(5)), 10**6, {}, None),
    (LOCK, Watched(False, at(100), at(5)), 129, {}, None),
    (LOCK, Watched(False, at(100), at(5)), 130, {}, Due("disconnect", "lock", at(130))),
    (LOCK, Watched(False, at(100), at(5)), 131, {"disconnect_done_at": at(130)}, None),
    (LOCK, Watched(False, at(200), at(150)), 230, {"disconnect_done_at": at(130)}, Due("disconnect", "lock", at(230))),
    (BOTH, Watched(False, at(100), at(50)), 700, {"disconnect_done_at": at(130)}, Due("idle", "end", at(650))),
    (BOTH, Watched(False, at(100), at(50)), 700, {}, Due("disconnect", "lock", at(130))),  # after an outage: in their order
])  # fmt: skip
def test_due(quietness: Quietness, watched: Watched, now: float, done: dict[str, Any], wanted: Due | None) -> None:
    assert due(quietness, NOW, watched, at(now), **done) == wanted


@pytest.mark.parametrize("wrong", [
    Quietness(idle_s=30, idle_action="end"), Quietness(idle_action="explode"), Quietness(disconnect_action="bark"),
    Quietness(disconnect_s=-1),
])  # fmt: skip
def test_what_makes_no_sense_is_told(wrong: Quietness) -> None:
    with pytest.raises(Invalid, match=r"\.$"):
        require_quietness(wrong)
