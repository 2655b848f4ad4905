"""Whatever happens to hosts, networks, agents, power agents and managers: no VM ever runs twice, none is started without
proof, no more hosts are fenced at once than allowed, and in the end every protected VM runs or it is said why not."""

from __future__ import annotations

import os

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import assembly  # noqa: F401 -- every table must be known before the first flush
from backend.db import Sessions
from backend.ha.fence import being_fenced
from backend.hosts.models import Host
from backend.vms.models import Vm
from sim import protected
from sim.clock import ToldClock
from sim.installation import Installation
from sim.make import NOW

LOOPS = ("monitor", "ha", "reach")
HOSTS = ("alpha", "beta", "gamma")
FAULTS = st.one_of(
    st.tuples(st.sampled_from(("power", "network")), st.sampled_from(HOSTS), st.sampled_from(("off", "on"))),
    st.tuples(st.just("agent"), st.sampled_from(HOSTS), st.sampled_from(("broken", "on"))),
    st.tuples(st.just("bmc"), st.sampled_from(HOSTS), st.sampled_from(("silent", "stuck", "deaf", "ok"))),
    st.tuples(st.just("vm"), st.sampled_from(("vm-1", "vm-2", "vm-3")), st.just("crash")),
    st.tuples(st.just("manager"), st.just("is"), st.just("replaced")),
).map(" ".join)
STORIES = st.lists(st.tuples(FAULTS, st.integers(1, 30)), min_size=1, max_size=5)


def look(place: Installation) -> None:
    """What must hold at every moment."""
    assert not protected.twice(place.sim), place.story(40)
    with place.tx() as tx:
        assert len(being_fenced(tx)) <= 1, place.story(40)
        for vm, proved, state in tx.execute(sa.select(Vm.name, Host.proved_off_at, Host.state).join(Host, Host.id == Vm.host_id)
                                            .where(Vm.state == "up", Host.state == "down")):
            raise AssertionError(f"{vm} counts as up on a host that is {state}, proved off at {proved}: {place.story(40)}")


@settings(max_examples=int(os.environ.get("FAILOVERS", "4")), derandomize="FAILOVERS" not in os.environ, deadline=None,
          suppress_health_check=list(HealthCheck))
@given(STORIES)
def test_whatever_happens(sessions: Sessions, story: list[tuple[str, int]]) -> None:
    clear(sessions)
    place = Installation(sessions, ToldClock(NOW))
    place.loops = [loop for loop in place.loops if loop.name in LOOPS]
    for name in HOSTS:
        place.add_host(name)
        protected.add_power_agents(place, name, [1])
    place.add_shared_domain()
    with place.tx() as tx:
        protected.set_fencing(tx, {"at_once": 1})
    for number, name in enumerate(HOSTS, 1):
        protected.add_vm(place, f"vm-{number}", on=name, high_availability=True)
    for fault, seconds in story:
        if fault.startswith("manager"):
            place.runner = place.new_runner("another")
            place.loops = [loop for loop in place.new_loops() if loop.name in LOOPS]
        else:
            place.sim.do(fault)
        for _ in range(seconds):
            place.tick(1.0)
            look(place)
    heal(place)
    for _ in range(400):
        place.tick(1.0)
        look(place)
        if settled(place):
            return
    pytest.fail(f"not every VM runs again after {story}: {place.story(60)}")


def heal(place: Installation) -> None:
    """Everything is mended by people."""
    for name in HOSTS:
        place.sim.do(f"bmc {name} ok")
        place.sim.do(f"network {name} on")
        if not place.sim.machines[name].powered:
            place.sim.do(f"power {name} on")
        place.sim.do(f"agent {name} on")


def settled(place: Installation) -> bool:
    with place.tx() as tx:
        up = set(tx.scalars(sa.select(Vm.name).where(Vm.state == "up")))
        if list(protected.unexplained(tx)):
            return False
    return len(up) == 3 and protected.instances(place.sim).keys() == up and place.live_tasks() == 0


def clear(sessions: Sessions) -> None:
    """Every example begins with nothing."""
    with sessions.begin() as tx:
        names = ", ".join(f'"{table.name}"' for table in Host.metadata.sorted_tables)
        tx.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
