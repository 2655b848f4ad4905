"""The simulated world: its sentences, what each of them takes away, and that it is large enough."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from hostapi.client import HostUnreachable
from hostapi.types import DiskSpec, Outcome, Secret, TicketSpec, VmSpec, VolumeSpec
from sim.world import World


class Told:
    """A clock that moves when the test says so."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 2, 8, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Told:  # type: ignore[override]
    return Told()


@pytest.fixture
def world(clock: Told) -> World:
    world = World(clock, boot_s=30, shutdown_s=5)
    world.add_host("h1")
    world.add_host("h2")
    return world


def ask(world: World, verb: str, host: str = "h1", uid: UUID | None = None, wait_s: float = 10, **args: object) -> Outcome:
    return world.door(host).ask(uid or uuid4(), verb, args, wait_s=wait_s)


def run(world: World, name: str = "w", host: str = "h1") -> VmSpec:
    spec = VmSpec(uuid4(), name, 64, 1)
    assert ask(world, "start_vm", host, spec=spec).state == "done"
    return spec


def code(outcome: Outcome) -> str | None:
    return outcome.failure.code if outcome.failure else None


def test_a_guest_boots_when_its_time_has_come(world: World, clock: Told) -> None:
    spec, uid = run(world), uuid4()
    args = {"vm_id": spec.vm_id, "timeout_s": 60}
    assert ask(world, "await_boot", uid=uid, wait_s=0, **args).state == "running"
    assert world.door("h1").report().vms[0].guest is None
    clock.sleep(31)
    assert ask(world, "await_boot", uid=uid, **args).result.hostname == "w"
    assert world.door("h1").report().vms[0].guest is not None


def test_a_guest_that_fails_to_boot_is_given_up_by_the_clock(world: World, clock: Told) -> None:
    world.do("vm w boot_fails")
    spec, uid = run(world), uuid4()
    args = {"vm_id": spec.vm_id, "timeout_s": 60}
    assert ask(world, "await_boot", uid=uid, wait_s=0, **args).state == "running"
    clock.sleep(61)
    assert code(ask(world, "await_boot", uid=uid, **args)) == "boot_timeout"


def test_power_off_takes_the_vms_and_power_on_brings_another_boot(world: World) -> None:
    run(world)
    before = world.door("h1").report().boot_id
    world.do("power h1 off")
    for call in (world.door("h1").report, lambda: world.door("h1").cancel(uuid4()), lambda: ask(world, "stop_vm", vm_id=uuid4())):
        with pytest.raises(HostUnreachable):
            call()
    assert world.door("h2").report().vms == ()
    world.do("power h1 on")
    after = world.door("h1").report()
    assert after.vms == () and after.boot_id != before


def test_a_cut_network_takes_nothing_but_the_answers(world: World) -> None:
    spec = run(world)
    before = world.door("h1").report()
    world.do("network h1 off")
    with pytest.raises(HostUnreachable):
        world.door("h1").report()
    world.do("network h1 on")
    assert world.door("h1").report() == before and before.vms[0].vm_id == spec.vm_id


def test_an_agent_that_restarts_keeps_vms_and_journal(world: World, clock: Told) -> None:
    spec, uid = run(world), uuid4()
    args = {"vm_id": spec.vm_id, "timeout_s": 600}
    assert ask(world, "await_boot", uid=uid, wait_s=0, **args).state == "running"
    world.do("agent h1 restart")
    clock.sleep(31)
    assert ask(world, "await_boot", uid=uid, **args).state == "done"
    world.do("agent h1 off")
    with pytest.raises(HostUnreachable):
        world.door("h1").report()
    world.do("agent h1 on")
    assert ask(world, "await_boot", uid=uid, **args).state == "done"


def test_a_vm_that_boots_when_its_host_loses_power_is_lost_and_did_not_fail(world: World) -> None:
    spec, uid = run(world), uuid4()
    args: dict[str, object] = {"vm_id": spec.vm_id, "timeout_s": 600}
    assert ask(world, "await_boot", uid=uid, wait_s=0, **args).state == "running"
    for sentence in ("power h1 off", "power h1 on"):
        world.do(sentence)
    for one in (uid, uuid4()):  # whether it had been asked for its boot before or not
        failure = ask(world, "await_boot", uid=one, **args).failure
        assert failure is not None and failure.code == "vm_lost"


def test_who_waits_when_the_agent_dies_hears_at_once(world: World) -> None:
    spec = run(world)
    threading.Timer(0.2, world.do, ["agent h1 off"]).start()
    with pytest.raises(HostUnreachable):
        ask(world, "await_boot", vm_id=spec.vm_id, timeout_s=600, wait_s=25)


@pytest.mark.parametrize(("sentence", "expected"), [
    ("storage /srv/a full", "storage_full"), ("storage /srv/a broken", "storage_broken"),
])
def test_sick_storage_refuses(world: World, sentence: str, expected: str) -> None:
    assert ask(world, "attach_domain", path="/srv/a").state == "done"
    world.do(sentence)
    volume = VolumeSpec(uuid4(), "/srv/a", 16)
    assert code(ask(world, "create_volume", volume=volume)) == expected
    assert code(ask(world, "reset_volume", volume=volume)) == expected
    report = world.door("h2").report().storage
    assert report == ()  # the other host does not use it
    world.do("storage /srv/a ok")
    assert ask(world, "create_volume", volume=volume).state == "done"


def test_slow_storage_takes_its_time(world: World, clock: Told) -> None:
    world.do("storage /srv/a slow 30s")
    uid, volume = uuid4(), VolumeSpec(uuid4(), "/srv/a", 16)
    assert ask(world, "create_volume", uid=uid, wait_s=0, volume=volume).state == "running"
    clock.sleep(31)
    assert ask(world, "create_volume", uid=uid, volume=volume).state == "done"


def test_a_lost_template_is_missed(world: World) -> None:
    world.do("storage /srv/a lost base.qcow2")
    volume = VolumeSpec(uuid4(), "/srv/a", 16, "/srv/a/base.qcow2")
    assert code(ask(world, "create_volume", volume=volume)) == "backing_missing"


def test_a_disk_is_never_used_on_two_hosts(world: World) -> None:
    disk = DiskSpec(uuid4(), "/srv/nfs/x.qcow2")
    assert ask(world, "start_vm", "h1", spec=VmSpec(uuid4(), "a", 64, 1, disks=(disk,))).state == "done"
    assert code(ask(world, "start_vm", "h2", spec=VmSpec(uuid4(), "b", 64, 1, disks=(disk,)))) == "volume_in_use"


def test_a_display_password_ends_by_the_clock_and_with_its_vm(world: World, clock: Told) -> None:
    spec = run(world)
    host = world.host("h1")
    for issued_ms, password in ((10, "newer"), (5, "older")):
        ticket = TicketSpec(uuid4(), "vnc", Secret("x", password), 30, issued_ms)
        assert ask(world, "set_ticket", vm_id=spec.vm_id, ticket=ticket).state == "done"
    assert host.password(spec.vm_id, "vnc") == "newer" and host.password(spec.vm_id, "spice") is None
    clock.sleep(31)
    assert host.password(spec.vm_id, "vnc") is None
    world.do("vm w crash")
    assert world.door("h1").report().vms == () and not host.tickets


def test_a_guest_goes_off_after_its_time_even_if_nobody_waits(world: World, clock: Told) -> None:
    spec, uid = run(world), uuid4()
    assert ask(world, "shutdown_vm", uid=uid, wait_s=0.3, vm_id=spec.vm_id, timeout_s=60).state == "running"
    world.door("h1").cancel(uid)
    clock.sleep(6)
    assert world.door("h1").report().vms == ()


def test_users_who_are_signed_in_to_a_guest_are_reported(world: World, clock: Told) -> None:
    run(world)
    world.do("vm w users alice bob")
    clock.sleep(31)
    inside = world.door("h1").report().vms[0].guest
    assert inside is not None and inside.users == ("alice", "bob")


@pytest.mark.parametrize("sentence", ["", "vm w", "vm w fly", "power h9 off", "weather h1 rain", "power h1 maybe"])
def test_a_sentence_that_nobody_understands_is_an_error(world: World, sentence: str) -> None:
    with pytest.raises(ValueError, match="understands"):
        world.do(sentence)


def test_hundreds_of_hosts_start_thousands_of_vms(clock: Told) -> None:
    world = World(clock)
    for n in range(300):
        world.add_host(f"h{n}")
    specs = [(f"h{n % 300}", VmSpec(uuid4(), f"w{n}", 64, 1)) for n in range(1500)]
    left, lock = list(specs), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not left:
                    return
                host, spec = left.pop()
            assert ask(world, "start_vm", host, spec=spec).state == "done"

    workers = [threading.Thread(target=work) for _ in range(20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(len(world.door(f"h{n}").report().vms) for n in range(300)) == 1500
