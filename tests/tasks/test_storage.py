"""Storage domains as tasks: one that is cancelled leaves nothing, one that fails stays to be tried again; disks stay at home."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from backend.clusters.models import DataCenter
from backend.db import Sessions
from backend.errors import Invalid
from backend.storage.commands.domains import ActivateDomain, CreateDomain
from backend.storage.models import StorageDomain
from backend.tasks.models import Task
from backend.tasks.submit import cancel
from backend.vms.commands.define import CreateVm
from sim.make import a_domain
from tests.conftest import ToldClock
from tests.tasks.bench import Bench


@pytest.fixture
def bench(sessions: Sessions, clock: ToldClock) -> Bench:
    return Bench(sessions, clock)


def names(bench: Bench) -> dict[str, str]:
    with bench.sessions() as tx:
        return dict(tx.execute(sa.select(StorageDomain.name, StorageDomain.state)).all())  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_domain_cancelled_on_its_way_leaves_its_name_free(bench: Bench, steps: int) -> None:
    """Between its steps, and while the host, which is silent, is being asked."""
    before, runner = names(bench), bench.runner()
    task_id = bench.submit(CreateDomain("fast", bench.host_id, "/srv/fast"))
    for n in range(steps):
        if n == 1:
            bench.world.do("network alpha off")
        runner.step()
    assert "fast" in names(bench)
    with bench.sessions.begin() as tx:
        cancel(tx, tx.get_one(Task, task_id), bench.clock.now())
    bench.world.do("network alpha on")
    bench.settle(runner)
    assert bench.task(task_id).state == "cancelled" and names(bench) == before, bench.story()
    bench.submit(CreateDomain("fast", bench.host_id, "/srv/fast"))
    bench.settle(runner)
    assert names(bench)["fast"] == "active", bench.story()


def test_a_domain_that_the_host_cannot_use_stays_and_is_tried_again(bench: Bench) -> None:
    bench.world.folder("/srv/slow").broken = True
    task_id = bench.submit(CreateDomain("slow", bench.host_id, "/srv/slow"))
    bench.settle()
    assert bench.task(task_id).state == "failed" and names(bench)["slow"] == "inactive", bench.story()
    bench.world.folder("/srv/slow").broken = False
    with bench.sessions() as tx:
        id = tx.scalars(sa.select(StorageDomain.id).where(StorageDomain.name == "slow")).one()
    bench.submit(ActivateDomain(id))
    bench.settle()
    assert names(bench)["slow"] == "active", bench.story()


def test_a_disk_lies_in_its_own_data_center(bench: Bench) -> None:
    with bench.sessions.begin() as tx:
        elsewhere = DataCenter(name="Elsewhere")
        tx.add(elsewhere)
        tx.flush()
        there = a_domain(tx, data_center_id=elsewhere.id).id
    with pytest.raises(Invalid, match="of another data center") as no:
        bench.submit(CreateVm("w1", bench.template_id, domain_id=there))
    assert no.value.facts["fields"] == ["domain_id"]
    bench.submit(CreateVm("w1", bench.template_id, domain_id=bench.domain_id))
