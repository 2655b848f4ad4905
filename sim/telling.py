"""What happened, told in lines: the time, the event's own sentence, and what each person's page says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from backend.clock import Clock
from backend.db import Tx
from backend.events import Event
from broker.answers import Answer
from broker.desktops import Desktop, desktops
from broker.standing import standing
from pools.models import Lease

MARKS = {"info": "", "warning": "!", "error": "!!"}
WORDS = {"running": "is running", "starting": "is starting", "ending": "is shutting down", "off": "is off",
         "unreachable": "cannot be reached", "called": "is ready if you answer"}
Page = dict[str, tuple[str, str]]  # by pool: what must differ for it to be told again, and the words


class Log:
    """The lines of a story; a line with the day, or with the offset of its clock, where that has changed."""

    def __init__(self, clock: Clock, zone: ZoneInfo) -> None:
        self.clock, self.zone = clock, zone
        self.lines: list[str] = []
        self._day = ""

    def say(self, text: str, mark: str = "") -> None:
        """One line at this time; `mark` is > for what the script says, ! for a warning, !! for an error."""
        now = self.clock.now().astimezone(self.zone)
        day = f"{now:%A %Y-%m-%d} {now.tzname()}"
        if day != self._day:
            self.lines += [*([""] if self._day else []), f"-- {day}"]
            self._day = day
        self.lines.append(f"{now:%H:%M:%S} {mark:>2} {text}".rstrip())

    def at(self, time: datetime) -> str:
        """The time of day for people here."""
        local = time.astimezone(self.zone)
        now = self.clock.now().astimezone(self.zone)
        return f"{local:%H:%M}" if local.date() == now.date() else f"{local:%Y-%m-%d %H:%M}"

    def text(self) -> str:
        """All of it."""
        return "\n".join(folded(self.lines)) + "\n"


def events_after(tx: Tx, last: int) -> list[tuple[int, str, str]]:
    """Number, mark and sentence of every event after this one."""
    rows = tx.execute(sa.select(Event.id, Event.severity, Event.sentence).where(Event.id > last).order_by(Event.id))
    return [(id, MARKS[severity], sentence) for id, severity, sentence in rows]


def answered(answer: Answer) -> str:
    """A connect's answer: what it is, and the sentence for the person."""
    facts = [answer.state]
    if answer.position is not None:
        facts.append(f"no. {answer.position}")
    if answer.estimate_s is not None:
        facts.append(f"about {length(answer.estimate_s)}")
    if answer.ticket is not None:
        facts.append(answer.protocol)
    return f"{', '.join(facts)}: {answer.sentence}"


def page(tx: Tx, log: Log, user_id: UUID, now: datetime) -> Page:
    """What this person's page says of every pool and VM on it, by name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for desktop in desktops(tx, user_id, now):
        found.setdefault(desktop.name, []).append(_card(tx, log, user_id, desktop, now))
    return {name: ("; ".join(key for key, _ in cards), "; ".join(words for _, words in cards)) for name, cards in found.items()}


def _card(tx: Tx, log: Log, user_id: UUID, desktop: Desktop, now: datetime) -> tuple[str, str]:
    if desktop.state == "available":
        last = tx.scalars(
            sa.select(Lease).where(Lease.user_id == user_id, Lease.pool_id == desktop.id).order_by(Lease.queue_place.desc())
        ).first()
        why = f" {last.why}" if last is not None and last.why and last.end_reason != "returned" else ""
        return (both := f"free to take.{why}", both)
    if desktop.state == "queued":
        answer = standing(tx, user_id=user_id, desktop_id=desktop.id, now=now)
        if answer is not None:  # the places of all who wait change with every one served: that is not told each time
            return "queued " + answer.sentence.removesuffix(answer.message), answered(answer)
    if desktop.state in ("closed", "paused") and not desktop.vm_name:
        return (both := f"{desktop.state}. {desktop.sentence}", both)
    words = f"{desktop.vm_name or desktop.name} {WORDS.get(desktop.state, desktop.state)}"
    lease = desktop.lease
    if lease is not None and lease.state == "grace":
        words = f"{desktop.vm_name}, whose time is over"
    elif lease is not None and lease.ends_at is not None and lease.state in ("active", "expiring"):
        words += f", {'only ' if lease.state == 'expiring' else ''}until"
        key = f"{words} {lease.ends_at} {desktop.sentence}"  # not as it is told: tomorrow that is in other words
        return key, f"{words} {log.at(lease.ends_at)}. {desktop.sentence}".rstrip()
    words = f"{words}. {desktop.sentence}".rstrip()
    return words, words


def differences(before: Page, after: Page) -> list[str]:
    """What is new on a page, in words."""
    lines = [f"{name}: {words}" for name, (key, words) in after.items() if name not in before or before[name][0] != key]
    return lines + [f"{name} no more." for name in before if name not in after]


def together(lines: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """People with the same line as one: [("alice", x), ("bob", x)] -> [("alice, bob", x)]."""
    by_line: dict[str, list[str]] = {}
    for who, line in lines:
        by_line.setdefault(line, []).append(who)
    return [(names(who), line) for line, who in by_line.items()]


def folded(lines: Sequence[str]) -> list[str]:
    """Lines of a time, in each of which every number is that of the line before or the next one, told by the first and last."""
    found: list[str] = []
    run: list[str] = []
    for line in [*lines, ""]:
        if run and not _goes_on(run[-1], line):
            found += run if len(run) < 5 else [run[0], f"{' ' * 12}… and {len(run) - 2} more so …", run[-1]]
            run = []
        run.append(line)
    return found


def _goes_on(one: str, next: str) -> bool:
    a, b = re.split(r"(\d+)", one), re.split(r"(\d+)", next)
    if a[::2] != b[::2] or (one[2:3] == ":" and one[:8] != next[:8]):
        return False
    steps = {int(y) - int(x) for x, y in zip(a[1::2], b[1::2], strict=True)} - {0}
    return steps in ({1}, {-1})


def names(who: Sequence[str]) -> str:
    """Names in a list; s1, s2, s3 as s1..s3."""
    runs: list[list[str]] = []
    for name in who:
        if runs and _follows(runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _follows(one: str, next: str) -> bool:
    a, b = re.fullmatch(r"(.*?)(\d+)", one), re.fullmatch(r"(.*?)(\d+)", next)
    return a is not None and b is not None and a[1] == b[1] and int(b[2]) == int(a[2]) + 1


def length(seconds: float) -> str:
    """A length of time: 45 s, 20 min, 1 h 5 min."""
    if seconds < 120:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min".removesuffix(" 0 min")


def counted(counts: Mapping[Any, int]) -> str:
    """3 leased, 1 spare."""
    return ", ".join(f"{n} {what}" for what, n in sorted(counts.items()) if n) or "none"
