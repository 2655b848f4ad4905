"""A real host dies with a highly available VM on it: switched off by a real IPMI device, the VM runs elsewhere exactly once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.lab.hosts import until
from tests.lab.place import Place
from tests.lab.power import Powers

pytestmark = [pytest.mark.lab, pytest.mark.network, pytest.mark.timeout(900)]
LONG = pytest.mark.skipif(not os.environ.get("LAB_LONG"), reason="make lab-test")
PARTS = (("silent", "host.silent"), ("lost", "host.lost"), ("fencing", "host.fencing"), ("proved off", "host.proved_off"),
         ("starts", "vm.start"), ("up", "vm.booted"))  # fmt: skip


@pytest.fixture(scope="module")
def powers(place: Place) -> Iterator[Powers]:
    until(lambda: any(kind["name"] == "ipmilan" for kind in place.rest("GET", "/powerkinds?max=500")["items"]), "kinds are told")
    made = Powers(place)
    yield made
    made.stop()


@pytest.fixture
def vm(place: Place, powers: Powers) -> Iterator[dict[str, Any]]:
    """A highly available VM that is up, and every host."""
    made = place.make("vms", f"ha{time.monotonic_ns() % 10**6}", template_id=place.row("templates", "Lab guest")["id"],
                      high_availability=True, priority=100)  # fmt: skip
    place.act(f"/vms/{made['id']}/start")
    yield place.row("vms", made["name"])
    place.act(f"/vms/{made['id']}/stop")
    place.act(f"/vms/{made['id']}/remove")
    until(lambda: all(host["state"] == "up" for host in place.rest("GET", "/hosts")["items"]), "every host is up again", 180)


def runs_on(place: Place, name: str) -> list[str]:
    """The hosts on which a QEMU of this VM runs."""
    return [host.name for host in place.lab.hosts.values() if name in host.vms()]


def moved(place: Place, vm: dict[str, Any], limit_s: float = 240) -> dict[str, Any]:
    """The VM once it is up on another host, and its QEMU on no other."""

    def looked() -> Any:
        now = place.row("vms", vm["name"])
        return now if now["state"] == "up" and now["host"] not in (None, vm["host"]) else None

    now: dict[str, Any] = until(looked, f"{vm['name']} runs elsewhere. {place.words()}", limit_s)
    assert runs_on(place, vm["name"]) == [now["host"]]
    return now


def tell(place: Place, what: str, began: float) -> None:
    """Seconds from the fault to each part, from the events."""
    events = place.rest("GET", "/events?search=sortby%20id%20desc&max=100")["items"]
    last = {event["code"]: datetime.fromisoformat(event["at"]).timestamp() for event in events[::-1]}
    parts = ", ".join(f"{word} {last[code] - began:.1f}" for word, code in PARTS if last.get(code, 0) > began)
    print(f"\n{what}: {parts} (seconds)")
    if os.environ.get("LAB_EVENTS"):
        for event in events[::-1]:
            if (at := datetime.fromisoformat(event["at"]).timestamp()) > began:
                print(f"  {at - began:6.1f} {event['sentence']}")


def test_a_host_loses_its_power(place: Place, vm: dict[str, Any], powers: Powers) -> None:
    began = time.time()
    place[vm["host"]].power_off()
    moved(place, vm)
    tell(place, "power off", began)
    until(lambda: place.row("hosts", vm["host"])["state"] == "up", f"the host is up again. {place.words()}", 120)
    assert len(runs_on(place, vm["name"])) == 1


def test_the_power_of_a_host_is_asked_for(place: Place, powers: Powers) -> None:
    host = place.row("hosts", "hv1")
    place.act(f"/hosts/{host['id']}/test_power")
    (last,) = place.rest("GET", "/events?search=code%20%3D%20host.power_told%20sortby%20id%20desc&max=1")["items"]
    assert last["sentence"].endswith("says that it is on.")


@LONG
def test_a_host_is_cut_off(place: Place, vm: dict[str, Any], powers: Powers) -> None:
    """Its VM runs on, unreachable: it must be gone before it runs elsewhere."""
    began = time.time()
    host = place[vm["host"]]
    host.cut()
    moved(place, vm)
    tell(place, "network cut", began)
    until(lambda: place.row("hosts", vm["host"])["state"] == "up", "the host is up again, with a new cable", 120)


@LONG
@pytest.mark.parametrize("kill", ["kill_agent", "kill_libvirtd"])
def test_what_comes_back_by_itself_is_not_fenced(place: Place, vm: dict[str, Any], kill: str) -> None:
    getattr(place[vm["host"]], kill)()
    time.sleep(8)
    until(lambda: place.row("hosts", vm["host"])["state"] == "up", "the host is up")
    now = place.row("vms", vm["name"])
    assert (now["state"], now["host"], now["started_at"]) == ("up", vm["host"], vm["started_at"])


@LONG
@pytest.mark.parametrize("kill", ["kill_agent", "kill_libvirtd"])
def test_what_stays_away_is_fenced(place: Place, vm: dict[str, Any], kill: str) -> None:
    began, host = time.time(), place[vm["host"]]
    getattr(host, kill)(hold=True)
    moved(place, vm)
    tell(place, f"{kill}, for good", began)
    host.release()
    until(lambda: place.row("hosts", vm["host"])["state"] == "up", "the host is up again", 120)


@LONG
def test_the_leading_manager_is_killed_in_the_middle(place: Place, vm: dict[str, Any], powers: Powers) -> None:
    place._add("manager2", "managerd.py")
    try:
        time.sleep(65)  # its quiet time
        began = time.time()
        place[vm["host"]].power_off()
        until(lambda: place.row("hosts", vm["host"])["state"] in ("non_responsive", "reboot"), "the host is lost")
        place.kill("manager1")
        killed = time.time() - began
        moved(place, vm)
        tell(place, f"power off, leading manager killed after {killed:.1f}", began)
    finally:
        place.revive("manager1")
        place.parts.pop("manager2").stop()
