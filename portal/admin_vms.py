"""What stands on a VM's page besides its facts."""

from __future__ import annotations

from typing import Any

from backend.vms.once import told
from portal.placement import looked
from portal.thing import Thing
from portal.views import may_see


def beside(thing: Thing, row: dict[str, Any]) -> dict[str, Any]:
    """What this run has otherwise, in words; where it would go and why it is where it is."""
    if thing.kind != "vm":
        return {"once": ""}
    return {"once": told(row["run_once"]) if row["run_once"] else "", "outlook": looked(row["id"]) if may_see("host") else None}
