"""What stands on a VM's page besides its facts."""

from __future__ import annotations

from typing import Any

from backend.vms.once import told
from portal.thing import Thing


def beside(thing: Thing, row: dict[str, Any]) -> dict[str, Any]:
    """What this run has otherwise, in words."""
    return {"once": told(row["run_once"]) if thing.kind == "vm" and row["run_once"] else ""}
