"""Which CPU the VMs of a cluster are given."""

from __future__ import annotations

from uuid import uuid4

import pytest

from backend.clusters.rules import HostOf, counted, lacking, models_of
from hostapi.types import Cpu, HostCpu
from sim.cpus import MODELS, common_cpu, host_cpu

KINDS = {name: host_cpu(name) for name in MODELS}


def hosts(*models: str) -> list[HostOf]:
    return [HostOf(uuid4(), f"h{n}", model or None) for n, model in enumerate(models)]


@pytest.mark.parametrize("models, in_use, given, expect", [
    (("Haswell", "Skylake-Client"), (), None, "Haswell"),
    (("Haswell", ""), (), None, "Haswell"),  # one that has not said is not waited for
    (("Haswell", "SandyBridge"), ("Haswell",), "Haswell", "Haswell"),  # not lowered under what runs
    (("Haswell", "SandyBridge"), ("SandyBridge",), "Haswell", "SandyBridge"),
    (("EPYC", "Haswell", "Haswell"), (), None, "Haswell"),  # that of most hosts
    (("EPYC", "Haswell", "Haswell"), (), "EPYC", "EPYC"),  # but what was given stays
    (("EPYC", "Haswell"), (), None, "EPYC"),  # one each: in the order of their names, so that it never changes back
])  # fmt: skip
def test_the_cpu_of_a_cluster(models: tuple[str, ...], in_use: tuple[str, ...], given: str | None, expect: str) -> None:
    fit = counted(hosts(*models), KINDS, in_use, given)
    assert common_cpu(tuple(KINDS[host.cpu_id].cpu for host in fit if host.cpu_id)).model == expect


def test_what_a_host_lacks() -> None:
    assert lacking(KINDS["Haswell"].cpu, KINDS["Skylake-Client"]) == ""
    assert lacking(KINDS["Skylake-Client"].cpu, KINDS["Haswell"]) == "its processor lacks adx, mpx, rdseed."
    assert lacking(KINDS["Haswell"].cpu, KINDS["Nehalem"]).endswith("and 4 more.")
    assert lacking(KINDS["Haswell"].cpu, KINDS["EPYC"]) == "its processor is one of AMD's, not of Intel's."
    assert lacking(Cpu("Haswell"), host_cpu("Haswell", ("fma",))) == "its processor cannot be a Haswell."
    assert lacking(Cpu("Haswell"), HostCpu(Cpu("x"), ("Haswell",))) == ""
    assert models_of(hosts("Nehalem", ""), KINDS) == ["Nehalem"]
