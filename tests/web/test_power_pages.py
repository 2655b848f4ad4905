"""Power agents, fencing and availability on pages and over REST; passwords are kept sealed and told to nobody."""

from __future__ import annotations

import sqlalchemy as sa

from backend.clusters.models import Cluster
from backend.ha.models import PowerAgent
from backend.tasks.models import Task
from backend.vms.models import Vm
from tests.web.place import Place

SECRET = "open-sesame-42"


def test_a_power_agent_is_added_by_its_form(place: Place) -> None:
    root, host = place.browser("root"), place.ids["host"]
    form = root.get(f"/admin/do/host.add_power_agent?host_id={host}")
    assert form.status_code == 200 and 'type="password"' in form.text and "simulated" in form.text
    given = {"asked": "1", "host_id": host, "type": "simulated", "address": "10.0.0.9", "port": "0", "username": "root",
             "password_sealed": SECRET, "options": "plug=2", "encrypt": "on", "order": "2"}  # fmt: skip
    assert root.ask("POST", "/admin/do/host.add_power_agent", data=given).status_code == 303
    with place.sessions.begin() as tx:
        agent = tx.scalars(sa.select(PowerAgent).where(PowerAgent.address == "10.0.0.9")).one()
        assert place.keyring.unseal(agent.password_sealed) == SECRET and agent.options == {"plug": "2"}
        assert SECRET not in str(tx.scalars(sa.select(Task.args)).all())
    page = root.get(f"/admin/hosts/{host}").text
    assert "10.0.0.9" in page and SECRET not in page


def test_what_is_wrong_is_said_at_its_field(place: Place) -> None:
    root, host = place.as_("root"), place.ids["host"]

    def refused(**body: object) -> str:
        answer = root.post(f"/api/v1/hosts/{host}/add_power_agent", json={"type": "simulated", "address": "bmc", **body})
        assert answer.status_code == 422, answer.text
        return str(answer.get_json()["error"]["message"])

    assert "No host knows power agents of the kind “magic”. There are simulated" in refused(type="magic")
    assert "know no option “colour”; they know plug" in refused(options=["colour=red"])
    assert "not for you to set" in refused(options=["ipmitool_path=/bin/sh"])
    assert "name=value" in refused(options=["plug"])
    assert "order" in refused(order=0)


def test_the_password_is_never_told_and_goes_to_no_other_device(place: Place) -> None:
    root, host = place.as_("root"), place.ids["host"]
    body = {"type": "simulated", "address": "bmc-9", "password": SECRET}
    id = root.post(f"/api/v1/hosts/{host}/add_power_agent", json=body).get_json()["task"]["result"]["id"]
    told = root.get(f"/api/v1/poweragents/{id}").get_json()
    assert told["has_password"] is True and "password" not in str(told).replace("has_password", "")
    moved = root.post(f"/api/v1/poweragents/{id}/edit", json={"address": "elsewhere"})
    assert moved.status_code == 422 and moved.get_json()["error"]["facts"]["fields"] == ["password"]
    assert root.post(f"/api/v1/poweragents/{id}/edit", json={"order": 3}).status_code == 202


def test_fencing_and_availability_are_edited_by_their_forms(place: Place) -> None:
    root, cluster, vm = place.browser("root"), place.ids["cluster"], place.ids["own_vm"]
    assert root.get(f"/admin/do/cluster.edit_fencing?cluster_id={cluster}").status_code == 200
    given = {"asked": "1", "cluster_id": cluster, "fencing": "on", "fencing_grace_s": "30", "fencing_grace_s.unit": "s",
             "fencing_silent_percent": "60", "fencing_at_once": "1", "fencing_kdump_wait_s": "2",
             "fencing_kdump_wait_s.unit": "min"}  # fmt: skip
    assert root.ask("POST", "/admin/do/cluster.edit_fencing", data=given).status_code == 303
    assert root.get(f"/admin/do/vm.edit_availability?vm_id={vm}").status_code == 200
    given = {"asked": "1", "vm_id": vm, "high_availability": "on", "priority": "100"}
    assert root.ask("POST", "/admin/do/vm.edit_availability", data=given).status_code == 303
    with place.sessions.begin() as tx:
        row, machine = tx.get_one(Cluster, cluster), tx.get_one(Vm, vm)
        assert (row.fencing_grace_s, row.fencing_at_once, row.fencing_kdump_wait_s) == (30, 1, 120)
        assert machine.high_availability and machine.priority == 100
