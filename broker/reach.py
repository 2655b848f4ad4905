"""From rows to what `access` judges: the rules, where a session asks from, and its answer for one desktop."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.devices import enrolling
from backend.devices.enrolling import DeviceFacts
from broker.access import Rule, Verdict, Whence, judge, read_network
from broker.models import AccessRule


def whence(tx: Tx, session_id: UUID, address: str) -> Whence:
    """Where this session asks from now: this address, and the device it was begun at."""
    return at(address, enrolling.of_session(tx, session_id))


def at(address: str, device: DeviceFacts | None) -> Whence:
    """The same from facts that are known already."""
    if device is None:
        return Whence(address)
    return Whence(address, device.id, device.name, device.protocols)


_RULES = sa.select(
    AccessRule.id, AccessRule.position, AccessRule.name, AccessRule.effect, AccessRule.pool_id, AccessRule.network,
    AccessRule.device_id, AccessRule.enrolled, AccessRule.protocols, AccessRule.sentence,
).order_by(AccessRule.position)  # fmt: skip


def rules(tx: Tx) -> list[Rule]:
    """All access rules as plain data, in their order."""
    rows = tx.execute(_RULES)
    return [
        Rule(
            row.id, row.position, row.name, "allow" if row.effect == "allow" else "deny", row.pool_id, read_network(row.network),
            row.device_id, row.enrolled, tuple(row.protocols), row.sentence,
        )
        for row in rows
    ]  # fmt: skip


def verdict(tx: Tx, *, name: str, pool_id: UUID | None, offered: Sequence[str], from_: Whence) -> Verdict:
    """What the rules say of this desktop from there."""
    return judge(rules(tx), name=name, pool_id=pool_id, offered=offered, whence=from_)
