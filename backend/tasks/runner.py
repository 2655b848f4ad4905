"""Claim, plan, ask, record; heartbeat, resume, cancel, undo. A task's whole life is in rows, never in memory.

A worker keeps a task for as long as it need not wait, and may be cut off between any two lines: whoever claims the task
next finds the step row, asks the host again by the same uid, and goes on.
"""

from __future__ import annotations

import selectors
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

import msgspec
import psycopg2
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import aliased

from backend.clock import Clock
from backend.db import Sessions, is_silent
from backend.errors import Refused
from backend.events import move
from backend.tasks.command import Later
from backend.tasks.models import Task, Worker
from backend.tasks.submit import WAKE, finish
from backend.tasks.turn import Turn, turn_of
from backend.tasks.watch import LOST_S, Watch
from hostapi.client import HostUnreachable
from hostapi.types import Failure, Outcome
from hostapi.wire import encode_args

log = structlog.get_logger("runner")
BEAT_S, DEAD_AFTER_S = 3, 12
JUMP_S = 60  # a time of ours further ahead than this was written before the clock was turned back
POLL_S, RETRY_S, LATER_S = 0.5, 2.0, 0.5
HOST_LOST = "host_lost"  # what a step fails with whose host is proved to have been off since it was asked


def _due() -> Any:
    """The task that is due first, and nobody's: made once, for all claims are alike."""
    earlier: Any = aliased(Task)
    now: Any = sa.bindparam("now")
    jumped: Any = sa.bindparam("jumped")
    alive = sa.select(Worker.id).where(Worker.beat_at.between(sa.bindparam("beat"), jumped))
    dropped = sa.and_(
        Task.worker_id == sa.bindparam("this_worker"), Task.claim.not_in(sa.bindparam("in_hand", expanding=True))
    )
    nobodys = sa.or_(
        Task.state == "queued",
        sa.and_(Task.state == "running", sa.or_(Task.worker_id.is_(None), Task.worker_id.not_in(alive), dropped)),
    )
    time = sa.or_(Task.not_before <= now, Task.not_before > jumped)  # nothing is put off so long: the clock was turned back
    in_the_way = sa.exists().where(earlier.id == Task.after_id, earlier.state.in_(("queued", "running")))
    first = sa.select(Task).where(time, nobodys, ~in_the_way).order_by(Task.not_before, Task.id).limit(1)
    return first.with_for_update(skip_locked=True)


_DUE = _due()


class Question(NamedTuple):
    """A step as its host is asked for it, and whether nobody wants it any more."""

    uid: UUID
    address: tuple[UUID, str, int]
    verb: str
    args: Mapping[str, Any]
    unwanted: bool


class HostDoor(Protocol):
    """How the runner reaches a host: hostapi.client over the wire, or the simulator."""

    def ask(self, uid: UUID, verb: str, args: Mapping[str, Any], *, wait_s: float) -> Outcome: ...
    def cancel(self, uid: UUID) -> None: ...
    def watch(self, uids: Iterable[UUID], *, wait_s: float) -> dict[UUID, int]: ...


class Runner:
    """Carries tasks out. `doors` answers the door of a host; `reveal` fills in secrets at the wire."""

    def __init__(
        self,
        sessions: Sessions,
        commands: Mapping[str, type],
        clock: Clock,
        doors: Callable[[UUID, str, int], HostDoor],
        reveal: Callable[[str], str],
        name: str = "manager",
    ) -> None:
        self.sessions, self.commands, self.clock, self.doors, self.reveal = sessions, commands, clock, doors, reveal
        self.worker_id, self.name = uuid4(), name
        self.wait_s = 0.1  # how long a worker waits at a host, so that a short step's answer comes at once
        self.carries_on = False  # a process takes a task from step to step while it need not wait; else tasks take turns
        self.stopping = threading.Event()
        self._wake = threading.Event()
        self._watch: Watch | None = None  # of steps that take longer; without one, they are asked for again and again
        self._in_hand: set[UUID] = set()  # claims of this process that a thread is at, or is about to write

    # -- the process -----------------------------------------------------------------------------
    def run(self, threads: int) -> list[threading.Thread]:
        """Start the heartbeat, the listener and so many workers; `stopping` ends them."""
        self._beat_or_tell()
        self._watch, self.carries_on = Watch(self.doors, self._hurry, self.stopping), True
        jobs = [self._beat_forever, self._listen_forever, *[self._work_forever] * threads]
        started = [threading.Thread(target=job, name=f"runner-{n}", daemon=True) for n, job in enumerate(jobs)]
        for thread in started:
            thread.start()
        return started

    def _work_forever(self) -> None:
        while not self.stopping.is_set():
            try:
                if not self.step():
                    self._wake.wait(POLL_S)
                    self._wake.clear()
            except Exception as error:  # noqa: BLE001 -- the edge of a thread; told by `_tell`
                _tell("task pass failed", error)
                self.stopping.wait(1)

    def _beat_forever(self) -> None:
        while not self.stopping.wait(BEAT_S):
            self._beat_or_tell()

    def _beat_or_tell(self) -> None:
        try:
            self.beat()
        except Exception as error:  # noqa: BLE001 -- the edge of a thread; told by `_tell`
            _tell("heartbeat failed", error)

    def _listen_forever(self) -> None:
        """Wake the workers when a task is submitted; polling alone would still find it, only later."""
        while not self.stopping.is_set():
            try:
                with self.sessions.kw["bind"].connect() as connection:
                    self._listen(connection)
            except Exception as error:  # noqa: BLE001 -- the edge of a thread; told by `_tell`
                _tell("listening for tasks failed", error)
                self.stopping.wait(1)

    def _listen(self, connection: sa.Connection) -> None:
        raw: Any = connection.connection.driver_connection
        try:
            raw.autocommit = True
            raw.cursor().execute(f"LISTEN {WAKE}")
            with selectors.DefaultSelector() as selector:  # select() knows no descriptor above 1,023
                selector.register(raw, selectors.EVENT_READ)
                while not self.stopping.is_set():
                    if selector.select(1):
                        raw.poll()
                        raw.notifies.clear()
                        self._wake.set()
            raw.autocommit = False
        except psycopg2.Error:
            connection.invalidate()  # it is not given back to the pool as if it were whole
            raise

    def _hurry(self, task_ids: list[int]) -> None:
        """There is news of the steps of these tasks, which wait for a later time: let them be taken up now."""
        waits = sa.and_(Task.id.in_(task_ids), Task.state == "running", Task.claim.is_(None))
        try:
            with self.sessions.begin() as tx:
                tx.execute(sa.update(Task).where(waits).values(not_before=self.clock.now()))
                tx.execute(sa.text(f"NOTIFY {WAKE}"))
        except Exception as error:  # noqa: BLE001 -- the edge of a thread; told by `_tell`. They are taken up later
            _tell("hurrying tasks failed", error)

    def beat(self) -> None:
        """Say that this worker lives."""
        now = self.clock.now()
        with self.sessions.begin() as tx:
            worker = tx.get(Worker, self.worker_id)
            if worker is None:
                tx.add(Worker(id=self.worker_id, name=self.name, beat_at=now))
            else:
                worker.beat_at = now

    # -- one task --------------------------------------------------------------------------------
    def step(self) -> bool:
        """Take one due task a step further, or as far as it goes without waiting; False when none is due."""
        task_id, claim = self.claim()
        if task_id is None:
            return False
        try:
            while self._advance_or_fail(task_id, claim):
                pass
        finally:
            self._in_hand.discard(claim)
        return True

    def _advance_or_fail(self, task_id: int, claim: UUID) -> bool:
        try:
            return self.advance(task_id, claim)
        except Exception as bug:
            if is_silent(bug):
                raise  # the claim is not in hand any more: the task is gone on with as soon as the database answers
            log.exception("task failed by a bug", task=task_id)
            return self._fail_by_bug(task_id, claim, bug)

    def claim(self) -> tuple[int | None, UUID]:
        """Claim a task that is due and queued, released, or left behind: by a worker whose beat is old, or by a thread of
        this one that lost the database. The claim is in hand from then on."""
        claim = uuid4()
        self._in_hand.add(claim)  # before others can see it
        task_id = None
        try:
            task_id = self._claim(claim)
        finally:
            if task_id is None:
                self._in_hand.discard(claim)
        return task_id, claim

    def _claim(self, claim: UUID) -> int | None:
        now = self.clock.now()
        given = {
            "now": now, "jumped": now + timedelta(seconds=JUMP_S), "beat": now - timedelta(seconds=DEAD_AFTER_S),
            "this_worker": self.worker_id, "in_hand": list(self._in_hand),
        }  # fmt: skip
        with self.sessions.begin() as tx:
            task: Task | None = tx.scalars(_DUE, given).first()
            if task is None:
                return None
            if task.state == "queued":
                move(tx, task, "claim", started_at=now, worker_id=self.worker_id, claim=claim)
            else:
                task.worker_id, task.claim = self.worker_id, claim
            return task.id

    def advance(self, task_id: int, claim: UUID) -> bool:
        """Plan the task's present step if that was not done, ask the host, record what it says. Whether there is more to do
        for it at once."""
        question = self.plan(task_id, claim)
        if isinstance(question, bool):
            return question
        outcome = self.ask(question)
        more = self.record(task_id, claim, question.uid, outcome)
        if self._watch is not None and isinstance(outcome, Outcome) and outcome.state == "running":
            self._watch.add(question.address, question.uid, task_id, outcome.progress)
        return more

    def plan(self, task_id: int, claim: UUID) -> Question | bool:
        """First transaction: the step as it is written, or newly decided. When nothing is to be asked: whether there is more to
        do at once."""
        try:
            with self.sessions.begin() as tx:
                turn = turn_of(tx, self.commands, self.clock, task_id, claim)
                if turn is None:
                    return False
                step = turn.next_step()
                if step is None:
                    return self._keeps(turn)
                host = turn.host(step)
                assert host is not None and step.verb is not None
                if host.proved_off_at is not None and step.asked_at <= host.proved_off_at:
                    turn.step_failed(step, Failure(HOST_LOST, f"Host {host.name} was switched off meanwhile."))
                    return self._keeps(turn)
                unwanted = turn.task.cancel_wanted and not turn.task.undoing
                return Question(step.uid, (host.id, host.address, host.port), step.verb, step.args, unwanted)
        except Refused as no:
            return self._refuse(task_id, claim, Failure(no.code, no.message, no.facts))
        except Later as wait:
            self._put_off(task_id, claim, str(wait))
        return False

    def ask(self, question: Question) -> Outcome | HostUnreachable:
        """The question itself, outside any transaction. Starting, polling and resuming are the same call."""
        try:
            door = self.doors(*question.address)
            if question.unwanted:
                door.cancel(question.uid)
            args = encode_args(question.verb, question.args, self.reveal)
            return door.ask(question.uid, question.verb, args, wait_s=self.wait_s)
        except HostUnreachable as silent:
            return silent

    def record(self, task_id: int, claim: UUID, uid: UUID, outcome: Outcome | HostUnreachable) -> bool:
        """Second transaction: what the host said, if the task is still ours. Whether there is more to do at once."""
        try:
            with self.sessions.begin() as tx:
                turn = turn_of(tx, self.commands, self.clock, task_id, claim)
                step = turn.step(uid) if turn is not None else None
                if turn is None or step is None or step.state != "asked":
                    return False
                if isinstance(outcome, HostUnreachable):
                    host = turn.host(step)
                    turn.host_silent(step, host.name if host else str(step.host_id), RETRY_S)
                elif outcome.state == "running":
                    turn.still_at_it(step, outcome.progress, outcome.message, 0 if self._watch is None else LOST_S)
                elif outcome.state == "done":
                    turn.step_done(step, outcome.result)
                else:
                    turn.step_failed(step, outcome.failure or Failure("failed", "The host gave no reason."))
                return self._keeps(turn)
        except Refused as no:
            return self._refuse(task_id, claim, Failure(no.code, no.message, no.facts), step_uid=uid)

    def _keeps(self, turn: Turn) -> bool:
        """Whether the worker goes on with the task at once."""
        if turn.claimed and not self.carries_on:
            turn.release(0, turn.task.message)
        return turn.claimed

    # -- refusals and bugs, each in a transaction of its own --------------------------------------
    def _put_off(self, task_id: int, claim: UUID, why: str) -> None:
        with self.sessions.begin() as tx:
            if (turn := turn_of(tx, self.commands, self.clock, task_id, claim)) is not None:
                turn.release(LATER_S, why)

    def _refuse(self, task_id: int, claim: UUID, failure: Failure, step_uid: UUID | None = None) -> bool:
        """A `Refused` rolled the transaction back: the step, or the plan for it, ends with its sentence. Whether there is more
        to do at once."""
        with self.sessions.begin() as tx:
            turn = turn_of(tx, self.commands, self.clock, task_id, claim)
            if turn is None:
                return False
            step = turn.step(step_uid)
            if step is not None and step.state == "asked":
                move(tx, step, "fail", ended_at=self.clock.now(), error=msgspec.to_builtins(failure))
            if turn.task.undoing:
                turn.end_undone()
            else:
                names = turn.command.steps
                turn.hear_failure(step.name if step else names[min(turn.task.at_step, len(names) - 1)], failure)
            return self._keeps(turn)

    def _fail_by_bug(self, task_id: int, claim: UUID, bug: Exception) -> bool:
        failure = Failure(
            "internal_error", "Something went wrong inside Leasehold; the log has the details.", {"type": type(bug).__name__}
        )
        try:
            return self._refuse(task_id, claim, failure)
        except Exception:
            log.exception("ending a failed task failed", task=task_id)
            with self.sessions.begin() as tx:
                turn = turn_of(tx, self.commands, self.clock, task_id, claim)
                if turn is not None:
                    finish(tx, turn.task, "fail", self.clock.now(), error=msgspec.to_builtins(failure), message=failure.message)
            return False


def _tell(what: str, error: Exception) -> None:
    """Into the log: a silent database in a sentence, a bug with its traceback."""
    if is_silent(error):
        log.warning("the database does not answer; trying again", during=what)
    else:
        log.error(what, exc_info=error)


__all__ = ["HostDoor", "Runner"]
