"""Simulated processors: a few models of two vendors, each with all that the one before it has."""

from __future__ import annotations

import hashlib

import msgspec

from hostapi.types import Cpu, HostCpu
from hostapi.verbs import HostRefused

LINES = {
    "Intel": (("Nehalem", "sse4.1 sse4.2 popcnt"), ("SandyBridge", "aes avx pclmuldq"), ("Haswell", "avx2 bmi1 bmi2 fma movbe"),
              ("Skylake-Client", "adx rdseed mpx"), ("Icelake-Server", "avx512f avx512bw vaes gfni")),
    "AMD": (("Opteron_G5", "aes avx popcnt sse4.1 sse4.2"), ("EPYC", "avx2 bmi1 bmi2 adx rdseed"),
            ("EPYC-Rome", "clwb rdpid wbnoinvd")),
}  # fmt: skip
MODELS: dict[str, tuple[str, frozenset[str]]] = {
    name: (vendor, frozenset(word for _, words in line[: n + 1] for word in words.split()))
    for vendor, line in LINES.items()
    for n, (name, _) in enumerate(line)
}


def host_cpu(model: str, without: tuple[str, ...] = ()) -> HostCpu:
    """A host with a processor of this model, perhaps with something switched off."""
    vendor, has = MODELS[model]
    left = has - set(without)
    models = tuple(sorted(name for name, (made_by, needs) in MODELS.items() if made_by == vendor and needs <= left))
    return HostCpu(Cpu(model, vendor, (), tuple(sorted(without)), tuple(sorted(left))), models)


def common_cpu(cpus: tuple[Cpu, ...]) -> Cpu:
    """The highest model whose features all of them have, and what they have beyond it."""
    vendors = {cpu.vendor for cpu in cpus}
    if len(vendors) != 1:
        raise HostRefused("no_common_cpu", "These processors have nothing in common: CPU vendors do not match.")
    has = frozenset.intersection(*(frozenset(cpu.features) for cpu in cpus))
    fit = [(len(needs), name) for name, (vendor, needs) in MODELS.items() if vendor in vendors and needs <= has]
    if not fit:
        raise HostRefused("no_common_cpu", "These processors have nothing in common: there is no such model.")
    _, model = max(fit)
    vendor, needs = MODELS[model]
    return Cpu(model, vendor, tuple(sorted(has - needs)), (), tuple(sorted(has)))


def digest(cpu: HostCpu | None) -> str:
    """As an agent makes it."""
    return "" if cpu is None else hashlib.sha256(msgspec.json.encode(cpu)).hexdigest()[:16]


class Processors:
    """The two questions about processors, for `SimHost`. A host tells of none before it was given one."""

    cpu: HostCpu | None = None

    def host_cpu(self) -> HostCpu:
        """As it was given."""
        if self.cpu is None:
            raise HostRefused("unsupported", "This hypervisor does not tell which processors it can give to VMs.")
        return self.cpu

    def common_cpu(self, cpus: tuple[Cpu, ...]) -> Cpu:
        """What they have in common."""
        return common_cpu(cpus)
