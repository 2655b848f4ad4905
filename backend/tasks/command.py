"""`Command` (what is wanted), `Call` (what to ask a host), `Job`, `Actor`; the contract every command file follows.

A command is a frozen dataclass whose fields are what its caller must say. It declares

    name         wire name, "vm.start"; noun first
    permission   the permit its actor needs on its target, "vm.operate"
    steps        the names of its steps; () for one that only writes rows
    instead_of   optional: the commands whose live task on the same thing is cancelled for it; it begins when that one has ended
    no_return    optional: the step after which it can only be carried to its end; then a wish to cancel comes too late
    forgettable  optional: the steps that change nothing of worth: while their host is silent they need not be waited for

and answers

    target(tx)          (kind, id) of the object it is about, for the permission and for the task's row
    title(tx)           "Start VM w7": what people read in the task list
    locks(tx)           the things no other task may hold meanwhile
    check(tx)           may refuse, may not change anything

and then either, without steps,

    run(tx, actor, now) do it now, in the caller's transaction; answers the task's result (JSON) or None

or, for each step x,

    x(tx, job)                  first transaction: decide, change rows, and answer a `Call` or None (or raise `Later`)
    x_done(tx, job, result)     second transaction: record the host's answer (already typed)
    x_failed(tx, job, failure)  … or its refusal; the task then fails, after undoing what was done,
                                unless this answers GO_ON: then the next step is taken
                                or AGAIN: then it is taken once more, for the command knows another way
    x_silent(tx, job, since)    optional: the host has not answered what it was asked at that time; a `Failure` gives it up
    x_undo(tx, job)             optional: answer the `Call` (or None) that takes the finished step back
    x_undone(tx, job)           optional: record that the host has taken it back
    ended(tx, job, state)       optional: last words in the transaction that ends the task
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Protocol
from uuid import UUID

from backend.db import Tx


@dataclass(frozen=True)
class Actor:
    """Who wants it: a signed-in person, or the system itself (which may do everything). `roles` when they come with a
    token that gives no more than these."""

    user_id: UUID | None
    name: str
    reason: str = ""
    roles: tuple[str, ...] | None = None

    @property
    def is_system(self) -> bool:
        return self.user_id is None


SYSTEM = Actor(None, "Leasehold")

GO_ON: Final = "go on"  # what `x_failed` answers when the task can do without the step
AGAIN: Final = "again"  # what `x_failed` answers when the step is to be planned and taken once more


@dataclass(frozen=True)
class Call:
    """A question for one host: a verb of `hostapi.verbs.STEPS` and its arguments by name."""

    host_id: UUID
    verb: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What a step may know of the task that it belongs to and of the time; `results` are earlier steps' answers by name."""

    task_id: int
    actor: Actor
    results: Mapping[str, Any]
    now: datetime
    cancelled: bool = False


class Command(Protocol):
    """What somebody wants; see this module's docstring."""

    name: ClassVar[str]
    permission: ClassVar[str]
    steps: ClassVar[tuple[str, ...]]

    def target(self, tx: Tx) -> tuple[str, UUID | None]: ...
    def title(self, tx: Tx) -> str: ...
    def locks(self, tx: Tx) -> list[str]: ...
    def check(self, tx: Tx) -> None: ...


class Plain:
    """The answers most commands share; a command overrides what it means otherwise."""

    steps: ClassVar[tuple[str, ...]] = ()

    def locks(self, tx: Tx) -> list[str]:
        kind, id = self.target(tx)  # type: ignore[attr-defined]
        return [f"{kind}:{id}"] if id else []

    def check(self, tx: Tx) -> None:
        return None


class Later(Exception):
    """Raised by a step that cannot be decided yet and loses nothing by waiting: it is planned again a little later. `str()`
    is what people read meanwhile. Nothing that the step wrote before is kept."""

