"""What stands on a VM's page besides its facts."""

from __future__ import annotations

from typing import Any

from backend.vms import edits, once
from portal.placement import looked
from portal.thing import Thing
from portal.views import may_see


def beside(thing: Thing, row: dict[str, Any]) -> dict[str, Any]:
    """What this run has otherwise and what the next one changes, in words; where it would go and why it is where it is."""
    if thing.kind != "vm":
        return {"once": ""}
    said = {"once": once.told(row["run_once"]) if row["run_once"] else "", "next_run": edits.told(row, row["next_run"])}
    return said | {"outlook": looked(row["id"]) if may_see("host") else None}
