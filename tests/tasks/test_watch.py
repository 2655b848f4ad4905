"""A long step gives its worker free, is not asked for again and again, and its end is heard at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from backend.db import Sessions
from backend.tasks.models import Task
from backend.tasks.submit import cancel
from backend.vms.commands.power import StartVm
from tests.conftest import ToldClock
from tests.tasks.bench import Bench

LIMIT_S = 60  # on however busy a machine


@pytest.fixture
def bench(sessions: Sessions, clock: ToldClock) -> Bench:
    return Bench(sessions, clock)


@pytest.fixture
def vm_ids(bench: Bench) -> Iterator[list[UUID]]:
    """Three VMs, and one worker at work in a thread; the clock is told, so nothing that is put off comes back by itself."""
    vm_ids = [bench.a_vm(f"w{n}") for n in range(3)]
    bench.world.boot_s = 5.0
    runner = bench.runner()
    threads = runner.run(1)
    yield vm_ids
    runner.stopping.set()
    for thread in threads:
        thread.join(LIMIT_S)


def until(true: Any, what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


def boots(bench: Bench, id: int) -> bool:
    """Whether the guest boots and nobody waits for it."""
    return [s.name for s in bench.steps(id) if s.state == "asked"] == ["boot"] and bench.task(id).claim is None


def test_one_worker_has_three_guests_boot_and_hears_of_each_at_once(bench: Bench, vm_ids: list[UUID]) -> None:
    ids = [bench.submit(StartVm(id)) for id in vm_ids]
    until(lambda: all(boots(bench, id) for id in ids), "all of them boot")
    bench.clock.sleep(5)
    bench.world.host("alpha").wake()
    until(lambda: all(bench.task(id).state == "succeeded" for id in ids), "all are up: " + bench.story())
    assert [step.attempts for id in ids for step in bench.steps(id) if step.name == "boot"] == [2, 2, 2]


def test_a_watched_step_is_cancelled(bench: Bench, vm_ids: list[UUID]) -> None:
    id = bench.submit(StartVm(vm_ids[0]))
    until(lambda: boots(bench, id), "it boots")
    with bench.sessions.begin() as tx:
        cancel(tx, tx.get_one(Task, id), bench.clock.now())
    until(lambda: bench.task(id).state == "cancelled", "it is cancelled: " + bench.story())
    assert bench.vm("w0").state == "down" and not bench.world.host("alpha").runs


def test_when_the_agent_restarts_the_step_is_asked_for_again(bench: Bench, vm_ids: list[UUID]) -> None:
    id = bench.submit(StartVm(vm_ids[0]))
    until(lambda: boots(bench, id), "it boots")
    bench.world.do("agent alpha restart")
    until(lambda: bench.steps(id)[-1].attempts > 1 and boots(bench, id), "it is asked for again")
    bench.clock.sleep(5)
    bench.world.host("alpha").wake()
    until(lambda: bench.task(id).state == "succeeded", "it is up: " + bench.story())
