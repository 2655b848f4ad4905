"""“Would alice from 10.1.2.3 be let in to Desktops?”: what entitlement and access rules say, without asking for anything."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address
from typing import Any
from uuid import UUID

from backend.db import Tx, get
from backend.devices.enrolling import facts_of
from backend.devices.models import Device
from backend.directory import rights
from backend.directory.models import Membership, User
from backend.errors import Invalid
from broker import reach
from broker.access import told
from pools import facts
from pools.models import Pool
from pools.rules import entitled


def would(
    tx: Tx, *, user_id: UUID, pool_id: UUID, address: str, device_id: UUID | None = None, now: datetime
) -> dict[str, Any]:
    """allowed, sentence, protocols, the rule that decided and all that were looked at. A device counts as enrolled."""
    try:
        ip_address(address.strip())
    except ValueError:
        raise Invalid("bad_address", f"“{address[:60]}” is no address: write it as 10.1.2.3 or 2001:db8::7.",
                      fields=["address"]) from None
    pool, person = get(tx, Pool, pool_id), facts.person(tx, get(tx, User, user_id).id)
    device = get(tx, Device, device_id) if device_id else None
    from_ = reach.at(address.strip(), facts_of(device) if device else None)
    good, _ = entitled(rights.grants_of(tx, user_id), facts.pool_path(tx, pool), now)
    said = reach.verdict(tx, name=pool.name, pool_id=pool.id, offered=pool.protocols, from_=from_)
    answer = told(said, from_)
    over = " and ".join(p.upper() for p in said.protocols)
    if device is not None and device.group_id is not None and not _belongs(tx, user_id, device.group_id):
        why = f"{device.name} is for another group's people"
    elif not good:
        why = f"{person} is not entitled to {pool.name} now"
    elif not said.allowed:
        why = said.sentence.rstrip(".")
    else:
        return answer | {"sentence": f"Yes: {person} from {from_} would be let in to {pool.name}, over {over}."}
    return answer | {"allowed": False, "protocols": [], "sentence": f"No, {person} from {from_} would not be let in: {why}."}


def _belongs(tx: Tx, user_id: UUID, group_id: UUID) -> bool:
    return tx.get(Membership, (user_id, group_id)) is not None
