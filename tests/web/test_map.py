"""The map of the data centers: what it sums up, who sees what of it, and the page."""

from __future__ import annotations

from typing import Any

import pytest

from backend.clusters.models import Cluster
from backend.hosts.models import Host
from portal import datacenter_map
from sim import make
from tests.web.place import Place

place = pytest.fixture(lambda undone_place: undone_place)


def read(place: Place, who: str) -> dict[str, dict[str, Any]]:
    """The clusters by name, as `who` is told of them."""
    told = place.as_(who).get("/api/v1/map").get_json()
    return {cluster["name"]: cluster for center in told["datacenters"] for cluster in center["clusters"]}


def furnish(place: Place, hosts: int) -> None:
    """A second cluster: its first host is half full with one VM, the others are empty, the last one is silent."""
    with place.sessions.begin() as tx:
        old = tx.get_one(Host, place.ids["host"])
        cluster = Cluster(name="Second", data_center_id=tx.get_one(Cluster, old.cluster_id).data_center_id)
        tx.add(cluster)
        tx.flush()
        for n in range(hosts):
            first, silent = n == 0, n == hosts - 1
            made = make.a_host(tx, f"second-{n}", up=not silent, cluster_id=cluster.id, cpus=4, load1=2.0 if first else 0.0,
                               memory_mib=8192, memory_free_mib=4096 if first else 8192)
            if first:
                make.a_vm(tx, "busy", cluster_id=cluster.id, host=made, state="up", memory_mib=2048)


def test_it_sums_up_what_hosts_give_and_take(place: Place) -> None:
    furnish(place, hosts=2)
    second = read(place, "root")["Second"]
    assert (second["cpus"], second["cpu_usage"], second["memory_mib"], second["memory_free_mib"]) == (8, 25.0, 16384, 12288)
    assert (second["memory_promised_mib"], second["vms"]) == (2048, {"up": 1})
    busy, empty = second["hosts"]
    assert (busy["cpu_usage"], [vm["name"] for vm in busy["running"]]) == (50.0, ["busy"])
    assert (empty["state"], empty["running"], empty["vms"]) == ("non_responsive", [], {})


def test_who_may_not_see_hosts_sees_no_map(place: Place) -> None:
    assert read(place, "alice") == {}
    assert place.browser("alice").get("/admin/map").status_code == 403
    assert place.browser("keeper").get("/admin/map").status_code == 403


def test_the_page_leads_to_hosts_and_vms_and_to_one_cluster(place: Place) -> None:
    furnish(place, hosts=2)
    page = place.browser("root").get("/admin/map").text
    assert "second-1" in page and "Does not answer" in page and ">busy<" in page and "alpha" in page
    id = read(place, "root")["Second"]["id"]
    only = place.browser("root").get(f"/admin/map?cluster={id}").text
    assert "second-0" in only and f"/admin/hosts/{place.ids['host']}" not in only
    assert place.browser("root").get("/admin/map?cluster=x").status_code == 422


def test_many_hosts_are_squares_and_many_vms_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datacenter_map, "NAMED", 0)
    furnish(place, hosts=datacenter_map.TILES + 1)
    page = place.browser("root").get("/admin/map").text
    assert page.count("lh-map__cell lh-map__cell--2\" href") == 1 and "second-0: up, 50 % of its memory in use, 1 VMs" in page
    assert ">busy<" not in page
    assert read(place, "root")["Second"]["hosts"][0]["running"] is None
