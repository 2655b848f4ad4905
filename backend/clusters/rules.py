"""Pure: which CPU the VMs of a cluster are given, so that each of its hosts can run them, and what a host lacks of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from hostapi.types import Cpu, HostCpu

NAMED = 4  # features that a sentence names; the others are counted


@dataclass(frozen=True)
class HostOf:
    """A host of the cluster and the kind of its CPU; nothing while it has not said."""

    host_id: UUID
    name: str
    cpu_id: str | None


def lacking(cpu: Cpu, host: HostCpu) -> str:
    """What keeps a host from giving this CPU to a VM, as a sentence; nothing when it can."""
    if not cpu.features:  # a model by its name alone
        return "" if cpu.model in host.models else f"its processor cannot be a {cpu.model}."
    if cpu.vendor and host.cpu.vendor and cpu.vendor != host.cpu.vendor:
        return f"its processor is one of {host.cpu.vendor}'s, not of {cpu.vendor}'s."
    missing = sorted(set(cpu.features) - set(host.cpu.features))
    if not missing:
        return ""
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"its processor lacks {', '.join(missing[:NAMED])}{more}."


def counted(
    hosts: Sequence[HostOf], kinds: Mapping[str, HostCpu], in_use: Collection[str], now_given: str | None
) -> list[HostOf]:
    """The hosts whose common CPU is the cluster's. Those that cannot run the VMs which run now (`in_use`: the kinds of CPU
    that they were given) are left out: the cluster's CPU is not lowered under VMs that could not go there. Of several
    vendors that of the CPU given so far counts, or that of most hosts."""
    used = [kinds[id].cpu for id in in_use if id in kinds]
    told = [(host, kinds[host.cpu_id]) for host in hosts if host.cpu_id and host.cpu_id in kinds]
    fit = [(host, kind) for host, kind in told if not any(lacking(cpu, kind) for cpu in used)]
    vendors = Counter(kind.cpu.vendor for _, kind in fit)
    given = kinds[now_given].cpu.vendor if now_given and now_given in kinds else None
    chosen = given if given in vendors else min(vendors, key=lambda vendor: (-vendors[vendor], vendor), default="")
    return [host for host, kind in fit if kind.cpu.vendor == chosen]


def models_of(hosts: Sequence[HostOf], kinds: Mapping[str, HostCpu]) -> list[str]:
    """The models that at least one of these hosts can give to VMs by name."""
    return sorted({model for host in hosts if host.cpu_id and host.cpu_id in kinds for model in kinds[host.cpu_id].models})
