"""Declare custom actions, and run them for a VM or a host."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.actions.models import CustomAction
from backend.actions.rules import require_action
from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.hosts.models import Host
from backend.tasks.command import Actor, Call, Job, Plain
from backend.tasks.models import Task
from backend.vms.models import Vm
from hostapi.types import Failure, HookOutput

RUNS = ("powering_up", "up", "paused")
REACHED = ("up", "preparing_for_maintenance", "maintenance")


class _Declaring(Plain):
    """What declaring shares: nothing but the whole system is above a custom action."""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "system", None

    def _require_free(self, tx: Tx, name: str, but: UUID | None = None) -> None:
        other = tx.scalar(sa.select(CustomAction.id).where(CustomAction.name == name.strip()))
        if other is not None and other != but:
            sentence = f"There is already a custom action named {name.strip()}; choose another name."
            raise Invalid("name_taken", sentence, fields=["action_name"])


@dataclass(frozen=True)
class CreateAction(_Declaring):
    """Declare a custom action: a hook of the hosts' operators, run with these arguments for a VM (on its host) or for a host."""

    action_name: str
    hook: str
    target_kind: str = "vm"
    args: tuple[str, ...] = ()
    timeout_s: int = 60
    description: str = ""
    name, permission = "customaction.create", "customaction.edit"

    def title(self, tx: Tx) -> str:
        return f"Declare custom action {self.action_name}"

    def check(self, tx: Tx) -> None:
        require_action(self.action_name, self.target_kind, self.hook, self.args, self.timeout_s)
        self._require_free(tx, self.action_name)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        action = CustomAction(name=self.action_name.strip(), description=self.description, target=self.target_kind,
                              hook=self.hook, args=list(self.args), timeout_s=self.timeout_s)  # fmt: skip
        tx.add(action)
        tx.flush()
        record(tx, "customaction.created", action, actor=actor.name, hook=self.hook)
        touch(tx, "customaction", action.id)
        return {"id": str(action.id)}


@dataclass(frozen=True)
class EditAction(_Declaring):
    """Change a custom action; what runs already goes on as it was."""

    customaction_id: UUID
    action_name: str | None = None
    hook: str | None = None
    args: tuple[str, ...] | None = None
    timeout_s: int | None = None
    description: str | None = None
    name, permission = "customaction.edit", "customaction.edit"

    def title(self, tx: Tx) -> str:
        return f"Change custom action {get(tx, CustomAction, self.customaction_id).name}"

    def _wanted(self, action: CustomAction) -> tuple[str, str, list[str], int]:
        args = list(action.args if self.args is None else self.args)
        return self.action_name or action.name, self.hook or action.hook, args, self.timeout_s or action.timeout_s

    def check(self, tx: Tx) -> None:
        action = get(tx, CustomAction, self.customaction_id)
        name, hook, args, timeout_s = self._wanted(action)
        require_action(name, action.target, hook, args, timeout_s)
        self._require_free(tx, name, action.id)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        action = get(tx, CustomAction, self.customaction_id, lock=True)
        action.name, action.hook, action.args, action.timeout_s = self._wanted(action)
        action.description = action.description if self.description is None else self.description
        record(tx, "customaction.edited", action, actor=actor.name, hook=action.hook)
        touch(tx, "customaction", action.id)


@dataclass(frozen=True)
class RemoveAction(_Declaring):
    """Take a custom action back; what runs already goes on."""

    customaction_id: UUID
    name, permission = "customaction.remove", "customaction.edit"

    def title(self, tx: Tx) -> str:
        return f"Remove custom action {get(tx, CustomAction, self.customaction_id).name}"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        action = get(tx, CustomAction, self.customaction_id)
        record(tx, "customaction.removed", action, actor=actor.name)
        touch(tx, "customaction", action.id)
        tx.delete(action)


class _Running(Plain):
    """The one step of running a hook: what it wrote becomes the task's result."""

    customaction_id: UUID
    steps = ("hook",)

    def _action(self, tx: Tx, target: str) -> CustomAction:
        action = get(tx, CustomAction, self.customaction_id)
        if action.target != target:
            sentence = f"The custom action {action.name} is for a {action.target}, not for a {target}."
            raise Invalid("wrong_target", sentence, fields=["customaction_id"])
        return action

    def _call(self, action: CustomAction, host_id: UUID, job: Job, facts: dict[str, str]) -> Call:
        facts = facts | {"ACTION": action.name, "ACTOR": job.actor.name, "TASK": str(job.task_id)}
        return Call(host_id, "run_hook", {"hook": action.hook, "args": tuple(action.args), "facts": facts,
                                          "timeout_s": action.timeout_s})  # fmt: skip

    def hook_done(self, tx: Tx, job: Job, result: HookOutput) -> None:
        get(tx, Task, job.task_id).result = {"output": result.output, "cut": result.cut}
        self._told(tx, job, "ran")

    def hook_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        self._told(tx, job, "failed", why=failure.message)

    def _told(self, tx: Tx, job: Job, how: str, **words: Any) -> None:
        kind, id = self.target(tx)  # type: ignore[attr-defined]
        action = tx.get(CustomAction, self.customaction_id)
        thing = get(tx, Vm if kind == "vm" else Host, id)
        called = action.name if action is not None else "that was removed meanwhile"
        record(tx, f"{kind}.action_{how}", thing, actor=job.actor.name, task_id=job.task_id, action=called, **words)


@dataclass(frozen=True)
class RunVmAction(_Running):
    """Run a custom action for a VM that runs, on the host where it is; what its hook writes is the task's result."""

    vm_id: UUID
    customaction_id: UUID
    name, permission = "vm.run_action", "vm.run_action"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "vm", self.vm_id

    def title(self, tx: Tx) -> str:
        return f"{get(tx, CustomAction, self.customaction_id).name}: VM {get(tx, Vm, self.vm_id).name}"

    def check(self, tx: Tx) -> None:
        self._action(tx, "vm")
        vm = get(tx, Vm, self.vm_id)
        if vm.state not in RUNS or vm.host_id is None:
            raise Impossible("wrong_state", f"VM {vm.name} is {vm.state.replace('_', ' ')}; a custom action runs on the host "
                             "where the VM runs.", state=vm.state)  # fmt: skip

    def hook(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        vm = get(tx, Vm, self.vm_id)
        assert vm.host_id is not None
        facts = {"VM_ID": str(vm.id), "VM_NAME": vm.name, "HOST_NAME": get(tx, Host, vm.host_id).name}
        return self._call(self._action(tx, "vm"), vm.host_id, job, facts)


@dataclass(frozen=True)
class RunHostAction(_Running):
    """Run a custom action for a host, there; what its hook writes is the task's result."""

    host_id: UUID
    customaction_id: UUID
    name, permission = "host.run_action", "host.run_action"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"{get(tx, CustomAction, self.customaction_id).name}: host {get(tx, Host, self.host_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"host-action:{self.host_id}:{self.customaction_id}"]  # it holds up nothing else on the host

    def check(self, tx: Tx) -> None:
        self._action(tx, "host")
        host = get(tx, Host, self.host_id)
        if host.state not in REACHED:
            sentence = f"Host {host.name} is {host.state.replace('_', ' ')}; a custom action needs one that answers."
            raise Impossible("wrong_state", sentence, state=host.state)

    def hook(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        host = get(tx, Host, self.host_id)
        return self._call(self._action(tx, "host"), host.id, job, {"HOST_ID": str(host.id), "HOST_NAME": host.name})
