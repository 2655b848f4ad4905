"""Show people inside a guest a message, lock their screens, log them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.tasks.command import Call, Job
from backend.vms.commands.power import OnVm
from backend.vms.models import Vm

LONGEST = 1000


class _InGuest(OnVm):
    """What the guest agent is asked to do."""

    steps = ("act",)
    action, said = "", ""

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        if vm.state != "up":
            raise Impossible(
                "wrong_state", f"VM {vm.name} is {vm.state.replace('_', ' ')}; people are in it when it is up.", state=vm.state
            )
        if not vm.guest_agent:
            raise Impossible("no_guest_agent", f"VM {vm.name} has no guest agent, so that nothing can be asked of its guest.")

    def act(self, tx: Tx, job: Job) -> Call:
        self.check(tx)
        vm = get(tx, Vm, self.vm_id)
        assert vm.host_id is not None
        return Call(vm.host_id, "guest_action", {"vm_id": vm.id, "action": self.action, "text": self._text()})

    def _text(self) -> str:
        return ""

    def act_done(self, tx: Tx, job: Job, result: Any) -> None:
        record(tx, self.said, get(tx, Vm, self.vm_id), actor=job.actor.name, task_id=job.task_id)


@dataclass(frozen=True)
class MessageVm(_InGuest):
    """Show the people inside a VM a message."""

    vm_id: UUID
    text: str
    name, permission, verb = "vm.message", "vm.operate", "Send a message to"
    action, said = "message", "vm.message_shown"

    def _text(self) -> str:
        return self.text

    def check(self, tx: Tx) -> None:
        super().check(tx)
        if not 1 <= len(self.text.strip()) <= LONGEST or not self.text.replace("\r\n", " ").replace("\n", " ").isprintable():
            sentence = f"A message has between 1 and {LONGEST:,} characters that can be printed."
            raise Invalid("bad_text", sentence, fields=["text"])


@dataclass(frozen=True)
class LockGuest(_InGuest):
    """Lock the screens of the people inside a VM; what they do goes on."""

    vm_id: UUID
    name, permission, verb = "vm.lock_guest", "vm.operate", "Lock the screen of"
    action, said = "lock", "vm.guest_locked"


@dataclass(frozen=True)
class LogOutGuest(_InGuest):
    """Log everybody out inside a VM; what they have not saved is lost."""

    vm_id: UUID
    name, permission, verb = "vm.log_out_guest", "vm.operate", "Log people out of"
    action, said = "log_out", "vm.guest_log_out"
