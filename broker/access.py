"""Pure: may this desktop be reached from this address and device, over which protocols, else why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Literal
from uuid import UUID

from backend.errors import Invalid

EFFECTS = ("allow", "deny")


@dataclass(frozen=True)
class Rule:
    """A rule as plain data. It fits when everything that it names is so: pool, network, device, "enrolled devices alone"."""

    id: UUID
    position: int
    name: str
    effect: Literal["allow", "deny"]
    pool_id: UUID | None = None
    network: IPv4Network | IPv6Network | None = None
    device_id: UUID | None = None
    enrolled: bool = False
    protocols: tuple[str, ...] = ()
    sentence: str = ""


@dataclass(frozen=True)
class Whence:
    """Where somebody asks from: an address, and the enrolled device they stand before, if it is one."""

    address: str = ""
    device_id: UUID | None = None
    device: str = ""
    device_protocols: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " at ".join(filter(None, (self.address or "an unknown address", self.device)))


@dataclass(frozen=True)
class Verdict:
    """Over which protocols the desktop may be reached; none: it may not, and the sentence says why. `rule` decided,
    `looked` tells of each rule that was looked at what came of it."""

    protocols: tuple[str, ...]
    sentence: str = ""
    rule: str = ""
    looked: tuple[tuple[str, str], ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether it may be reached at all."""
        return bool(self.protocols)


def judge(rules: Iterable[Rule], *, name: str, pool_id: UUID | None, offered: Sequence[str], whence: Whence) -> Verdict:
    """What the rules say of this desktop; it belongs to no pool when `pool_id` is None.

    In order: a rule that allows ends the search, and leaves the protocols it names; one that denies takes away those it
    names, and ends the search when none are left. What no rule speaks of is allowed."""
    left, by, looked = tuple(offered), "", list[tuple[str, str]]()
    for rule in sorted(rules, key=lambda r: (r.position, str(r.id))):
        if (unlike := _unlike(rule, pool_id, whence)) is not None:
            looked.append((rule.name, unlike))
            continue
        named = tuple(p for p in left if not rule.protocols or p in rule.protocols)
        left = named if rule.effect == "allow" else tuple(p for p in left if p not in named)
        over = f" over {_words(rule.protocols)}" if rule.protocols else ""
        looked.append((rule.name, f"{'allows' if rule.effect == 'allow' else 'denies'} it{over}"))
        by = rule.name
        if not left:
            return Verdict((), rule.sentence or f"{name} cannot be reached from here. Your administrator decides from where it "
                           "can.", by, tuple(looked))
        if rule.effect == "allow":
            break
    shown = tuple(p for p in left if not whence.device_protocols or p in whence.device_protocols)
    if not shown:
        able = _words(whence.device_protocols)
        sentence = f"{whence.device} shows desktops over {able} alone, and here {name} offers {_words(left)}."
        return Verdict((), sentence, by, tuple(looked))
    return Verdict(shown, "", by, tuple(looked))


def barred(
    rules: Iterable[Rule], *, name: str, pool_id: UUID | None, offered: Sequence[str], protocol: str, whence: Whence
) -> tuple[str, str]:
    """Why a console over this protocol cannot be shown there, and the rule that says so; "" when it can.

    A ticket that is redeemed and a console that is open are judged by it, as connecting was by `judge`: by the rules and
    not by what the desktop offers by now."""
    known = tuple(dict.fromkeys((*offered, protocol)))
    said = judge(rules, name=name, pool_id=pool_id, offered=known, whence=whence)
    if protocol in said.protocols:
        return "", ""
    only = f"From here {name} can be reached over {_words(said.protocols)} alone, not over {protocol.upper()}."
    return said.sentence or only, said.rule


def _unlike(rule: Rule, pool_id: UUID | None, whence: Whence) -> str | None:
    """Why the rule does not speak of this; None when it does."""
    if rule.pool_id is not None and rule.pool_id != pool_id:
        return "is about another pool"
    if rule.network is not None and not within(whence.address, rule.network):
        return f"is about {rule.network}"
    if rule.device_id is not None and rule.device_id != whence.device_id:
        return "is about another device"
    if rule.enrolled and whence.device_id is None:
        return "is about enrolled devices alone"
    return None


def within(address: str, network: IPv4Network | IPv6Network) -> bool:
    """Whether the address lies in the network; an IPv4 address in IPv6's clothes counts as what it is."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.version == network.version and ip in network


def read_network(text: str) -> IPv4Network | IPv6Network | None:
    """The network that was written, as 10.1.0.0/16 or a single address; None for nothing. `Invalid` in words otherwise."""
    if not text.strip():
        return None
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise Invalid("bad_network", f"“{text.strip()[:60]}” is no network: write it as 10.1.0.0/16 or 2001:db8::/32, or a "
                      "single address as 10.1.2.3.", fields=["network"]) from None


def told(verdict: Verdict, whence: Whence) -> dict[str, Any]:
    """The verdict as a decision keeps it."""
    return {
        "from": str(whence), "allowed": verdict.allowed, "protocols": list(verdict.protocols), "rule": verdict.rule,
        "sentence": verdict.sentence, "looked": [{"rule": rule, "said": said} for rule, said in verdict.looked],
    }


def _words(protocols: Iterable[str]) -> str:
    return " and ".join(p.upper() for p in protocols)
