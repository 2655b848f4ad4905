"""Which processor a host can give to VMs, and what several have in common."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostapi.client import HostUnreachable
from hostapi.types import Cpu
from tests.contract.conftest import Subject
from tests.contract.test_host_agent import wait


def test_a_host_tells_its_processor_and_compares_others(subject: Subject) -> None:
    if subject.kind == "test driver":
        with pytest.raises(HostUnreachable) as no:
            subject.connect().host_cpu()
        assert no.value.code == "unsupported" and subject.connect().report().cpu == ""
        return
    subject.told("cpu h1 Haswell")
    wait(lambda: bool(subject.connect().report().cpu), "the report has a digest of the processor", 120.0)
    own = subject.connect().host_cpu()
    assert own.cpu.model and own.cpu.features and "Nehalem" in own.models
    assert subject.connect().common_cpu([own.cpu]).features == own.cpu.features
    lower = replace(own.cpu, lacks=tuple(sorted({*own.cpu.lacks, "movbe"})),
                    features=tuple(one for one in own.cpu.features if one != "movbe"))  # fmt: skip
    common = subject.connect().common_cpu([own.cpu, lower])
    assert "movbe" in own.cpu.features and "movbe" not in common.features
    assert set(common.features) <= set(own.cpu.features)


def test_a_vm_is_given_the_cpu_that_is_wanted(subject: Subject) -> None:
    spec = subject.spec()
    subject.done("start_vm", spec=replace(spec, cpu=Cpu("Nehalem")))
    assert subject.states() == {spec.vm_id: "running"}
