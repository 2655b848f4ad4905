"""A host is installed by its form, and its key confirmed; what one signs on with is kept sealed, and in no task."""

from __future__ import annotations

import sqlalchemy as sa

from backend.hosts.models import AgentPackage, Host, HostInstall
from backend.tasks.models import Task
from tests.web.place import Place

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n-----END OPENSSH PRIVATE KEY-----"
SHOWN, OTHER = "SHA256:" + "A" * 43, "SHA256:" + "B" * 43


def test_a_host_is_installed_by_its_form(place: Place) -> None:
    with place.sessions.begin() as tx:
        tx.add(AgentPackage(one=True, version="1.2", sha256="0" * 64))
    root = place.browser("root")
    form = root.get("/admin/do/host.install").text
    assert 'type="password"' in form and "<textarea" in form
    given = {"asked": "1", "host_name": "gamma", "cluster_id": place.ids["cluster"], "address": "10.0.0.9", "ssh_port": "22",
             "username": "root", "private_key_sealed": KEY, "storage_roots": "/srv/a\r\n/srv/b"}  # fmt: skip
    made = root.ask("POST", "/admin/do/host.install", data=given)
    assert made.status_code == 303
    with place.sessions.begin() as tx:
        row = tx.scalars(sa.select(HostInstall)).one()
        host_id = row.host_id
        assert place.keyring.unseal(row.private_key_sealed) == KEY and row.storage_roots == ["/srv/a", "/srv/b"]
        kept = str(tx.scalars(sa.select(Task.args)).all())
        assert row.private_key_sealed not in kept and "OPENSSH" not in kept
        row.presented, tx.get_one(Host, host_id).why = SHOWN, f"The host presents the SSH key {SHOWN}."
    assert made.location.endswith(f"/admin/hosts/{host_id}")
    page = root.get(f"/admin/hosts/{host_id}").text
    assert SHOWN in page and "Confirm SSH key" in page and "OPENSSH" not in page

    rest = place.as_("root")
    wrong = rest.post(f"/api/v1/hosts/{host_id}/confirm_key", json={"fingerprint": OTHER})
    assert wrong.status_code == 422 and SHOWN in wrong.text and OTHER in wrong.text
    assert rest.post(f"/api/v1/hosts/{host_id}/confirm_key", json={"fingerprint": SHOWN}).status_code == 202
    assert rest.post(f"/api/v1/hosts/{host_id}/confirm_key", json={"fingerprint": SHOWN}).status_code == 409
    with place.sessions() as tx:
        assert tx.scalars(sa.select(HostInstall.fingerprint)).one() == SHOWN


def test_a_login_is_one_of_two(place: Place) -> None:
    body = {"name": "delta", "cluster_id": place.ids["cluster"], "address": "10.0.0.9"}
    for login in ({}, {"password": "a", "private_key": "b"}):
        no = place.as_("root").post("/api/v1/hosts/install", json=body | login)
        assert no.status_code == 422 and no.get_json()["error"]["facts"]["fields"] == ["password", "private_key"], no.text
    bad = place.as_("root").post("/api/v1/hosts/install", json=body | {"password": "a", "ssh_port": 0})
    assert bad.status_code == 422 and "between 1 and 65535" in bad.text
