"""Where a VM would go now and why not elsewhere, and where it went and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from backend import facts
from backend.db import Tx
from backend.hosts.models import Host
from backend.placement.models import VmPlacement
from backend.scheduling.facts import HostFacts, Policy, VmFacts
from backend.scheduling.place import parts, plus, reasons
from backend.vms.machine import NOT_RUNNING
from backend.vms.models import Vm

MOST = 200  # hosts that are told of; of a larger cluster the best, and then those that cannot


@dataclass(frozen=True)
class Told:
    """A host as it is told of: its score with its parts, or every reason against it."""

    host_id: str
    host: str
    score: float | None
    parts: dict[str, float]
    reasons: list[str]
    runs_here: bool


@dataclass(frozen=True)
class Outlook:
    """Where the VM would go now, and the last decision as it was kept."""

    policy: str
    sentence: str
    hosts: list[Told]
    possible: int
    last: dict[str, Any] | None


def outlook(tx: Tx, vm: Vm) -> Outlook:
    """Where this VM would go if it were started now; one that runs is thought away first."""
    wanted, rules = facts.of_vm(tx, vm), facts.policy(tx, vm.cluster_id)
    hosts = facts.of_hosts(tx, vm.cluster_id, wanted=wanted)
    if vm.state not in NOT_RUNNING:
        hosts = [plus(host, wanted, -1) if host.host_id in (vm.host_id, vm.destination_id) else host for host in hosts]
    told = sorted((_told(wanted, host, rules, vm) for host in hosts), key=_best_first)
    fit = [one for one in told if one.score is not None]
    if fit:
        sentence = f"It would go to host {fit[0].host}."
        if fit[0].runs_here:
            sentence = f"It runs where it would go: on host {fit[0].host}."
    else:
        sentence = "No host can take it at the moment." if told else "Its cluster has no hosts."
    return Outlook(rules.name, sentence, told[:MOST], len(fit), last(tx, vm))


def last(tx: Tx, vm: Vm) -> dict[str, Any] | None:
    """What was decided when it was last placed, or None when it never was."""
    row: Any = tx.execute(
        sa.select(VmPlacement.at, VmPlacement.policy, VmPlacement.decision, Host.name)
        .outerjoin(Host, Host.id == VmPlacement.host_id).where(VmPlacement.vm_id == vm.id)
    ).first()  # fmt: skip
    if row is None:
        return None
    at: datetime = row.at
    return {"at": at, "policy": row.policy, "host": row.name, **row.decision}


def _told(wanted: VmFacts, host: HostFacts, rules: Policy, vm: Vm) -> Told:
    why = reasons(wanted, host, rules)
    each = {} if why else {name: round(value, 3) for name, value in parts(wanted, host, rules).items()}
    here = host.host_id == vm.host_id and vm.state not in NOT_RUNNING
    return Told(str(host.host_id), host.name, None if why else round(sum(each.values()), 3), each, why, here)


def _best_first(one: Told) -> tuple[bool, float, str]:
    return one.score is None, -(one.score or 0.0), one.host
