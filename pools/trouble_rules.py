"""Pure: what keeps a pool from making or starting desktops, in words, and how long it waits before it tries again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.scheduling.facts import Candidate, HostFacts, Policy, VmFacts

FIRST_S, LONGEST_S = 15, 300  # before something is tried again that came to nothing; twice as long each time, up to this
IN_A_ROW = 3  # desktops that do not start or boot; then the pool does not go through all the others at once
LEAST_MIB = 64  # free in a storage domain; with less nothing can be written
FULL, NO_BOOT, MAKING = "storage_full", "no_boot", "make."  # MAKING: what comes before the code of what keeps it from making
ROOM = ("memory", "cpus")  # causes that end when somebody else's desktop goes
GOES_ON = "It goes on by itself as soon as that is over."
NOT_NOW = "Several desktops in a row did not start."


@dataclass(frozen=True)
class Obstacle:
    """What is in the way of the next start: its cause in a word, the sentence for people, and the reason of every host.
    `makes`: no desktop can be made either."""

    code: str
    sentence: str
    hosts: tuple[Candidate, ...] = ()
    makes: bool = False

    @property
    def in_full(self) -> str:
        """The sentence with the hosts' reasons, for who runs the place."""
        said = [host.why for host in self.hosts]
        more = f" And {len(said) - 8} more hosts cannot." if len(said) > 8 else ""
        return " ".join([self.sentence, *said[:8]]) + more


def no_host(wanted: VmFacts, hosts: Sequence[HostFacts], candidates: Sequence[Candidate], policy: Policy) -> Obstacle:
    """No host takes the VM: the cause is what stands against the host that came nearest to it. That no host is up and that
    none has the networks is one cause: a host that lacks a network of its cluster is not operational."""
    reasons, up = tuple(candidates), [host for host in hosts if host.state == "up"]
    near = max((policy.filters.index(one.by) for one in candidates), default=None)
    code = policy.filters[near] if near is not None and up else "hosts"
    lacking = _lacking(wanted, up or [host for host in hosts if host.state == "non_operational"])
    if code == "networks" or (code == "hosts" and lacking):
        sentence = "No host that is up has all the networks that desktops of this pool need."
        if lacking:
            sentence = f"The hosts lack a network that desktops of this pool need: {', '.join(lacking)}."
        return Obstacle("hosts", sentence, reasons, makes=not up)
    if code == "hosts":
        return Obstacle(code, "No host of the cluster is up." if hosts else "The cluster has no hosts.", reasons, makes=True)
    sentence = {
        "memory": "No host that is up has enough free memory for another desktop.",
        "cpus": "No host that is up has enough processors for a desktop of this pool.",
        "storage": "No host that is up reaches the storage of the desktops.",
    }.get(code, "The rules of the cluster let no host take another desktop.")
    return Obstacle(code, sentence, reasons, makes=code == "storage")


def _lacking(wanted: VmFacts, hosts: Sequence[HostFacts]) -> list[str]:
    """The networks that the VM needs and none of these hosts has."""
    return sorted(name for name in wanted.networks if hosts and not any(name in host.networks for host in hosts))


def no_storage(name: str, state: str, why: str, total_mib: int, free_mib: int) -> Obstacle | None:
    """What a storage domain has against new and running desktops; None: nothing."""
    if state != "active":
        return Obstacle("storage_inactive", f"Storage domain {name} is {state.replace('_', ' ')}. {why}".strip(), makes=True)
    if total_mib and free_mib < LEAST_MIB:
        return Obstacle(FULL, f"Storage domain {name} is full.", makes=True)
    return None


def pause_s(tries: int) -> int:
    """How long it waits after so many tries in a row that came to nothing."""
    return min(LONGEST_S, FIRST_S << min(max(tries, 1) - 1, 10))


def keeps_from_starting(code: str) -> bool:
    """Whether what came to nothing keeps desktops from being started that there are already."""
    return not code.startswith(MAKING)


def of_any(why: str, name: str) -> str:
    """The sentence without the name of the desktop that happened to be tried: the same cause is the same sentence."""
    return why.replace(f"VM {name}", "a desktop")
