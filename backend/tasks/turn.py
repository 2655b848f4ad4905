"""One transaction of one task: its row, its command, its steps; what is decided, written down and recorded in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any
from uuid import UUID, uuid4

import msgspec
import sqlalchemy as sa
import structlog

from backend.changes import touch
from backend.clock import Clock
from backend.db import Tx
from backend.events import move
from backend.hosts.models import Host
from backend.tasks.command import AGAIN, GO_ON, Call, Job
from backend.tasks.models import Step, Task
from backend.tasks.submit import finish, job_of
from hostapi.types import Failure
from hostapi.wire import decode_result

log = structlog.get_logger("runner")
FORGET_S = 15.0
CANCELLED = Failure("cancelled", "Cancelled.")
# made once: to put a statement together takes longer than to ask it
_MINE = sa.select(Task).where(
    Task.id == sa.bindparam("task_id"), Task.state == "running", Task.claim == sa.bindparam("this_claim")
).with_for_update()  # fmt: skip
_STEPS = sa.select(Step).where(Step.task_id == sa.bindparam("task_id")).order_by(Step.ordinal)
_HOST = sa.select(Host.id, Host.name, Host.address, Host.port, Host.proved_off_at).where(Host.id == sa.bindparam("host_id"))


@dataclass(frozen=True)
class Turn:
    """What a worker may do with a task while it holds the row: `turn_of` says whether it may at all."""

    tx: Tx
    task: Task
    command: Any
    clock: Clock

    @cached_property
    def steps(self) -> list[Step]:
        """Every step so far, in order."""
        return list(self.tx.scalars(_STEPS, {"task_id": self.task.id}))

    @property
    def claimed(self) -> bool:
        """Whether the task is still this worker's after what was done, to be gone on with at once."""
        return self.task.state == "running" and self.task.claim is not None

    def open_step(self) -> Step | None:
        """The step that a host is asked for."""
        return next((step for step in self.steps if step.state == "asked"), None)

    def step(self, uid: UUID | None) -> Step | None:
        """The step of this uid."""
        return next((step for step in self.steps if step.uid == uid), None)

    def host(self, step: Step) -> Any:
        """The row of the step's host, as far as it is needed to ask it; None when it was removed."""
        return self.tx.execute(_HOST, {"host_id": step.host_id}).first()

    # -- deciding --------------------------------------------------------------------------------
    def next_step(self) -> Step | None:
        """The step that is to be asked for now: the open one, or decided anew. None when there is nothing to ask: steps that
        need no host are done on the spot, and of a step of a host that was switched off meanwhile it is known that it failed."""
        step = self.open_step()
        if step is None:
            if self.task.cancel_wanted and not self.task.undoing and not self._past_return():
                self._begin_undo(CANCELLED)
                return None
            step = self._next_undo() if self.task.undoing else self._next_do()
        else:
            step.attempts += 1
        return step

    def _past_return(self) -> bool:
        """Whether the step is done after which a command can only be carried to its end."""
        name = getattr(self.command, "no_return", None)
        return any(step.name == name and step.state == "done" for step in self.steps)

    def _next_do(self) -> Step | None:
        if self.task.at_step >= len(self.command.steps):
            self._succeed()
            return None
        name = self.command.steps[self.task.at_step]
        call = getattr(self.command, name)(self.tx, self._job())
        step = self._write_step(name, call)
        if call is not None:
            return step
        self._after_done()
        return None

    def _next_undo(self) -> Step | None:
        for step in reversed(self.steps):
            if step.undoes is not None or step.state != "done":
                continue
            undo = getattr(self.command, f"{step.name}_undo", None)
            call = undo(self.tx, self._job()) if undo else None
            if call is not None:
                return self._write_step(f"{step.name}_undo", call, undoes=step.uid)
            move(self.tx, step, "undo")
        self.end_undone()
        return None

    def _write_step(self, name: str, call: Call | None, undoes: UUID | None = None) -> Step:
        now = self.clock.now()
        step = Step(
            uid=uuid4(),
            task_id=self.task.id,
            ordinal=self.steps[-1].ordinal + 1 if self.steps else 1,
            name=name,
            undoes=undoes,
            asked_at=now,
            host_id=call.host_id if call else None,
            verb=call.verb if call else None,
            args=msgspec.to_builtins(dict(call.args)) if call else {},
            state="asked",
            attempts=1 if call else 0,
        )
        self.tx.add(step)
        self.steps.append(step)
        self.task.message = name.replace("_", " ").capitalize()
        if call is None:
            move(self.tx, step, "done", ended_at=now, progress=100)
        return step

    # -- recording -------------------------------------------------------------------------------
    def step_done(self, step: Step, result: Any) -> None:
        """The host has done it."""
        move(self.tx, step, "done", ended_at=self.clock.now(), progress=100, result={"value": msgspec.to_builtins(result)})
        if step.undoes is not None:
            undone = self.step(step.undoes)
            assert undone is not None
            if undone_words := getattr(self.command, f"{undone.name}_undone", None):
                undone_words(self.tx, self._job())
            move(self.tx, undone, "undo")
            self._go_on("Undoing")
            return
        done = getattr(self.command, f"{step.name}_done", None)
        if done is not None:
            done(self.tx, self._job(), result)
        self._after_done()

    def step_failed(self, step: Step, failure: Failure) -> None:
        """The host has not done it, or it is known that it never will."""
        move(self.tx, step, "fail", ended_at=self.clock.now(), error=msgspec.to_builtins(failure))
        if step.undoes is not None:  # what cannot be undone is said and left; the undo goes on with the rest
            undone = self.step(step.undoes)
            assert undone is not None
            move(self.tx, undone, "undo")
            log.error("undo step failed", task=self.task.id, step=step.name, why=failure.message)
            self._go_on(f"Could not undo: {failure.message}")
            return
        self.hear_failure(step.name, failure)

    def hear_failure(self, name: str, failure: Failure) -> None:
        """Tell the command; unless it says that the task goes on without this step or takes it again, undo what was done."""
        failed = getattr(self.command, f"{name}_failed", None)
        answer = failed(self.tx, self._job(), failure) if failed else None
        if answer in (GO_ON, AGAIN) and not self.task.cancel_wanted and failure.code != "internal_error":
            self.task.at_step += answer == GO_ON
            self._go_on(failure.message, within=0)
        else:
            self._begin_undo(failure)

    def host_silent(self, step: Step, host: str, retry_s: float) -> None:
        """Its host does not answer: give the step up when it may be, or ask again later."""
        now = self.clock.now()
        forgettable = step.name in getattr(self.command, "forgettable", ())
        if forgettable and (self.task.cancel_wanted or now - step.asked_at > timedelta(seconds=FORGET_S)):
            silent = Failure("host_silent", f"Host {host} does not answer.")
            self.step_failed(step, CANCELLED if self.task.cancel_wanted else silent)
            return
        step.message = f"Host {host} does not answer; asking again."
        give_up = getattr(self.command, f"{step.name}_silent", None)
        if give_up and (no := give_up(self.tx, self._job(), step.asked_at)):
            self.step_failed(step, no)
        else:
            self.release(retry_s, step.message)

    def still_at_it(self, step: Step, progress: int, message: str, delay_s: float) -> None:
        """The host is at it; the task is due again after the delay."""
        step.progress, step.message = progress, message
        self.release(delay_s, message, within=progress)

    # -- where the task stands -------------------------------------------------------------------
    def _after_done(self) -> None:
        self.task.at_step += 1
        if self.task.at_step >= len(self.command.steps):
            self._succeed()
        else:
            self._go_on(self.task.message, within=0)

    def _begin_undo(self, failure: Failure) -> None:
        self.task.undoing, self.task.error = True, msgspec.to_builtins(failure)
        self._go_on(failure.message)

    def end_undone(self) -> None:
        """Everything is taken back that can be: the task ends with why."""
        error = self.task.error or msgspec.to_builtins(CANCELLED)
        event = "cancelled" if self.task.cancel_wanted and error["code"] == "cancelled" else "fail"
        finish(self.tx, self.task, event, self.clock.now(), error=error, message=error["message"])
        self._last_words()

    def _succeed(self) -> None:
        finish(self.tx, self.task, "succeed", self.clock.now(), progress=100, message="Done.")
        self._last_words()

    def _last_words(self) -> None:
        if ended := getattr(self.command, "ended", None):
            ended(self.tx, self._job(), self.task.state)

    def _go_on(self, message: str, within: int | None = None) -> None:
        """The worker keeps the task, and takes its next step at once."""
        steps = max(1, len(self.command.steps))
        if within is not None and not self.task.undoing:
            self.task.progress = min(99, int((self.task.at_step * 100 + within) / steps))
        self.task.message = message or self.task.message
        touch(self.tx, "task", self.task.id, user_id=self.task.actor_id)

    def release(self, delay_s: float, message: str, within: int | None = None) -> None:
        """Give the worker free; the task is due again after the delay."""
        self._go_on(message, within)
        self.task.worker_id, self.task.claim = None, None
        self.task.not_before = self.clock.now() + timedelta(seconds=delay_s)

    def _job(self) -> Job:
        done = [step for step in self.steps if step.undoes is None and step.state in ("done", "undone")]
        results = {s.name: decode_result(s.verb, (s.result or {}).get("value")) if s.verb else None for s in done}
        return job_of(self.task, results, self.clock.now())


def turn_of(tx: Tx, commands: Mapping[str, type], clock: Clock, task_id: int, claim: UUID) -> Turn | None:
    """The task, held, if it is still running under this claim."""
    task = tx.scalars(_MINE, {"task_id": task_id, "this_claim": claim}, execution_options={"populate_existing": True}).first()
    return Turn(tx, task, msgspec.convert(task.args, commands[task.command]), clock) if task is not None else None


__all__ = ["CANCELLED", "Turn", "turn_of"]
