"""Claim, plan, ask, record; heartbeat, resume, cancel, undo. A task's whole life is in rows, never in memory.

One pass over a task (`advance`) takes at most one step further and may be cut off between any two lines:
whoever claims the task next finds the step row, asks the host again by the same uid, and goes on.
"""

from __future__ import annotations

import selectors
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import msgspec
import psycopg2
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import aliased

from backend.changes import touch
from backend.clock import Clock
from backend.db import Sessions, Tx, is_silent
from backend.errors import Refused
from backend.events import move
from backend.hosts.models import Host
from backend.tasks.command import AGAIN, GO_ON, Call, Later
from backend.tasks.models import Step, Task, Worker
from backend.tasks.submit import WAKE, finish, job_of
from backend.tasks.watch import LOST_S, Watch
from hostapi.client import HostUnreachable
from hostapi.types import Failure, Outcome
from hostapi.wire import decode_result, encode_args

log = structlog.get_logger("runner")
BEAT_S, DEAD_AFTER_S = 3, 12
JUMP_S = 60  # a time of ours further ahead than this was written before the clock was turned back
POLL_S, RETRY_S, LATER_S, FORGET_S = 0.5, 2.0, 0.5, 15.0
CANCELLED = Failure("cancelled", "Cancelled.")
HOST_LOST = "host_lost"  # what a step fails with whose host is proved to have been off since it was asked


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
        self.stopping = threading.Event()
        self._wake = threading.Event()
        self._watch: Watch | None = None  # of steps that take longer; without one, they are asked for again and again
        self._in_hand: set[UUID] = set()  # claims of this process that a thread is at, or is about to write

    # -- the process -----------------------------------------------------------------------------
    def run(self, threads: int) -> list[threading.Thread]:
        """Start the heartbeat, the listener and so many workers; `stopping` ends them."""
        self._beat_or_tell()
        self._watch = Watch(self.doors, self._hurry, self.stopping)
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

    # -- one task, one step further --------------------------------------------------------------
    def step(self) -> bool:
        """Take one due task one step further; False when none is due."""
        task_id, claim = self.claim()
        if task_id is None:
            return False
        try:
            self.advance(task_id, claim)
        except Exception as bug:
            if is_silent(bug):
                raise  # the claim is not in hand any more: the task is gone on with as soon as the database answers
            log.exception("task failed by a bug", task=task_id)
            self._release_after_bug(task_id, claim, bug)
        finally:
            self._in_hand.discard(claim)
        return True

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
        with self.sessions.begin() as tx:
            beat = (now - timedelta(seconds=DEAD_AFTER_S), now + timedelta(seconds=JUMP_S))
            alive = sa.select(Worker.id).where(Worker.beat_at.between(*beat))
            dropped = sa.and_(Task.worker_id == self.worker_id, Task.claim.not_in(list(self._in_hand)))
            due = sa.or_(
                Task.state == "queued",
                sa.and_(Task.state == "running", sa.or_(Task.worker_id.is_(None), Task.worker_id.not_in(alive), dropped)),
            )
            # nothing is put off for as long as that: the clock was turned back
            time = sa.or_(Task.not_before <= now, Task.not_before > now + timedelta(seconds=JUMP_S))
            earlier = aliased(Task)
            in_the_way = sa.exists().where(earlier.id == Task.after_id, earlier.state.in_(("queued", "running")))
            task = tx.scalars(
                sa.select(Task)
                .where(time, due, ~in_the_way)
                .order_by(Task.not_before, Task.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if task is None:
                return None
            if task.state == "queued":
                move(tx, task, "claim", started_at=now)
            task.worker_id, task.claim = self.worker_id, claim
            return task.id

    def advance(self, task_id: int, claim: UUID) -> None:
        """Plan the task's present step if that was not done, ask the host, record what it says."""
        planned = self.plan(task_id, claim)
        if planned is None:
            return
        step_uid, address, cancel = planned
        outcome = self.ask(step_uid, address, cancel)
        self.record(task_id, claim, step_uid, outcome)
        if self._watch is not None and isinstance(outcome, Outcome) and outcome.state == "running":
            self._watch.add(address[:3], step_uid, task_id, outcome.progress)

    def plan(self, task_id: int, claim: UUID) -> tuple[UUID, tuple[UUID, str, int, str, dict[str, Any]], bool] | None:
        """First transaction: the step as it is written, or newly decided. None when nothing is to be asked."""
        try:
            with self.sessions.begin() as tx:
                task = self._mine(tx, task_id, claim)
                if task is None:
                    return None
                command = self._command(task)
                step = self._open_step(tx, task)
                if step is None:
                    if task.cancel_wanted and not task.undoing and not self._past_return(tx, task, command):
                        self._begin_undo(tx, task, CANCELLED)
                        return None
                    step = self._next_step(tx, task, command)
                    if step is None:
                        return None
                host = tx.get(Host, step.host_id)
                assert host is not None and step.verb is not None
                if host.proved_off_at is not None and step.asked_at <= host.proved_off_at:
                    lost = Failure(HOST_LOST, f"Host {host.name} was switched off meanwhile.")
                    self._step_failed(tx, task, step, lost, self.clock.now())
                    return None
                step.attempts += 1
                return step.uid, (host.id, host.address, host.port, step.verb, step.args), task.cancel_wanted and not task.undoing
        except Refused as no:
            self._refuse(task_id, claim, Failure(no.code, no.message, no.facts))
        except Later as wait:
            self._put_off(task_id, claim, str(wait))
        return None

    def ask(self, uid: UUID, address: tuple[UUID, str, int, str, dict[str, Any]], cancel: bool) -> Outcome | HostUnreachable:
        """The question itself, outside any transaction. Starting, polling and resuming are the same call."""
        host_id, where, port, verb, args = address
        try:
            door = self.doors(host_id, where, port)
            if cancel:
                door.cancel(uid)
            return door.ask(uid, verb, encode_args(verb, args, self.reveal), wait_s=self.wait_s)
        except HostUnreachable as silent:
            return silent

    def record(self, task_id: int, claim: UUID, uid: UUID, outcome: Outcome | HostUnreachable) -> None:
        """Second transaction: what the host said, if the task is still ours."""
        now = self.clock.now()
        try:
            with self.sessions.begin() as tx:
                task = self._mine(tx, task_id, claim)
                step = tx.get(Step, uid)
                if task is None or step is None or step.state != "asked":
                    return
                if isinstance(outcome, HostUnreachable):
                    host = tx.get(Host, step.host_id)
                    if self._forgets(task, step, now):
                        why = f"Host {host.name if host else step.host_id} does not answer."
                        self._step_failed(tx, task, step, CANCELLED if task.cancel_wanted else Failure("host_silent", why), now)
                        return
                    step.message = f"Host {host.name if host else step.host_id} does not answer; asking again."
                    if no := self._given_up(tx, task, step):
                        self._step_failed(tx, task, step, no, now)
                    else:
                        self._release(tx, task, RETRY_S, step.message)
                elif outcome.state == "running":
                    step.progress, step.message = outcome.progress, outcome.message
                    delay_s = 0 if self._watch is None else LOST_S
                    self._release(tx, task, delay_s, outcome.message, within=outcome.progress)
                elif outcome.state == "done":
                    self._step_done(tx, task, step, outcome.result, now)
                else:
                    self._step_failed(tx, task, step, outcome.failure or Failure("failed", "The host gave no reason."), now)
        except Refused as no:
            self._refuse(task_id, claim, Failure(no.code, no.message, no.facts), step_uid=uid)

    # -- inside a transaction --------------------------------------------------------------------
    def _mine(self, tx: Tx, task_id: int, claim: UUID) -> Task | None:
        """The task, locked, if it is still running under this claim."""
        task = tx.get(Task, task_id, with_for_update=True, populate_existing=True)
        return task if task is not None and task.state == "running" and task.claim == claim else None

    def _command(self, task: Task) -> Any:
        return msgspec.convert(task.args, self.commands[task.command])

    def _open_step(self, tx: Tx, task: Task) -> Step | None:
        return tx.scalars(sa.select(Step).where(Step.task_id == task.id, Step.state == "asked")).first()

    def _given_up(self, tx: Tx, task: Task, step: Step) -> Failure | None:
        """Why the command does not wait for the silent host any longer; None while it does."""
        command = self._command(task)
        silent = getattr(command, f"{step.name}_silent", None)
        failure: Failure | None = silent(tx, self._job(tx, task), step.asked_at) if silent else None
        return failure

    def _past_return(self, tx: Tx, task: Task, command: Any) -> bool:
        """Whether the step is done after which a command can only be carried to its end."""
        name = getattr(command, "no_return", None)
        done = sa.select(Step.uid).where(Step.task_id == task.id, Step.name == name, Step.state == "done")
        return name is not None and tx.scalar(done) is not None

    def _forgets(self, task: Task, step: Step, now: datetime) -> bool:
        """Whether the step of a silent host is given up: one that may be, long enough or because nobody wants it any more."""
        forgettable = step.name in getattr(self._command(task), "forgettable", ())
        return forgettable and (task.cancel_wanted or now - step.asked_at > timedelta(seconds=FORGET_S))

    def _job(self, tx: Tx, task: Task) -> Any:
        done = tx.scalars(
            sa.select(Step)
            .where(Step.task_id == task.id, Step.undoes.is_(None), Step.state.in_(("done", "undone")))
            .order_by(Step.ordinal)
        )
        results = {s.name: decode_result(s.verb, (s.result or {}).get("value")) if s.verb else None for s in done}
        return job_of(task, results, self.clock.now())

    def _next_step(self, tx: Tx, task: Task, command: Any) -> Step | None:
        """Decide the next step and write it down; steps that need no host are done on the spot."""
        if task.undoing:
            return self._next_undo(tx, task, command)
        if task.at_step >= len(command.steps):
            self._succeed(tx, task, command)
            return None
        name = command.steps[task.at_step]
        call = getattr(command, name)(tx, self._job(tx, task))
        step = self._write_step(tx, task, name, call)
        if call is not None:
            return step
        self._after_done(tx, task, command, step, None)
        return None

    def _next_undo(self, tx: Tx, task: Task, command: Any) -> Step | None:
        done = tx.scalars(
            sa.select(Step)
            .where(Step.task_id == task.id, Step.undoes.is_(None), Step.state == "done")
            .order_by(Step.ordinal.desc())
        )
        for step in done:
            undo = getattr(command, f"{step.name}_undo", None)
            call = undo(tx, self._job(tx, task)) if undo else None
            if call is not None:
                return self._write_step(tx, task, f"{step.name}_undo", call, undoes=step.uid)
            move(tx, step, "undo")
        self._end_undone(tx, task, command)
        return None

    def _write_step(self, tx: Tx, task: Task, name: str, call: Call | None, undoes: UUID | None = None) -> Step:
        now = self.clock.now()
        ordinal = (tx.scalar(sa.select(sa.func.max(Step.ordinal)).where(Step.task_id == task.id)) or 0) + 1
        step = Step(
            uid=uuid4(),
            task_id=task.id,
            ordinal=ordinal,
            name=name,
            undoes=undoes,
            asked_at=now,
            host_id=call.host_id if call else None,
            verb=call.verb if call else None,
            args=msgspec.to_builtins(dict(call.args)) if call else {},
            state="asked",
        )
        tx.add(step)
        tx.flush()
        task.message = name.replace("_", " ").capitalize()
        if call is None:
            move(tx, step, "done", ended_at=now, progress=100)
        return step

    def _step_done(self, tx: Tx, task: Task, step: Step, result: Any, now: Any) -> None:
        move(tx, step, "done", ended_at=now, progress=100, result={"value": msgspec.to_builtins(result)})
        command = self._command(task)
        if step.undoes is not None:
            undone = tx.get(Step, step.undoes)
            assert undone is not None
            if undone_words := getattr(command, f"{undone.name}_undone", None):
                undone_words(tx, self._job(tx, task))
            move(tx, undone, "undo")
            self._release(tx, task, 0, "Undoing")
            return
        done = getattr(command, f"{step.name}_done", None)
        if done is not None:
            done(tx, self._job(tx, task), result)
        self._after_done(tx, task, command, step, result)

    def _after_done(self, tx: Tx, task: Task, command: Any, step: Step, result: Any) -> None:
        task.at_step += 1
        if task.at_step >= len(command.steps):
            self._succeed(tx, task, command)
        else:
            self._release(tx, task, 0, task.message, within=0)

    def _step_failed(self, tx: Tx, task: Task, step: Step, failure: Failure, now: Any) -> None:
        error = msgspec.to_builtins(failure)
        move(tx, step, "fail", ended_at=now, error=error)
        command = self._command(task)
        if step.undoes is not None:  # what cannot be undone is said and left; the undo goes on with the rest
            undone = tx.get(Step, step.undoes)
            assert undone is not None
            move(tx, undone, "undo")
            log.error("undo step failed", task=task.id, step=step.name, why=failure.message)
            self._release(tx, task, 0, f"Could not undo: {failure.message}")
            return
        self._hear_failure(tx, task, command, step.name, failure)

    def _hear_failure(self, tx: Tx, task: Task, command: Any, name: str, failure: Failure) -> None:
        """Tell the command; unless it says that the task goes on without this step or takes it again, undo what was done."""
        failed = getattr(command, f"{name}_failed", None)
        answer = failed(tx, self._job(tx, task), failure) if failed else None
        if answer in (GO_ON, AGAIN) and not task.cancel_wanted and failure.code != "internal_error":
            task.at_step += answer == GO_ON
            self._release(tx, task, 0, failure.message, within=0)
        else:
            self._begin_undo(tx, task, failure)

    def _begin_undo(self, tx: Tx, task: Task, failure: Failure) -> None:
        task.undoing, task.error = True, msgspec.to_builtins(failure)
        self._release(tx, task, 0, failure.message)

    def _end_undone(self, tx: Tx, task: Task, command: Any) -> None:
        error = task.error or msgspec.to_builtins(CANCELLED)
        event = "cancelled" if task.cancel_wanted and error["code"] == "cancelled" else "fail"
        finish(tx, task, event, self.clock.now(), error=error, message=error["message"])
        self._last_words(tx, task, command)

    def _succeed(self, tx: Tx, task: Task, command: Any) -> None:
        finish(tx, task, "succeed", self.clock.now(), progress=100, message="Done.")
        self._last_words(tx, task, command)

    def _last_words(self, tx: Tx, task: Task, command: Any) -> None:
        if ended := getattr(command, "ended", None):
            ended(tx, self._job(tx, task), task.state)

    def _release(self, tx: Tx, task: Task, delay_s: float, message: str, within: int | None = None) -> None:
        """Give the worker free; the task is due again after the delay."""
        steps = max(1, len(self._command(task).steps))
        if within is not None and not task.undoing:
            task.progress = min(99, int((task.at_step * 100 + within) / steps))
        task.worker_id, task.claim, task.message = None, None, message or task.message
        task.not_before = self.clock.now() + timedelta(seconds=delay_s)
        touch(tx, "task", task.id, user_id=task.actor_id)
        if delay_s == 0:
            tx.execute(sa.text(f"NOTIFY {WAKE}"))

    # -- refusals and bugs, each in a transaction of its own --------------------------------------
    def _put_off(self, task_id: int, claim: UUID, why: str) -> None:
        with self.sessions.begin() as tx:
            if (task := self._mine(tx, task_id, claim)) is not None:
                self._release(tx, task, LATER_S, why)

    def _refuse(self, task_id: int, claim: UUID, failure: Failure, step_uid: UUID | None = None) -> None:
        """A `Refused` rolled the transaction back: the step, or the plan for it, ends with its sentence."""
        with self.sessions.begin() as tx:
            task = self._mine(tx, task_id, claim)
            if task is None:
                return
            step = tx.get(Step, step_uid) if step_uid else None
            if step is not None and step.state == "asked":
                move(tx, step, "fail", ended_at=self.clock.now(), error=msgspec.to_builtins(failure))
            command = self._command(task)
            if task.undoing:
                self._end_undone(tx, task, command)
                return
            name = step.name if step else command.steps[min(task.at_step, len(command.steps) - 1)]
            self._hear_failure(tx, task, command, name, failure)

    def _release_after_bug(self, task_id: int, claim: UUID, bug: Exception) -> None:
        failure = Failure(
            "internal_error", "Something went wrong inside Leasehold; the log has the details.", {"type": type(bug).__name__}
        )
        try:
            self._refuse(task_id, claim, failure)
        except Exception:
            log.exception("ending a failed task failed", task=task_id)
            with self.sessions.begin() as tx:
                task = self._mine(tx, task_id, claim)
                if task is not None:
                    finish(tx, task, "fail", self.clock.now(), error=msgspec.to_builtins(failure), message=failure.message)


def _tell(what: str, error: Exception) -> None:
    """Into the log: a silent database in a sentence, a bug with its traceback."""
    if is_silent(error):
        log.warning("the database does not answer; trying again", during=what)
    else:
        log.error(what, exc_info=error)


__all__ = ["HostDoor", "Runner"]
