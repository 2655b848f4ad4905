"""The story of a lease as a table: order, what is told once, what its holder does not read."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broker.timeline import END_WORDS, Moment, for_holder, in_one_sentence, looked_at, timeline
from sim.make import NOW


def at(seconds: int) -> object:
    return NOW + timedelta(seconds=seconds)


LOOKED = {"members": [{"name": "d-1", "state": "leased", "reason": "leased by bob"},
                      {"name": "d-2", "state": "broken", "reason": "set aside: it broke"}], "rest": {"leased": 3}}  # fmt: skip
QUEUED = Moment(at(0), "decision", "queued", "No desktop is free at the moment. You are next.", candidates=LOOKED)  # type: ignore[arg-type]
GIVEN = Moment(at(9), "decision", "given", "Your turn: desktop d-1 is ready for you.")  # type: ignore[arg-type]
ENDED = Moment(at(20), "decision", "ended", "Security updates.")  # type: ignore[arg-type]
ASKED = Moment(at(0), "event", "lease.asked", "alice asked for a desktop of pool D: No desktop is free.")  # type: ignore[arg-type]
GOT = Moment(at(9), "event", "lease.assign", "alice got desktop d-1 of pool D.")  # type: ignore[arg-type]
BACK = Moment(at(20), "event", "lease.give_back", "alice's desktop d-1 goes back to pool D: Security updates.")  # type: ignore[arg-type]
WANTED = Moment(at(20), "event", "lease.reclaimed", "root ended the lease of alice in pool D.", who="root")  # type: ignore[arg-type]


def test_everything_is_told_in_order_and_once() -> None:
    moments = timeline([ENDED, GIVEN, QUEUED], [(BACK, "Security updates."), (WANTED, ""), (GOT, ""), (ASKED, "")])
    assert moments == [QUEUED, GIVEN, GOT, ENDED, WANTED]


def test_the_holder_reads_nobody_elses_name() -> None:
    told = for_holder([QUEUED, WANTED, ENDED], "alice")
    assert [m.sentence for m in told] == [
        "No desktop is free at the moment. You are next. 5 desktops were looked at: 4 in use, 1 set aside.",
        "Your administrator ended the lease of alice in pool D.",
        "Security updates.",
    ]  # fmt: skip
    assert not any(m.who or m.candidates for m in told)


@pytest.mark.parametrize(("candidates", "words"), [
    ({}, ""), ({"members": []}, ""), ({"members": [{"state": "spare"}]}, "1 desktop was looked at: 1 running."),
])  # fmt: skip
def test_what_was_looked_at(candidates: dict[str, object], words: str) -> None:
    assert looked_at(candidates) == words


@pytest.mark.parametrize(("given", "words"), [
    (("queued", "All desktops are in use.", None), "It waits for a desktop. All desktops are in use."),
    (("active", "", None), "It runs."),
    (("ended", "Security updates.", "reclaimed"), "An administrator took it back. Security updates."),
    (("ended", END_WORDS["new_version"], "new_version"), "A new version of the desktop took its place."),
])  # fmt: skip
def test_one_sentence(given: tuple[str, str, str | None], words: str) -> None:
    assert in_one_sentence(*given) == words
