"""An Active Directory domain over REST and the command line, against a real domain controller."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.samba import SambaDomain

pytestmark = pytest.mark.ad
SECRET = "Pass-w0rd-for-all"


def test_a_domain_is_added_tested_searched_and_its_people_get_a_desktop(cli: Cli, samba: SambaDomain, tmp_path: Path) -> None:
    inner = samba.add_group("Pflege, Nacht", "pflege-nacht")
    samba.add_group("Pflege (alle)", "pflege-alle", inner)
    samba.add_user("kathi", SECRET, given="Kathi", surname="Nacht", groups=[inner])
    samba.add_user("fremd", SECRET, given="Franz", surname="Fremd")
    root, ca = cli.as_("root"), tmp_path / "ca.pem"
    ca.write_text(samba.ca_pem)
    known = ("--servers", samba.servers[0], "--bind-user", samba.bind_user, "--ca-pem", f"@{ca}")

    wrong = root("directory", "add", samba.realm, *known, given="wrong\n")
    assert wrong.code == 1 and "password" in wrong.err.lower(), wrong.err
    added = root("directory", "add", samba.realm, *known, given=f"{samba.bind_password}\n")
    assert added.code == 0, added.err
    assert samba.bind_password not in added.out + added.err
    tested = root("directory", "test", samba.realm)
    assert tested.code == 0 and f"Domain {samba.netbios}" in tested.err and samba.servers[0] in tested.out, tested.err

    early = cli("login", "--user", f"kathi@{samba.realm}", given=f"{SECRET}\n")
    assert early.code == 0, early.err
    assert cli("connect", "Desktops", "--viewer", "true").code == 1, "nothing has been given to her yet"

    found = json.loads(root("directory", "search", samba.realm, "pflege", "--json").out)
    group = next(one for one in found if one["kind"] == "group" and one["name"] == "Pflege (alle)")
    directory = next(one for one in json.loads(root("directories", "--json").out) if one["name"] == samba.realm)
    pool = str(cli.served.place.ids["pool"])
    given = {"directory_id": directory["id"], "kind": "group", "external_id": group["external_id"]}
    entitled = root("api", "post", f"/pools/{pool}/entitlements", json.dumps(given))
    assert entitled.code == 0, entitled.err

    signed = cli("login", "--user", f"{samba.netbios}\\kathi", given=f"{SECRET}\n")
    assert signed.code == 0 and f"Signed in as kathi@{samba.realm}" in signed.err, signed.err
    me = json.loads(cli("whoami", "--json").out)
    assert "Pflege (alle)" in me["groups"], "she is in it by another group"
    assert [(d["name"], d["kind"]) for d in json.loads(cli("desktops", "--json").out)] == [("Desktops", "pool")]
    said = cli("api", "post", f"/me/desktops/{pool}/connect", '{"client": "native"}')
    assert said.code == 0, said.err
    answer = json.loads(said.out)
    assert answer["state"] in ("starting", "queued", "ready") and answer["lease"], answer

    other = cli("login", "--user", f"fremd@{samba.realm}", given=f"{SECRET}\n")
    assert other.code == 0, other.err
    assert json.loads(cli("desktops", "--json").out) == []
    samba.add_user("zu", SECRET, disabled=True)
    disabled = cli("login", "--user", f"zu@{samba.realm}", given=f"{SECRET}\n")
    assert disabled.code in (1, 3) and "disabled" in disabled.err, "in the domain's own words"
    bad = cli("login", "--user", f"kathi@{samba.realm}", given="wrong\n")
    assert bad.code in (1, 3) and "wrong" in bad.err.lower(), bad.err
