"""How busy simulated VMs are: each in a rhythm of its own, between nothing and most of its processors."""

from __future__ import annotations

import math

from hostapi.types import VmSpec

SLOWEST_S = 900


def busy(spec: VmSpec, passed_s: float) -> float:
    """The processors that a VM uses after so long."""
    most, period, phase = _rhythm(spec)
    return most / 2 * (1 - math.cos(2 * math.pi * passed_s / period + phase))


def busy_s(spec: VmSpec, passed_s: float) -> float:
    """The seconds of processor that it has used by then: the integral of `busy`."""
    most, period, phase = _rhythm(spec)
    turn = period / (2 * math.pi)
    return most / 2 * (passed_s - turn * (math.sin(passed_s / turn + phase) - math.sin(phase)))


def _rhythm(spec: VmSpec) -> tuple[float, float, float]:
    some = spec.vm_id.bytes
    most = spec.vcpus * (some[0] / 255) ** 2  # few are busy
    return most, 60 + SLOWEST_S * some[1] / 255, 2 * math.pi * some[2] / 255
