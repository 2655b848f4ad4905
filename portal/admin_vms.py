"""What stands on a VM's page besides its facts."""

from __future__ import annotations

from typing import Any

from backend.db import get
from backend.vms import edits, once
from backend.vms.destinations import destinations
from backend.vms.models import Vm
from portal.forms import Form
from portal.placement import looked
from portal.routes import read_uuid
from portal.thing import Thing
from portal.transaction import tx
from portal.views import may_see


def beside(thing: Thing, row: dict[str, Any]) -> dict[str, Any]:
    """What this run has otherwise and what the next one changes, in words; where it would go and why it is where it is."""
    if thing.kind != "vm":
        return {"once": ""}
    said = {"once": once.told(row["run_once"]) if row["run_once"] else "", "next_run": edits.told(row, row["next_run"])}
    return said | {"outlook": looked(row["id"]) if may_see("host") else None}


def choose_host(form: Form, vm_id: str) -> None:
    """The hosts that a VM can be migrated to, the best first, and after them those that cannot take it, with the reason."""
    known, made = destinations(tx(), get(tx(), Vm, read_uuid(vm_id, "vm"))), form.inputs["host_id"]
    made.options = tuple((str(one.host_id), one.why or one.host) for one in known)
    made.closed = frozenset(str(one.host_id) for one in known if one.why)
    made.blank = "The best one"
