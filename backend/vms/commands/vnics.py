"""Give a VM network cards, change them, plug them in and out, remove them, while it runs or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.tasks.command import Call, Job, Plain
from backend.vms.commands.power import OnVm
from backend.vms.models import Vm, Vnic
from backend.vms.rules import MAC_PREFIX, next_mac, require_name, require_nic
from hostapi.types import Failure, NicSpec

RUNS = ("powering_up", "up", "paused")
OFF = ("down", "image_locked")
UNPLUG_S = 20


def require_still(vm: Vm) -> None:
    """`Impossible` while nothing can be put into the VM or taken out of it."""
    if vm.state not in (*RUNS, *OFF):
        raise Impossible("wrong_state", f"VM {vm.name} is {vm.state.replace('_', ' ')}; its devices can be changed when it is "
                         "up or down.", state=vm.state)  # fmt: skip


def spec_of(nic: Vnic, **other: Any) -> NicSpec:
    """The network card as its host knows it."""
    return NicSpec(nic.mac, other.get("bridge") or nic.bridge, nic.model, other.get("linked", nic.linked))


@dataclass(frozen=True)
class CreateVnic(OnVm):
    """Give a VM a network card; one that runs gets it at once."""

    vm_id: UUID
    bridge: str
    vnic_name: str = ""  # none: the next of nic1, nic2, …
    mac: str = ""  # none: the next that nobody has
    model: str = "virtio"
    linked: bool = True
    name, permission, steps = "vnic.create", "vm.edit", ("define", "plug")
    verb = "Give a network card to"

    def check(self, tx: Tx) -> None:
        vm = get(tx, Vm, self.vm_id)
        require_still(vm)
        require_nic(self.mac.lower(), self.bridge, self.model)
        if self.vnic_name:
            require_name(self.vnic_name, "network card")
            if tx.scalar(sa.select(Vnic.id).where(Vnic.vm_id == vm.id, Vnic.name == self.vnic_name)):
                sentence = f"VM {vm.name} has a network card named {self.vnic_name} already; choose another name."
                raise Invalid("name_taken", sentence, fields=["vnic_name"])
        if self.mac and (owner := tx.scalar(sa.select(Vm.name).join(Vnic).where(Vnic.mac == self.mac.lower()))):
            sentence = f"A network card of VM {owner} has the address {self.mac.lower()}; choose another one."
            raise Invalid("mac_taken", sentence, fields=["mac"])

    def locks(self, tx: Tx) -> list[str]:
        return [*super().locks(tx), *([f"mac:{self.mac.lower()}"] if self.mac else [])]

    def define(self, tx: Tx, job: Job) -> None:
        """The row; in a VM that runs it is not plugged in yet."""
        self.check(tx)
        vm = get(tx, Vm, self.vm_id)
        taken = set(tx.scalars(sa.select(Vnic.name).where(Vnic.vm_id == vm.id)))
        name = self.vnic_name or next(name for n in range(1, len(taken) + 2) if (name := f"nic{n}") not in taken)
        nic = Vnic(vm_id=vm.id, name=name, mac=self.mac.lower() or _free_mac(tx), bridge=self.bridge, model=self.model,
                   linked=self.linked, plugged=vm.state in OFF)  # fmt: skip
        tx.add(nic)
        tx.flush()
        record(tx, "vm.nic_added", vm, actor=job.actor.name, task_id=job.task_id, nic=name, mac=nic.mac, bridge=nic.bridge)
        touch(tx, "vm", vm.id, pool_id=vm.pool_id)

    def plug(self, tx: Tx, job: Job) -> Call | None:
        vm, nic = get(tx, Vm, self.vm_id), self._made(tx)
        if nic is None or nic.plugged or vm.state not in RUNS or vm.host_id is None:
            return None
        return Call(vm.host_id, "plug_nic", {"vm_id": vm.id, "nic": spec_of(nic)})

    def plug_done(self, tx: Tx, job: Job, result: Any) -> None:
        if nic := self._made(tx):
            nic.plugged = True

    def define_undo(self, tx: Tx, job: Job) -> None:
        """Nothing stays of one that could not be plugged in."""
        if nic := self._made(tx):
            tx.delete(nic)

    def _made(self, tx: Tx) -> Vnic | None:
        """The newest that is not plugged in: the task holds the VM."""
        mine = sa.select(Vnic).where(Vnic.vm_id == self.vm_id, Vnic.plugged.is_(False), Vnic.bridge == self.bridge)
        if self.vnic_name:
            mine = mine.where(Vnic.name == self.vnic_name)
        return tx.scalars(mine.order_by(sa.func.length(Vnic.name).desc(), Vnic.name.desc())).first()


class _OnVnic(Plain):
    """What the commands on one network card share."""

    vnic_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "vm", get(tx, Vnic, self.vnic_id).vm_id

    def title(self, tx: Tx) -> str:
        nic = get(tx, Vnic, self.vnic_id)
        return f"{self.verb} {nic.name} of VM {get(tx, Vm, nic.vm_id).name}"

    def check(self, tx: Tx) -> None:
        require_still(self._both(tx)[0])

    def _both(self, tx: Tx) -> tuple[Vm, Vnic]:
        nic = get(tx, Vnic, self.vnic_id)
        return get(tx, Vm, nic.vm_id), nic

    def _is_in(self, vm: Vm, nic: Vnic) -> UUID | None:
        """The host in whose VM it is plugged in now."""
        return vm.host_id if nic.plugged and vm.state in RUNS else None

    def _told(self, tx: Tx, job: Job, code: str, **words: Any) -> None:
        vm, nic = self._both(tx)
        record(tx, code, vm, actor=job.actor.name, task_id=job.task_id, nic=nic.name, **words)
        touch(tx, "vm", vm.id, pool_id=vm.pool_id)


@dataclass(frozen=True)
class EditVnic(_OnVnic):
    """Put a network card on another bridge, its cable in or out; in a VM that runs, too."""

    vnic_id: UUID
    bridge: str | None = None
    linked: bool | None = None
    name, permission, steps = "vnic.edit", "vm.edit", ("change",)
    verb = "Change"

    def check(self, tx: Tx) -> None:
        super().check(tx)
        nic = get(tx, Vnic, self.vnic_id)
        require_nic(nic.mac, self.bridge or nic.bridge, nic.model)

    def change(self, tx: Tx, job: Job) -> Call | None:
        self.check(tx)
        vm, nic = self._both(tx)
        if (host_id := self._is_in(vm, nic)) is None:
            self._written(tx, job)
            return None
        other = {"bridge": self.bridge, **({} if self.linked is None else {"linked": self.linked})}
        return Call(host_id, "update_nic", {"vm_id": vm.id, "nic": spec_of(nic, **other)})

    def change_done(self, tx: Tx, job: Job, result: Any) -> None:
        self._written(tx, job)

    def _written(self, tx: Tx, job: Job) -> None:
        nic = get(tx, Vnic, self.vnic_id)
        nic.bridge = self.bridge or nic.bridge
        nic.linked = nic.linked if self.linked is None else self.linked
        how = f"on {nic.bridge}, its cable {'in' if nic.linked else 'out'}"
        self._told(tx, job, "vm.nic_changed", how=how)


@dataclass(frozen=True)
class PlugVnic(_OnVnic):
    """Plug a network card in that was unplugged."""

    vnic_id: UUID
    name, permission, steps = "vnic.plug", "vm.edit", ("plug",)
    verb = "Plug in"

    def check(self, tx: Tx) -> None:
        super().check(tx)
        vm, nic = self._both(tx)
        if nic.plugged:
            raise Impossible("plugged", f"{nic.name} of VM {vm.name} is plugged in.")

    def plug(self, tx: Tx, job: Job) -> Call | None:
        self.check(tx)
        vm, nic = self._both(tx)
        if vm.state in RUNS and vm.host_id is not None:
            return Call(vm.host_id, "plug_nic", {"vm_id": vm.id, "nic": spec_of(nic)})
        self.plug_done(tx, job, None) if vm.state in OFF else None
        return None

    def plug_done(self, tx: Tx, job: Job, result: Any) -> None:
        get(tx, Vnic, self.vnic_id).plugged = True
        self._told(tx, job, "vm.nic_plugged")


@dataclass(frozen=True)
class UnplugVnic(_OnVnic):
    """Take a network card out; the guest of a VM that runs is asked to let go of it."""

    vnic_id: UUID
    name, permission, steps = "vnic.unplug", "vm.edit", ("unplug",)
    verb = "Unplug"

    def check(self, tx: Tx) -> None:
        super().check(tx)
        vm, nic = self._both(tx)
        if not nic.plugged:
            raise Impossible("unplugged", f"{nic.name} of VM {vm.name} is not plugged in.")

    def unplug(self, tx: Tx, job: Job) -> Call | None:
        self.check(tx)
        vm, nic = self._both(tx)
        if (host_id := self._is_in(vm, nic)) is not None:
            return Call(host_id, "unplug_nic", {"vm_id": vm.id, "mac": nic.mac, "timeout_s": UNPLUG_S})
        self.unplug_done(tx, job, None)
        return None

    def unplug_done(self, tx: Tx, job: Job, result: Any) -> None:
        get(tx, Vnic, self.vnic_id).plugged = False
        self._told(tx, job, "vm.nic_unplugged")

    def unplug_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        self._told(tx, job, "vm.nic_held", why=failure.message)


@dataclass(frozen=True)
class RemoveVnic(_OnVnic):
    """Remove a network card; the guest of a VM that runs is asked to let go of it first."""

    vnic_id: UUID
    name, permission, steps, no_return = "vnic.remove", "vm.edit", ("unplug", "forget"), "unplug"
    verb = "Remove"

    def unplug(self, tx: Tx, job: Job) -> Call | None:
        self.check(tx)
        vm, nic = self._both(tx)
        host_id = self._is_in(vm, nic)
        return Call(host_id, "unplug_nic", {"vm_id": vm.id, "mac": nic.mac, "timeout_s": UNPLUG_S}) if host_id else None

    def unplug_failed(self, tx: Tx, job: Job, failure: Failure) -> None:
        self._told(tx, job, "vm.nic_held", why=failure.message)

    def forget(self, tx: Tx, job: Job) -> None:
        self._told(tx, job, "vm.nic_removed")
        tx.delete(get(tx, Vnic, self.vnic_id))


def _free_mac(tx: Tx) -> str:
    """The next address of our own range; one at a time is given."""
    tx.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('leasehold-mac'))"))
    prefix = ":".join(f"{MAC_PREFIX:012x}"[i : i + 2] for i in range(0, 6, 2))
    return next_mac(tx.scalar(sa.select(sa.func.max(Vnic.mac)).where(Vnic.mac.startswith(prefix))))
