"""What follows from proof that a host is off: its VMs are free, and those that are highly available are to run again."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.db import Tx
from backend.events import move, record
from backend.ha.models import Outage, Restart
from backend.hosts.models import Host
from backend.vms.guests import end_sessions
from backend.vms.machine import NOT_RUNNING, VM
from backend.vms.models import Vm

WANTED_DOWN = ("powering_down", "saving_state")  # somebody was about to have it so


def prove_off(tx: Tx, host: Host, how: str, now: datetime) -> None:
    """The host is off, `how` says who proved it: none of its VMs runs, and nothing that it was asked before is being done."""
    host.proved_off_at = now
    record(tx, "host.proved_off", host, how=how)
    vms = sa.select(Vm).where(Vm.host_id == host.id, Vm.state.not_in(NOT_RUNNING))
    order = (Vm.priority.desc(), sa.func.length(Vm.name), Vm.name)
    for vm in tx.scalars(vms.order_by(*order).with_for_update().execution_options(populate_existing=True)):
        if not VM.may(vm.state, "host_lost"):
            continue  # a migration knows of two hosts: its own task resolves it
        was, why = vm.state, f"Its host {host.name} was proved to be off."
        sets = {} if was == "restoring_state" else {"saved_path": ""}
        move(tx, vm, "host_lost", words={"host": host.name}, host_id=None, guest=None, why=why, ended_by="lost", **sets)
        end_sessions(tx, vm, now)
        if was not in WANTED_DOWN:
            want_restart(tx, vm, now)
    outage = tx.get(Outage, host.id)
    if outage is not None:
        outage.why, outage.gave_up = "", False


def want_restart(tx: Tx, vm: Vm, now: datetime) -> None:
    """A VM went down without being asked to: if it is highly available, it is to run again."""
    if vm.high_availability:
        row = pg.insert(Restart).values(vm_id=vm.id, since=now, tries=0, failed=0, why="")
        tx.execute(row.on_conflict_do_nothing())
