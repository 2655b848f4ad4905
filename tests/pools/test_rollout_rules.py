"""What a rollout does next, as a table."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from backend.errors import Invalid
from pools.rollout_rules import Desktop, Rolling, Round, may_move, next_round, percent, require_pace

ID = [UUID(int=n) for n in range(9)]
OLD = Desktop(ID[1], "ready", wanted=False)
NEW = Desktop(ID[2], "ready", wanted=True)
LEASED = Desktop(ID[3], "leased", wanted=False, up=True, lease_id=ID[3], lease="active")
COMING = replace(LEASED, lease="returning")
MOVING = Desktop(ID[4], "resetting", wanted=False, moving=True, busy=True)
BROKEN = Desktop(ID[5], "broken", wanted=False)
FAILED = replace(BROKEN, tried=True)
SPARE = Desktop(ID[6], "spare", wanted=False, up=True)
BATCHES = Rolling("batches", batch=2, proved=True, failures=0, halt_at=1, size=4)
FIRST = replace(BATCHES, proved=False)
ONCE = replace(BATCHES, mode="at_once")

CASES = {
    "nothing is left": (BATCHES, [NEW], Round(done=True)),
    "no desktops at all": (BATCHES, [], Round(done=True)),
    "what cannot be moved does not keep it from its end": (BATCHES, [NEW, FAILED], Round(done=True)),
    "one still moves": (BATCHES, [NEW, MOVING], Round()),
    "a free one moves": (BATCHES, [NEW, OLD, LEASED], Round(move=(ID[1],))),
    "ready ones before spares, broken ones last": (replace(BATCHES, batch=9), [BROKEN, SPARE, OLD],
        Round(move=(ID[1], ID[6], ID[5]))),
    "no more than the batch": (BATCHES, [MOVING, OLD, SPARE], Round(move=(ID[1],))),
    "the batch is out": (replace(BATCHES, batch=1), [MOVING, OLD], Round()),
    "leased ones are waited for": (BATCHES, [LEASED], Round()),
    "what another task is at is left": (BATCHES, [replace(OLD, busy=True)], Round()),
    "too many failed": (replace(BATCHES, failures=1), [OLD], Round(halt=True)),
    "rolling back does not halt": (replace(BATCHES, failures=1, backwards=True), [OLD], Round(move=(ID[1],))),
    "at once: all the free ones, and the people are told": (ONCE, [OLD, SPARE, LEASED],
        Round(move=(ID[1], ID[6]), recall=(ID[3],))),
    "at once: nobody is told twice": (ONCE, [replace(LEASED, lease="grace")], Round()),
    "first: one free one": (FIRST, [OLD, SPARE], Round(move=(ID[1],), prove=True)),
    "first: one that is of the version already": (FIRST, [OLD, NEW], Round(move=(ID[2],), prove=True)),
    "first: none while one tries": (FIRST, [OLD, MOVING], Round()),
    "first: another one after one that failed": (replace(FIRST, halt_at=2, failures=1), [FAILED, SPARE],
        Round(move=(ID[6],), prove=True)),
    "first: a broken one when there is no other": (FIRST, [BROKEN, replace(LEASED, state="leased")],
        Round(move=(ID[5],), prove=True)),
    "first: a new one when all are in use": (FIRST, [LEASED], Round(make=True)),
    "first: a new one is being made": (replace(FIRST, making=1), [LEASED], Round()),
    "first: none can be made, so the next that returns": (replace(FIRST, size=1), [LEASED], Round()),
    "first, at once: somebody's": (replace(FIRST, size=1, mode="at_once"), [LEASED], Round(recall=(ID[3],))),
    "first, at once: one comes back already": (replace(FIRST, size=2, mode="at_once"), [LEASED, COMING], Round()),
    "what is booked stays": (replace(BATCHES, promised=1), [OLD, LEASED], Round(kept=1)),
    "what is more than that moves": (replace(BATCHES, promised=2), [OLD, NEW, SPARE], Round(move=(ID[1],), kept=1)),
    "one that boots stands in for none that is up": (replace(BATCHES, promised=1), [replace(NEW, state="warming"), SPARE],
        Round(kept=1)),
    "what is set aside may be moved all the same": (replace(BATCHES, promised=3), [BROKEN, SPARE], Round(move=(ID[5],), kept=1)),
    "at once: bookings do not count": (replace(ONCE, promised=2), [OLD, SPARE], Round(move=(ID[1], ID[6]))),
    "first: none of those that are booked": (replace(FIRST, promised=2, size=2), [OLD, SPARE], Round(kept=2)),
    "first: a new one beside those that are booked": (replace(FIRST, promised=2), [OLD, SPARE], Round(make=True)),
    "somebody's desktop of the version runs": (FIRST, [OLD, replace(LEASED, wanted=True)], Round(proved=True)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_next_round(case: str) -> None:
    rolling, desktops, expected = CASES[case]
    assert next_round(rolling, desktops) == expected


@pytest.mark.parametrize(
    ("rolling", "moving", "expected"),
    [(FIRST, 0, True), (FIRST, 1, False), (BATCHES, 1, True), (BATCHES, 2, False), (ONCE, 99, True),
     (replace(BATCHES, mode="on_return"), 3, True), (replace(BATCHES, mode="on_return"), 4, False)],
)  # fmt: skip
def test_may_move(rolling: Rolling, moving: int, expected: bool) -> None:
    assert may_move(rolling, moving) is expected


def test_progress_is_told_in_per_cent() -> None:
    assert [percent(0, 0), percent(0, 3), percent(1, 3), percent(3, 3)] == [100, 0, 33, 100]


@pytest.mark.parametrize(
    ("given", "field"), [(("soon", 1, 1), "mode"), (("batches", 0, 1), "batch"), (("batches", 1, 0), "max_failures")]
)
def test_a_pace_that_makes_no_sense_is_refused(given: tuple[str, int, int], field: str) -> None:
    with pytest.raises(Invalid) as no:
        require_pace(*given)
    assert no.value.facts["fields"] == [field]
