"""Which desktop for this person: a table of cases."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from broker.rules import SHOWN, Asked, choose, told
from pools.choice import Candidate


def a(state: str, vm_state: str = "up", **more: str) -> Candidate:
    return Candidate(uuid4(), uuid4(), f"{state}-{vm_state}", state, vm_state, "alpha", "up", **more)


SPARE, WARMING, READY, BUSY, BROKEN = (
    a("spare"), a("warming", "powering_up"), a("ready", "down"), a("leased", leased_by="bob"), a("broken", why="It did not boot.")
)  # fmt: skip


@pytest.mark.parametrize(
    "asked, outcome, first, words",
    [
        ({"candidates": [READY, SPARE]}, "given", SPARE, "Desktop spare-up is ready for you."),
        ({"candidates": [READY, WARMING]}, "starting", WARMING, "Desktop warming-powering_up is starting for you."),
        ({"candidates": [READY, BUSY]}, "starting", READY, "Desktop ready-down is starting for you."),
        ({"candidates": [BUSY]}, "queued", None, "No desktop is free at the moment. You are next."),
        ({"candidates": []}, "queued", None, "You are next"),
        ({"candidates": [SPARE], "queued": 1}, "queued", None, "1 person is before you"),  # nobody overtakes
        ({"candidates": [SPARE], "queued": 7}, "queued", None, "7 people are before you"),
        ({"candidates": [READY], "trouble": "No host has room."}, "queued", None, "No host has room. You are next."),
        ({"candidates": [SPARE], "held": "w7"}, "kept", None, "You have desktop w7 already"),
        ({"candidates": [SPARE], "removing": True}, "refused", None, "is being removed"),
        ({"candidates": [SPARE], "holds": 1}, "refused", None, "You may have one desktop"),
        ({"candidates": [SPARE], "holds": 2, "per_user": 2}, "refused", None, "2 desktops of pool P at a time"),
        ({"candidates": [SPARE], "holds": 1, "per_user": 2}, "given", SPARE, "ready for you"),
        ({"candidates": [BROKEN], "hopeless": True}, "refused", None, "all of them have been set aside"),
    ],
)
def test_choose(asked: dict[str, Any], outcome: str, first: Candidate | None, words: str) -> None:
    choice = choose(Asked(pool="P", **asked))
    assert choice.outcome == outcome and words in choice.sentence and choice.sentence.endswith(".")
    assert (choice.order[0] if choice.order else None) is first
    assert [c for c, _ in choice.reasons] == list(asked["candidates"])
    assert bool(choice.code) == (outcome == "refused")


def test_every_candidate_has_its_reason() -> None:
    choice = choose(Asked(pool="P", candidates=[SPARE, WARMING, READY, BUSY, BROKEN, a("resetting", "down")]))
    assert [why for _, why in choice.reasons] == [
        "spare, free and up",
        "being started as a spare",
        "free, must be started",
        "leased by bob",
        "set aside: It did not boot.",
        "being reset",
    ]


def test_a_decision_tells_the_chosen_one_first_and_counts_what_is_too_many() -> None:
    many = [BUSY] * (SHOWN + 20) + [SPARE]
    kept = told(choose(Asked(pool="P", candidates=many)).reasons, taken=SPARE.member_id)
    assert kept["members"][0] == {
        "vm_id": str(SPARE.vm_id), "name": "spare-up", "state": "spare", "reason": "spare, free and up: chosen"
    }  # fmt: skip
    assert len(kept["members"]) == SHOWN and kept["rest"] == {"leased": 21}
