"""The product on three real hosts: enrolled, VMs placed, live migrated, hosts emptied."""

from __future__ import annotations

import pytest

from tests.lab.place import Place

pytestmark = [pytest.mark.lab, pytest.mark.network, pytest.mark.timeout(900)]


def test_a_vm_runs_and_is_migrated_between_real_hosts(place: Place) -> None:
    vm = place.vm("w1")
    assert vm["state"] == "up" and place[vm["host"]].vms() == {"w1"}
    assert place[vm["host"]].sh("w1", "hostname; echo memory > /run/file") == "w1"
    before = vm["host"]
    place.act(f"/vms/{vm['id']}/migrate")
    vm = place.row("vms", "w1")
    assert vm["state"] == "up" and vm["host"] != before
    assert place[before].vms() == set() and place[vm["host"]].vms() == {"w1"}
    assert place[vm["host"]].sh("w1", "cat /run/file") == "memory"  # it did not boot anew
    place.act(f"/vms/{vm['id']}/stop")
    assert all(not host.vms() for host in place.lab.hosts.values())
