"""A host's report is applied a while after it was asked for: it must not be taken for news of a later run."""

from __future__ import annotations

import pytest

from backend.db import Sessions
from backend.hosts.loop import Monitor
from backend.vms.commands.power import StartVm, StopVm
from tests.conftest import ToldClock
from tests.tasks.bench import Bench


@pytest.fixture
def bench(sessions: Sessions, clock: ToldClock) -> Bench:
    return Bench(sessions, clock)


def test_a_vm_that_was_stopped_and_started_meanwhile_has_not_died(bench: Bench) -> None:
    vm_id, monitor = bench.a_vm("w1"), Monitor(bench.doors, bench.clock)
    bench.submit(StartVm(vm_id))
    bench.settle()
    with bench.sessions.begin() as tx:
        asked = monitor.read(tx)
    bench.submit(StopVm(vm_id))
    bench.settle()
    said = monitor.gather(asked)  # the host has no VM at this moment; another host keeps the round waiting
    bench.submit(StartVm(vm_id))
    bench.settle()
    with bench.sessions.begin() as tx:
        monitor.apply(tx, said)
    assert (bench.vm("w1").state, bench.vm("w1").host_id) == ("up", bench.host_id)
    assert vm_id in bench.world.host("alpha").runs


def test_what_was_said_of_the_same_run_counts(bench: Bench) -> None:
    vm_id = bench.a_vm("w1")
    bench.submit(StartVm(vm_id))
    bench.settle()
    del bench.world.host("alpha").runs[vm_id]
    bench.monitor()
    assert (bench.vm("w1").state, bench.vm("w1").host_id) == ("down", None)
