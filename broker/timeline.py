"""Pure: the story of one lease: what was decided and why, what happened, in order, and why it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

END_WORDS = {
    "returned": "It was given back.",
    "expired": "Its time was over.",
    "reclaimed": "An administrator took it back.",
    "failed": "No desktop could be given.",
    "left_queue": "The queue was left.",
    "entitlement_ended": "The right to the pool ended.",
    "no_answer": "The call was not answered.",
    "idle": "Nobody used it.",
    "disconnected": "Nobody was connected to it.",
    "new_version": "A new version of the desktop took its place.",
}
STATE_WORDS = {
    "queued": "It waits for a desktop.",
    "starting": "Its desktop is starting.",
    "active": "It runs.",
    "expiring": "It ends soon.",
    "grace": "It has ended; the desktop stays for the grace.",
    "returning": "The desktop is going back.",
}
MEMBER_WORDS = {
    "saving": "being suspended", "suspended": "suspended",
    "leased": "in use", "broken": "set aside", "creating": "being made", "resetting": "being reset", "removing": "being removed",
    "ready": "off", "warming": "being started", "spare": "running",  "kept": "kept for somebody",
}  # fmt: skip
TOLD_BY_DECISIONS = frozenset({"lease.asked", "lease.shorten"})  # events that say the same as a decision beside them


@dataclass(frozen=True)
class Moment:
    """Something of the lease's story. `kind` is decision or event, `what` its outcome or code; `who` did it."""

    at: datetime
    kind: str
    what: str
    sentence: str
    severity: str = "info"
    who: str = ""
    candidates: Mapping[str, Any] = field(default_factory=dict)


def timeline(decisions: Iterable[Moment], events: Iterable[tuple[Moment, str]]) -> list[Moment]:
    """Everything in order; at the same time, what was decided stands before what came of it. `events` come with the reason
    that they give: one that only repeats a decision is left out."""
    decided = list(decisions)
    told = {moment.sentence for moment in decided}
    happened = [moment for moment, why in events if why not in told and moment.what not in TOLD_BY_DECISIONS]
    return sorted([*decided, *happened], key=lambda moment: (moment.at, moment.kind))


def for_holder(moments: Iterable[Moment], holder: str) -> list[Moment]:
    """The same without other people: of desktops that were looked at, how many were how; and nobody else's name."""
    told = []
    for m in moments:
        sentence = m.sentence
        if m.who and m.who != holder:
            if not sentence.startswith(m.who):
                continue
            sentence = f"Your administrator{sentence.removeprefix(m.who)}"
        sentence = f"{sentence} {looked_at(m.candidates)}".strip()
        told.append(Moment(m.at, m.kind, m.what, sentence, m.severity))
    return told


def looked_at(candidates: Mapping[str, Any]) -> str:
    """How many desktops were how, in words: 3 desktops were looked at: 2 in use, 1 set aside."""
    counts = Counter(each.get("state", "") for each in candidates.get("members", ()))
    counts.update(candidates.get("rest", {}))
    if not (total := counts.total()):
        return ""
    several = f"{total} desktops were" if total > 1 else "1 desktop was"
    return f"{several} looked at: {', '.join(f'{n} {MEMBER_WORDS.get(s, s)}' for s, n in counts.most_common())}."


def in_one_sentence(state: str, why: str, end_reason: str | None) -> str:
    """How it stands, or why it ended."""
    words = [STATE_WORDS.get(state, "It is over.") if state != "ended" else END_WORDS.get(end_reason or "", "It is over.")]
    if why and why not in words:
        words.append(why)
    return " ".join(words)
