"""`Desk`: does what a host is asked, once per uid: a thread a step, a journal entry before and after."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec

from hostapi.client import HostUnreachable
from hostapi.journal import Entry, Journal
from hostapi.types import Failure, HostReport, Outcome, Screen
from hostapi.verbs import QUESTIONS, STEPS, HostAgent, HostRefused
from hostapi.wire import BadRequest, decode_args, decode_result

log = logging.getLogger("desk")
LONGEST_WAIT_S = 30.0
CANCELLED = Failure("cancelled", "Cancelled.")


class DeskClosed(Exception):
    """The agent is going down: the step is left as it is, without an outcome, and will be asked again."""


class _Running:
    """A step that is being done in this process, and the `Steering` that its verb is handed."""

    def __init__(self, desk: Desk, uid: UUID, cancelled: bool) -> None:
        self.desk, self.uid = desk, uid
        self.cancelled, self.ended = threading.Event(), threading.Event()
        self.outcome = Outcome(uid, "running")
        if cancelled:
            self.cancelled.set()

    def progress(self, per_cent: int, message: str = "") -> None:
        if self.desk.closed.is_set():
            raise DeskClosed
        if (per_cent, message) != (self.outcome.progress, self.outcome.message):
            self.outcome = replace(self.outcome, progress=per_cent, message=message)
            self.desk.journal.progress(self.uid, per_cent, message)

    def check_cancelled(self) -> None:
        if self.desk.closed.is_set():
            raise DeskClosed
        if self.cancelled.is_set():
            raise HostRefused(CANCELLED.code, CANCELLED.message)


class Desk:
    """A host's door inside its own process: what `hostapi.server` serves, and the simulator's door.

    A step asked again is not done again: one that runs is waited for, one that ended is answered from the
    journal. One that was cut off by a crash is done again, as every verb allows."""

    def __init__(self, agent: HostAgent, journal: Journal) -> None:
        self.agent, self.journal = agent, journal
        self.closed = threading.Event()
        self._running: dict[UUID, _Running] = {}
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)  # a step is not being done any more

    def ask(self, uid: UUID, verb: str, args: Mapping[str, Any], *, wait_s: float) -> Outcome:
        """Start this step, or say how it is; waits up to `wait_s` seconds for its end."""
        if verb not in STEPS:
            return Outcome(uid, "failed", failure=Failure("bad_request", f"There is no step {verb!r}."))
        try:
            typed = decode_args(verb, args)
        except BadRequest as wrong:
            return Outcome(uid, "failed", failure=Failure("bad_request", str(wrong)))
        with self._lock:
            if self.closed.is_set():
                raise HostUnreachable("The host's agent is going down.")
            step = self._running.get(uid)
            if step is None:
                entry = self.journal.find(uid)
                if (known := self._known(uid, verb, entry)) is not None:
                    return known
                step = self._start(uid, verb, typed, entry)
        step.ended.wait(min(max(wait_s, 0.0), LONGEST_WAIT_S))
        if self.closed.is_set() and step.outcome.state == "running":
            raise HostUnreachable("The host's agent is going down.")
        return step.outcome

    def watch(self, uids: Iterable[UUID], *, wait_s: float) -> dict[UUID, int]:
        """Those of the steps that are being done here, with their progress; waits until one is not, but no longer."""
        wanted = list(uids)
        with self._ended:
            self._ended.wait_for(
                lambda: self.closed.is_set() or not all(map(self._at_it, wanted)),
                min(max(wait_s, 0.0), LONGEST_WAIT_S),
            )
            if self.closed.is_set():
                raise HostUnreachable("The host's agent is going down.")
            return {uid: self._running[uid].outcome.progress for uid in wanted if self._at_it(uid)}

    @property
    def at_work(self) -> int:
        """How many steps are being done at this moment."""
        return len(self._running)

    def cancel(self, uid: UUID) -> None:
        """Note that this step is no longer wanted. One that was never started will not be."""
        with self._lock:
            step = self._running.get(uid)
            self.journal.cancel(uid)
        if step is not None:
            step.cancelled.set()

    def question(self, verb: str, args: Mapping[str, Any]) -> Any:
        """Answer a question; nothing is journalled. Refuses as the verb does."""
        if verb not in QUESTIONS:
            raise BadRequest(f"There is no question {verb!r}.")
        return getattr(self.agent, verb)(**decode_args(verb, args))

    def report(self) -> HostReport:
        """The host, its VMs and storage, as they are now."""
        try:
            return self.agent.report()
        except HostRefused as no:
            raise HostUnreachable(no.failure.message, no.failure.code) from no

    def listen(self, seen: int, wait_s: int) -> int:
        """How often something has happened to VMs of this host."""
        return self.agent.listen(seen, wait_s)

    def screens(self, vm_ids: Iterable[UUID]) -> tuple[Screen, ...]:
        """Small pictures of these VMs' screens."""
        try:
            return self.agent.screens(tuple(vm_ids))
        except HostRefused as no:
            raise HostUnreachable(no.failure.message, no.failure.code) from no

    def close(self) -> None:
        """Take no more questions; steps that still run are left without an outcome, to be asked again."""
        with self._lock:
            self.closed.set()
            for step in self._running.values():
                step.ended.set()
            self._ended.notify_all()

    # -- inside ----------------------------------------------------------------------------------
    def _at_it(self, uid: UUID) -> bool:
        step = self._running.get(uid)
        return step is not None and step.outcome.state == "running"

    def _known(self, uid: UUID, verb: str, entry: Entry) -> Outcome | None:
        """The outcome the journal already has, or a cancelled step's that was never started."""
        if entry.started and entry.verb != verb:
            return Outcome(
                uid, "failed", failure=Failure("bad_request", f"Step {uid} is a {entry.verb}, not a {verb}.")
            )
        if entry.outcome is not None:
            outcome = entry.outcome
            return (
                replace(outcome, result=decode_result(verb, outcome.result))
                if outcome.state == "done"
                else outcome
            )
        if entry.cancelled and not entry.started:
            outcome = Outcome(uid, "failed", failure=CANCELLED)
            self.journal.finish(outcome)
            return outcome
        return None

    def _start(self, uid: UUID, verb: str, args: dict[str, Any], entry: Entry) -> _Running:
        self.journal.start(uid, verb)
        step = self._running[uid] = _Running(self, uid, entry.cancelled)
        given = (step, verb, args)
        threading.Thread(target=self._do, args=given, name=f"{verb} {uid}", daemon=True).start()
        return step

    def _do(self, step: _Running, verb: str, args: dict[str, Any]) -> None:
        try:
            result = getattr(self.agent, verb)(**args, steering=step)
            ended = replace(step.outcome, state="done", progress=100, result=result)
        except DeskClosed:
            return
        except HostRefused as no:
            ended = replace(step.outcome, state="failed", failure=no.failure)
        except Exception as bug:  # the edge: a bug in a verb ends its step, not the agent
            log.exception("step %s %s failed by a bug", verb, step.uid)
            sentence = (
                f"Something went wrong on the host while doing {verb}; the agent's log has the details."
            )
            ended = replace(
                step.outcome,
                state="failed",
                failure=Failure("internal_error", sentence, {"type": type(bug).__name__}),
            )
        self._end(step, ended)

    def _end(self, step: _Running, ended: Outcome) -> None:
        """Journal first, answer afterwards; an outcome that cannot be written is kept in memory."""
        with self._lock:
            if self.closed.is_set():
                return
            step.outcome = ended
            try:
                self.journal.finish(replace(ended, result=msgspec.to_builtins(ended.result)))
                del self._running[step.uid]
            except sqlite3.Error:
                log.exception("the outcome of step %s cannot be journalled", step.uid)
            self._ended.notify_all()
        step.ended.set()
