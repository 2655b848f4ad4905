"""Every state table: each pair is either in the table or refused in words; nothing is unreachable."""

from __future__ import annotations

import pytest

from backend.errors import Impossible
from backend.states import StateTable
from standalone.reference import TABLES

# where a thing may come to rest for good
BEGINS = {"host": ["pending_approval"]}  # it registers itself
ENDS = {
    "lease": {"ended"},
    "task": {"succeeded", "failed", "cancelled"},
    "step": {"failed", "undone"},
    "ticket": {"redeemed", "expired", "revoked"},
    "pool": {"removing"},
    "template": {"illegal"},
}


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.kind)
def test_every_pair(table: StateTable) -> None:
    for state in table.states:
        for event in table.events:
            if table.may(state, event):
                assert table.next(state, event) == table.moves[state, event]
            else:
                with pytest.raises(Impossible, match=r"is .*; .* is possible when it is .*\.$"):
                    table.next(state, event, "x")


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.kind)
def test_every_state_is_reached_and_left(table: StateTable) -> None:
    todo = [table.initial, *BEGINS.get(table.kind, ())]
    reached = set(todo)
    while todo:
        here = todo.pop()
        for (state, _), after in table.moves.items():
            if state == here and after not in reached:
                reached.add(after)
                todo.append(after)
    assert reached == set(table.states)
    stuck = {s for s in table.states if not any(state == s for state, _ in table.moves)}
    assert stuck <= ENDS.get(table.kind, set())
