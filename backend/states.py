"""`StateTable`: (state, event) -> state; `next`, `may`, `as_markdown`. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from backend.errors import Impossible


class StateTable:
    """All moves of one kind of thing on one page.

    `moves` maps (state, event) to the next state; `say` has the sentence told to a person when an
    event is not possible in a state, with `{name}` for the thing and `{state}` for its state.
    """

    def __init__(self, kind: str, initial: str, moves: Mapping[tuple[str, str], str], *, label: str = "") -> None:
        self.kind, self.initial, self.moves = kind, initial, dict(moves)
        self.label = label or kind
        self.states = sorted({initial} | {s for s, _ in moves} | set(moves.values()))
        self.events = sorted({e for _, e in moves})

    def may(self, state: str, event: str) -> bool:
        """Whether the event is in the table for this state."""
        return (state, event) in self.moves

    def next(self, state: str, event: str, name: str = "it") -> str:
        """The state after the event; `Impossible` with a sentence when the table has no such move."""
        try:
            return self.moves[state, event]
        except KeyError:
            wanted = " or ".join(sorted({s.replace("_", " ") for s, e in self.moves if e == event})) or "never"
            raise Impossible(
                "wrong_state",
                f"{self.label[:1].upper()}{self.label[1:]} {name} is {state.replace('_', ' ')}; "
                f"“{event.replace('_', ' ')}” is possible when it is {wanted}.",
                state=state, event=event,
            ) from None

    def as_markdown(self) -> str:
        """The table as a Markdown section, for docs/states.md."""
        rows = "\n".join(f"| {s} | {e} | {t} |" for (s, e), t in self.moves.items())
        return f"## {self.kind}\n\nStarts as *{self.initial}*.\n\n| in state | event | becomes |\n|---|---|---|\n{rows}\n"
