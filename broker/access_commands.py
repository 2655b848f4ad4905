"""Make, edit, move and remove access rules. They count whenever somebody connects, and for consoles that are open."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa
from msgspec import UNSET, UnsetType

from backend.changes import touch
from backend.db import Tx, get
from backend.devices.models import Device
from backend.errors import Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain
from broker.access import read_network
from broker.models import AccessRule
from pools.models import Pool
from pools.policy import PROTOCOLS


@dataclass(frozen=True)
class CreateAccessRule(Plain):
    """Say from where desktops can be reached: the first rule that fits decides; the new one is looked at last."""

    rule_name: str
    effect: Literal["allow", "deny"]
    pool_id: UUID | None = None  # none: every desktop
    network: str = ""
    device_id: UUID | None = None
    enrolled: bool = False
    protocols: tuple[str, ...] = ()
    sentence: str = ""
    name, permission = "accessrule.create", "accessrule.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "system", None

    def title(self, tx: Tx) -> str:
        return f"Make access rule {self.rule_name}"

    def locks(self, tx: Tx) -> list[str]:
        return ["accessrules"]

    def check(self, tx: Tx) -> None:
        _require_name(tx, self.rule_name, None)
        _require(tx, self.pool_id, self.device_id, self.network, self.protocols)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        rule = AccessRule(
            position=1 + (tx.scalar(sa.select(sa.func.max(AccessRule.position))) or 0), name=self.rule_name.strip(),
            effect=self.effect, pool_id=self.pool_id, network=_written(self.network), device_id=self.device_id,
            enrolled=self.enrolled, protocols=list(self.protocols), sentence=self.sentence.strip(),
        )  # fmt: skip
        tx.add(rule)
        tx.flush()
        record(tx, "accessrule.created", rule, actor=actor.name, what=f"{rule.effect} {in_words(tx, rule)}")
        touch(tx, "accessrule", rule.id)
        return {"id": str(rule.id)}


class _OnRule(Plain):
    accessrule_id: UUID
    verb = ""

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "accessrule", self.accessrule_id

    def title(self, tx: Tx) -> str:
        return f"{self.verb} access rule {get(tx, AccessRule, self.accessrule_id).name}"

    def locks(self, tx: Tx) -> list[str]:
        return ["accessrules"]  # their order is one thing


@dataclass(frozen=True)
class EditAccessRule(_OnRule):
    """Change an access rule; what is left out stays, and null takes a pool or device away."""

    accessrule_id: UUID
    rule_name: str | None = None
    effect: Literal["allow", "deny"] | None = None
    pool_id: UUID | None | UnsetType = UNSET
    network: str | None = None
    device_id: UUID | None | UnsetType = UNSET
    enrolled: bool | None = None
    protocols: tuple[str, ...] | None = None
    sentence: str | None = None
    name, permission, verb = "accessrule.edit", "accessrule.edit", "Edit"

    def check(self, tx: Tx) -> None:
        rule = get(tx, AccessRule, self.accessrule_id)
        if self.rule_name is not None:
            _require_name(tx, self.rule_name, rule.id)
        _require(tx, self.pool_id, self.device_id, self.network or "", self.protocols or ())

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        rule = get(tx, AccessRule, self.accessrule_id, lock=True)
        was = f"{rule.effect} {in_words(tx, rule)}"
        for field in ("rule_name", "effect", "pool_id", "network", "device_id", "enrolled", "protocols", "sentence"):
            value = getattr(self, field)
            if value is UNSET or (value is None and not field.endswith("_id")):
                continue
            if field == "network":
                value = _written(value)
            value = list(value) if isinstance(value, tuple) else value.strip() if isinstance(value, str) else value
            setattr(rule, field.removeprefix("rule_"), value)
        tx.flush()
        record(tx, "accessrule.edited", rule, actor=actor.name, what=f"{was} → {rule.effect} {in_words(tx, rule)}")
        touch(tx, "accessrule", rule.id)


@dataclass(frozen=True)
class MoveAccessRule(_OnRule):
    """Have an access rule looked at earlier or later: at this place, or so many places further down (up: -1)."""

    accessrule_id: UUID
    position: int | None = None
    by: int = 0
    name, permission, verb = "accessrule.move", "accessrule.edit", "Move"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        rows = _in_order(tx)
        rule = next((row for row in rows if row.id == self.accessrule_id), None) or get(tx, AccessRule, self.accessrule_id)
        wanted = (rule.position if self.position is None else self.position) + self.by
        place = min(max(1, wanted), len(rows))
        rows.remove(rule)
        rows.insert(place - 1, rule)
        _number(tx, rows)
        record(tx, "accessrule.moved", rule, actor=actor.name, place=place)


@dataclass(frozen=True)
class RemoveAccessRule(_OnRule):
    """Remove an access rule: those behind it decide from now on."""

    accessrule_id: UUID
    name, permission, verb = "accessrule.remove", "accessrule.edit", "Remove"

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        rule = get(tx, AccessRule, self.accessrule_id, lock=True)
        record(tx, "accessrule.removed", rule, actor=actor.name)
        touch(tx, "accessrule", rule.id)
        tx.delete(rule)
        tx.flush()
        _number(tx, _in_order(tx))


def in_words(tx: Tx, rule: AccessRule) -> str:
    """What the rule is about: Desktops from 10.1.0.0/16 at enrolled devices over SPICE."""
    pool = get(tx, Pool, rule.pool_id).name if rule.pool_id else "every desktop"
    words = [pool, f"from {rule.network}" if rule.network else ""]
    device = get(tx, Device, rule.device_id).name if rule.device_id else "enrolled devices" if rule.enrolled else ""
    words.append(f"at {device}" if device else "")
    words.append(f"over {' and '.join(p.upper() for p in rule.protocols)}" if rule.protocols else "")
    return " ".join(filter(None, words))


def _in_order(tx: Tx) -> list[AccessRule]:
    return list(tx.scalars(sa.select(AccessRule).order_by(AccessRule.position, AccessRule.id).with_for_update()))


def _number(tx: Tx, rows: list[AccessRule]) -> None:
    """Count them anew; those whose place changed are told."""
    for place, row in enumerate(rows, 1):
        if row.position != place:
            row.position = place
            touch(tx, "accessrule", row.id)
    tx.flush()


def _written(network: str) -> str:
    read = read_network(network)
    return "" if read is None else str(read)


def _require_name(tx: Tx, name: str, but: UUID | None) -> None:
    if not 1 <= len(name.strip()) <= 60 or not name.isprintable():
        raise Invalid("bad_name", "A rule's name has between 1 and 60 characters.", fields=["rule_name"])
    other = tx.scalar(sa.select(AccessRule.id).where(AccessRule.name == name.strip()))
    if other is not None and other != but:
        raise Invalid("name_taken", f"There is already a rule named {name.strip()}; choose another name.", fields=["rule_name"])


def _require(tx: Tx, pool_id: Any, device_id: Any, network: str, protocols: tuple[str, ...]) -> None:
    read_network(network)
    if pool_id:
        get(tx, Pool, pool_id)
    if device_id:
        get(tx, Device, device_id)
    if unknown := [p for p in protocols if p not in PROTOCOLS]:
        raise Invalid("bad_protocol", f"“{unknown[0][:40]}” is no protocol of a desktop: {', '.join(PROTOCOLS)}.",
                      fields=["protocols"])
