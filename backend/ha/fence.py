"""Restart a host, switch it off or on, or ask for its power: by its power agents, through other hosts, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.clusters.models import Cluster
from backend.db import Tx, get
from backend.errors import Impossible
from backend.events import move, record
from backend.ha.models import Outage, PowerAgent
from backend.ha.proof import prove_off
from backend.hosts.machine import HOST
from backend.hosts.models import Host
from backend.tasks.command import AGAIN, Actor, Call, Job, Plain
from backend.tasks.models import ResourceLock, Step
from backend.tasks.submit import submit
from backend.vms.machine import NOT_RUNNING
from backend.vms.models import Vm
from hostapi.types import Failure, FenceSpec, PowerAction, PowerReport, PowerSpec, Secret

FENCE_S = 30  # how long a proxy host may be at it
MOST_PROXIES = 3
GONE = timedelta(seconds=FENCE_S + 5)  # after which a proxy that does not answer is at it no more


def groups_of(tx: Tx, host_id: UUID) -> dict[int, tuple[PowerSpec, ...]]:
    """The host's power agents by their number: groups are tried in this order."""
    found: dict[int, list[PowerSpec]] = {}
    order = (PowerAgent.order, PowerAgent.type, PowerAgent.address)
    for one in tx.scalars(sa.select(PowerAgent).where(PowerAgent.host_id == host_id).order_by(*order)):
        password = Secret(f"sealed:{one.password_sealed}") if one.password_sealed else None
        spec = PowerSpec(one.type, one.address, one.port, one.username, password, one.encrypt, dict(one.options))
        found.setdefault(one.order, []).append(spec)
    return {order: tuple(specs) for order, specs in found.items()}


def proxies_of(tx: Tx, host: Host) -> list[UUID]:
    """Hosts that may be asked to switch it: those of its cluster first, then of its data center; the freshest answer first."""
    center = sa.select(Cluster.data_center_id).where(Cluster.id == host.cluster_id).scalar_subquery()
    near = sa.select(Host.id).join(Cluster, Cluster.id == Host.cluster_id).where(
        Host.state == "up", Host.id != host.id, Cluster.data_center_id == center)
    order = ((Host.cluster_id != host.cluster_id), Host.silences, Host.name)
    return list(tx.scalars(near.order_by(*order).limit(MOST_PROXIES)))


def being_fenced(tx: Tx) -> set[UUID]:
    """Hosts whose power a task is at."""
    held = tx.scalars(sa.select(ResourceLock.resource).where(ResourceLock.resource.like("power:%")))
    return {UUID(resource.removeprefix("power:")) for resource in held}


class OnPower(Plain):
    """What the commands at a host's power share: each step tries every group of agents, each through every proxy."""

    host_id: UUID
    force: bool
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"{self.verb} host {get(tx, Host, self.host_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return [f"power:{self.host_id}"]

    def check(self, tx: Tx) -> None:
        host = get(tx, Host, self.host_id)
        if not groups_of(tx, host.id):
            raise Impossible("no_power_agent", f"Host {host.name} has no power agent; add one first.")
        if not proxies_of(tx, host):
            raise Impossible("no_proxy", f"No other host is up that could reach the power agents of host {host.name}.")

    def require_empty(self, tx: Tx) -> None:
        """Refuse to cut the power of running VMs unless that is what is wanted."""
        host = get(tx, Host, self.host_id)
        running = sa.select(sa.func.count()).where(Vm.host_id == host.id, Vm.state.not_in(NOT_RUNNING))
        if not getattr(self, "force", False) and host.state not in ("non_responsive", "down") and (vms := tx.scalar(running)):
            raise Impossible("host_has_vms", f"Host {host.name} runs {vms} VM(s). Put it into maintenance first, or force it: "
                             "then they lose their power.", vms=vms)

    def _call(self, tx: Tx, job: Job, step: str, action: PowerAction) -> Call:
        host = get(tx, Host, self.host_id)
        way = next(self._ways(tx, job, step, host), None)
        if way is None:
            raise Impossible("not_fenced", f"None of the power agents of host {host.name} could be asked.")
        group, agents, proxy = way
        return Call(proxy, "fence", {"spec": FenceSpec(action, agents, group, FENCE_S)})

    def _ways(self, tx: Tx, job: Job, step: str, host: Host) -> Iterator[tuple[int, tuple[PowerSpec, ...], UUID]]:
        """Group, agents and proxy of what this task has not tried in this step."""
        asked = sa.select(Step).where(Step.task_id == job.task_id, Step.name == step, Step.host_id.is_not(None))
        tried = {(row.args["spec"]["group"], row.host_id) for row in tx.scalars(asked)}
        proxies = proxies_of(tx, host)
        for group, agents in groups_of(tx, host.id).items():
            yield from ((group, agents, proxy) for proxy in proxies if (group, proxy) not in tried)

    def _again(self, tx: Tx, job: Job, step: str) -> bool:
        return not job.cancelled and next(self._ways(tx, job, step, get(tx, Host, self.host_id)), None) is not None

    def _silent(self, job: Job, since: datetime) -> Failure | None:
        if job.now - since < GONE:
            return None
        return Failure("proxy_silent", "The host that was asked to do it does not answer.")


class SwitchingOff(OnPower):
    """The step that proves a host off."""

    def off(self, tx: Tx, job: Job) -> Call:
        host = get(tx, Host, self.host_id, lock=True)
        if HOST.may(host.state, "fence"):
            move(tx, host, "fence")
        return self._call(tx, job, "off", "off")

    def off_done(self, tx: Tx, job: Job, report: PowerReport) -> None:
        host = get(tx, Host, self.host_id, lock=True)
        if report.power != "off":
            raise Impossible("not_fenced", f"The power agent of host {host.name} does not say that it is off.")
        prove_off(tx, host, "its power agent says so", job.now)

    def off_failed(self, tx: Tx, job: Job, failure: Failure) -> str | None:
        if self._again(tx, job, "off"):
            return AGAIN
        host = get(tx, Host, self.host_id, lock=True)
        if (outage := tx.get(Outage, host.id)) is not None:
            outage.tries, outage.tried_at = outage.tries + 1, job.now
        record(tx, "host.not_fenced", host, task_id=job.task_id, why=failure.message)
        if HOST.may(host.state, "fence_failed"):
            move(tx, host, "fence_failed")
        return None

    def off_silent(self, tx: Tx, job: Job, since: datetime) -> Failure | None:
        return self._silent(job, since)


class SwitchingOn(OnPower):
    """The step that gives a host its power; it counts as up when it answers."""

    def on(self, tx: Tx, job: Job) -> Call:
        host = get(tx, Host, self.host_id, lock=True)
        if HOST.may(host.state, "switch_on"):
            move(tx, host, "switch_on")
        return self._call(tx, job, "on", "on")

    def on_done(self, tx: Tx, job: Job, report: PowerReport) -> None:
        record(tx, "host.switched_on", get(tx, Host, self.host_id), task_id=job.task_id)

    def on_failed(self, tx: Tx, job: Job, failure: Failure) -> str | None:
        if self._again(tx, job, "on"):
            return AGAIN
        host = get(tx, Host, self.host_id, lock=True)
        record(tx, "host.stays_off", host, task_id=job.task_id, why=failure.message)
        if HOST.may(host.state, "switched_off"):
            move(tx, host, "switched_off")
        return None

    def on_silent(self, tx: Tx, job: Job, since: datetime) -> Failure | None:
        return self._silent(job, since)


@dataclass(frozen=True)
class RebootHost(SwitchingOff, SwitchingOn):
    """Restart a host by its power agents: off, and on again once it is proved off."""

    host_id: UUID
    force: bool = False
    name, permission, steps = "host.reboot", "host.fence", ("off", "on")
    verb = "Reboot"

    def check(self, tx: Tx) -> None:
        super().check(tx)
        self.require_empty(tx)


@dataclass(frozen=True)
class PowerOffHost(SwitchingOff):
    """Switch a host off by its power agents."""

    host_id: UUID
    force: bool = False
    name, permission, steps = "host.power_off", "host.fence", ("off",)
    verb = "Power off"

    def check(self, tx: Tx) -> None:
        super().check(tx)
        self.require_empty(tx)

    def off_done(self, tx: Tx, job: Job, report: PowerReport) -> None:
        super().off_done(tx, job, report)
        host = get(tx, Host, self.host_id)
        if HOST.may(host.state, "switched_off"):
            move(tx, host, "switched_off")


@dataclass(frozen=True)
class PowerOnHost(SwitchingOn):
    """Give a host its power by its power agents."""

    host_id: UUID
    name, permission, steps = "host.power_on", "host.fence", ("on",)
    verb = "Power on"


@dataclass(frozen=True)
class TestPower(OnPower):
    """Ask a host's power agents whether it is on."""

    host_id: UUID
    name, permission, steps = "host.test_power", "host.fence", ("status",)
    verb = "Ask for the power of"

    def locks(self, tx: Tx) -> list[str]:
        return []  # a question changes nothing: who wants to switch the power does not wait for its answer

    def status(self, tx: Tx, job: Job) -> Call:
        return self._call(tx, job, "status", "status")

    def status_done(self, tx: Tx, job: Job, report: PowerReport) -> None:
        host = get(tx, Host, self.host_id)
        outage = tx.get(Outage, host.id)
        if not job.actor.is_system or outage is None or outage.power_said != report.power:  # asked by a loop, it is told once
            record(tx, "host.power_told", host, task_id=job.task_id, power=report.power)
        self._heard(tx, host, report.power, job.now)

    def status_failed(self, tx: Tx, job: Job, failure: Failure) -> str | None:
        if self._again(tx, job, "status"):
            return AGAIN
        self._heard(tx, get(tx, Host, self.host_id), "", job.now)
        return None

    def status_silent(self, tx: Tx, job: Job, since: datetime) -> Failure | None:
        return self._silent(job, since)

    def _heard(self, tx: Tx, host: Host, power: str, now: datetime) -> None:
        if (outage := tx.get(Outage, host.id)) is not None:
            outage.power_said, outage.power_asked_at = power, now


@dataclass(frozen=True)
class FenceHost(Plain):
    """Do to a host's power what `action` says; what comes of it is in the task that this one names."""

    host_id: UUID
    action: Literal["restart", "start", "stop", "status"] = "restart"
    force: bool = False
    name, permission = "host.fence", "host.fence"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"Fence host {get(tx, Host, self.host_id).name}: {self.action}"

    def locks(self, tx: Tx) -> list[str]:
        return []

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        wanted = {
            "restart": RebootHost(self.host_id, self.force),
            "stop": PowerOffHost(self.host_id, self.force),
            "start": PowerOnHost(self.host_id),
            "status": TestPower(self.host_id),
        }[self.action]
        return {"task": str(submit(tx, wanted, actor, now).id)}


@dataclass(frozen=True)
class ConfirmRebooted(Plain):
    """Say that somebody has seen that a host is off or has been rebooted: its VMs are free then."""

    host_id: UUID
    name, permission = "host.confirm_rebooted", "host.fence"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "host", self.host_id

    def title(self, tx: Tx) -> str:
        return f"Confirm that host {get(tx, Host, self.host_id).name} was rebooted"

    def locks(self, tx: Tx) -> list[str]:
        return [f"power:{self.host_id}"]

    def check(self, tx: Tx) -> None:
        host = get(tx, Host, self.host_id)
        HOST.next(host.state, "confirmed_off", host.name)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        host = get(tx, Host, self.host_id, lock=True)
        prove_off(tx, host, f"{actor.name} says so", now)
        move(tx, host, "confirmed_off")
        touch(tx, "host", host.id)
