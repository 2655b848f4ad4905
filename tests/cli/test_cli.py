"""The command line against a portal that is really served: sign in, list, act, pipe, wait, exit codes."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from backend.directory.models import Throttle
from backend.events import move
from backend.tasks.models import Task
from backend.tasks.submit import finish
from pools.models import Pool
from tests.cli.conftest import PATIENCE_S, Cli, Served, free_port
from tests.web.place import PASSWORD


def test_sign_in_use_and_sign_out(cli: Cli) -> None:
    said = cli("login", "--user", "alice", given=f"{PASSWORD}\n")
    assert (said.code, said.out) == (0, "")
    assert "Signed in as alice" in said.err
    assert stat.S_IMODE(cli.token_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(cli.token_file.parent.stat().st_mode) == 0o700
    token = json.loads(cli.token_file.read_text())[cli.served.url]
    assert token not in said.err
    assert PASSWORD not in cli.token_file.read_text()
    assert "name: alice" in cli("whoami").out
    without = ("LEASEHOLD_URL", "LEASEHOLD_CA_FILE")
    assert "name: alice" in cli("whoami", without=without).out, "the last portal and its CA are remembered"
    assert cli("logout").code == 0
    assert token not in cli.token_file.read_text()
    assert cli("whoami").code == 3
    cli.environ["LEASEHOLD_TOKEN"] = token
    assert cli("whoami").code == 3, "the portal has ended it too"


def test_a_token_is_shown_only_to_the_portal_that_gave_it(cli: Cli) -> None:
    cli("login", "--user", "alice", given=f"{PASSWORD}\n")
    heard: list[bytes] = []
    port = free_port()
    files = cli.served.place.settings
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.tls_cert_file, files.tls_cert_file.replace(".pem", "-key.pem"))
    with socket.create_server(("127.0.0.1", port)) as listener:

        def listen() -> None:
            taken, _ = listener.accept()
            with context.wrap_socket(taken, server_side=True) as peer:
                heard.append(peer.recv(65536))

        thread = threading.Thread(target=listen)
        thread.start()
        cli("--url", f"https://localhost:{port}", "whoami")
        thread.join(PATIENCE_S)
    assert heard
    assert b"authorization" not in heard[0].lower()


EXITS = [
    (("whoami",), {}, 3, "leasehold login"),
    (("vms", "status ="), {"who": "root"}, 1, "At character 9: expected one of its values"),
    (("vm", "start", "nothing-like-it"), {"who": "root"}, 1, "There is no vm named"),
    (("vm", "start"), {"who": "root"}, 2, "Missing argument"),
    (("vm", "fly", "x"), {"who": "root"}, 2, "No such command"),
    (("flights",), {"who": "root"}, 2, "No such command"),
    (("pool", "create", "P", "--size", "two"), {"who": "root"}, 2, "not a valid integer"),
    (("pool", "create", "P", "--template", "Small"), {"who": "root"}, 2, "--size"),
    (("pool", "create", "P", "--size", "1"), {"who": "bob"}, 2, "--template"),
    (("pool", "create", "P", "--template", "Small", "--size", "1"), {"who": "bob"}, 1, "no template named"),
    (("--url", "http://localhost:1", "vms"), {"who": "root"}, 2, "unprotected"),
    (("--url", "https://localhost:1", "vms"), {"who": "root"}, 4, "cannot be reached"),
    (("--ca-file", "/nowhere.pem", "vms"), {"who": "root"}, 4, "cannot be read"),
    (("login", "--user", "alice"), {"given": "wrong\n"}, 3, "user name or the password is wrong"),
    (("connect", "Nothing"), {"who": "alice"}, 1, "You have no desktop named"),
    (("connect",), {"who": "bob"}, 1, "You have no desktops"),
    (("connect",), {"who": "alice"}, 2, "several desktops"),
]


@pytest.mark.parametrize(("argv", "known", "code", "words"), EXITS)
def test_exit_codes_and_sentences(cli: Cli, argv: tuple[str, ...], known: dict[str, Any], code: int, words: str) -> None:
    asker = cli.as_(known["who"]) if "who" in known else cli
    said = asker(*argv, given=known.get("given", ""))
    assert (said.code, said.out) == (code, "")
    assert words in " ".join(said.err.split())
    assert "Traceback" not in said.err


def test_an_untrusted_certificate_is_no_portal(cli: Cli) -> None:
    said = cli.as_("root")("vms", without=("LEASEHOLD_CA_FILE",))
    assert said.code == 4
    assert "--ca-file" in said.err


def test_lists(cli: Cli) -> None:
    root = cli.as_("root")
    lines = root("vms", "pool = Desktops sortby name").out.splitlines()
    assert lines[0].split("\t") == ["name", "state", "host", "pool", "user", "ip"]
    assert [line.split("\t")[:5] for line in lines[1:]] == [
        ["desktops-1", "up", "alpha", "Desktops", "alice"], ["desktops-2", "down", "", "Desktops", ""]]
    told = json.loads(root("vms", "name = desktops-1", "--json").out)
    assert told[0]["id"] == str(cli.served.place.ids["vm"])
    assert root("vms", "name = desktops-1", "--ids").out == f"{cli.served.place.ids['vm']}\n"
    assert root("vms", "--columns", "name,vcpus", "--max", "1").out.splitlines()[0] == "name\tvcpus"
    assert root("vms", "--columns", "colour").code == 2
    assert "Desktops" in cli.as_("alice")("desktops").out


def test_the_map(cli: Cli) -> None:
    lines = cli.as_("root")("map").out.splitlines()
    assert lines[0].split("\t")[:4] == ["datacenter", "cluster", "name", "state"]
    assert [line.split("\t")[1:4] for line in lines[1:]] == [["Default", "alpha", "up"]]
    told = json.loads(cli.as_("root")("map", "--json").out)
    [host] = told["datacenters"][0]["clusters"][0]["hosts"]
    assert "desktops-1" in [vm["name"] for vm in host["running"]]


def test_more_than_a_page(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with cli.served.place.sessions.begin() as tx:
        tx.execute(sa.text("INSERT INTO event (severity, code, sentence, facts) "
                           "SELECT 'info', 'many', 'Number ' || n, '{}' FROM generate_series(1, 1203) n"))
    assert len(cli.as_("root")("events", "code = many", "--ids").out.split()) == 1203


def test_help_is_made_from_the_portal(cli: Cli) -> None:
    root = cli.as_("root")
    text = root("--help").out
    for word in ("vms", "vm", "pools", "pool", "leases", "host", "connect"):
        assert f"\n  {word} " in text
    assert "shutdown" in root("vm", "--help").out
    create = root("pool", "create", "--help").out
    for option in ("--template", "--size INTEGER", "--lease-s", "--rights"):
        assert option in create
    assert "--password " not in root("user", "create", "--help").out.replace("--password  ", "")


def test_a_pool_is_made_edited_and_removed_by_name(cli: Cli) -> None:
    root = cli.as_("root")
    made = root("pool", "create", "By CLI", "--template", "Small", "--size", "2", "--rights", "start,shutdown",
                "--rights", "reset")
    assert made.code == 0, made.err
    pool = json.loads(root("pools", "--json", 'name = "By CLI"').out)[0]
    assert made.out == f"{pool['id']}\n"
    assert pool["rights"] == ["start", "shutdown", "reset"]
    assert root("pool", "edit", "By CLI", "--size", "5", "--description", "x").code == 0
    assert root("pool", "entitle", "By CLI", "--user", "bob").code == 0
    assert "By CLI" in cli.as_("bob")("desktops").out
    assert root("pool", "remove", "By CLI", "--force").code == 0


def test_piped(cli: Cli) -> None:
    """As `leasehold vms "…" --ids | leasehold vm start -`."""
    root = cli.as_("root")
    ids = root("vms", "name = alices-own", "--ids").out
    said = root("vm", "start", "-", "--json", given=ids)
    assert said.code == 0, said.err
    task = json.loads(said.out)["task"]
    assert task["state"] == "queued"
    assert root("task", "cancel", task["id"]).code == 0
    assert root("task", "wait", task["id"]).code == 1, "it did not succeed"


def end_when_listed(served: Served, event: str, id: str) -> threading.Thread:
    """What the manager would do a moment later."""

    def end() -> None:
        with served.place.sessions.begin() as tx:
            task = tx.get_one(Task, int(id), with_for_update=True)
            move(tx, task, "claim", started_at=served.place.clock.now())
            error = {"code": "no", "message": "The host said no.", "facts": {}}
            finish(tx, task, event, served.place.clock.now(), progress=100, error=error if event == "fail" else None,
                   message="Done.")

    thread = threading.Timer(1.0, end)
    thread.start()
    return thread


@pytest.mark.parametrize(("event", "code", "words"), [("succeed", 0, "Done."), ("fail", 1, "The host said no.")])
def test_waiting_for_a_task(cli: Cli, event: str, code: int, words: str) -> None:
    root = cli.as_("root")
    task = json.loads(root("vm", "start", "alices-own", "--json").out)["task"]
    thread = end_when_listed(cli.served, event, task["id"])
    said = root("task", "wait", "-", given=f"{task['id']}\n")
    thread.join()
    assert said.code == code, said.err
    assert words in said.err


def test_a_host_is_announced(cli: Cli) -> None:
    said = cli.as_("root")("host", "add", "beta")
    assert said.code == 0, said.err
    assert said.out.startswith(f"leasehold-agent enroll --manager {cli.served.url} --token ")
    assert said.out.count("\n") == 1
    assert json.loads(cli.as_("root")("hosts", "name = beta", "--json").out)[0]["state"] == "installing"


def test_passwords_come_from_standard_input(cli: Cli) -> None:
    root = cli.as_("root")
    assert root("user", "create", "carol", "--password", given="carols good password\n").code == 0
    assert cli("login", "--user", "carol", given="carols good password\n").code == 0
    assert root("user", "password", "carol", given="another good password\n").code == 0
    assert cli("whoami").code == 3, "her sessions ended with the old password"
    refused = root("user", "create", "dave", "--password", given="short\n")
    assert (refused.code, "too short" in refused.err) == (1, True)


def test_a_directory_that_does_not_answer_is_not_added(cli: Cli) -> None:
    said = cli.as_("root")("directory", "add", "corp.example", "--servers", "ldaps://localhost:1", "--bind-user", "svc",
                           "--ca-pem", f"@{cli.served.ca_file}", given="secret\n")
    assert said.code in (1, 4), said.err
    assert "secret" not in said.err
    assert json.loads(cli.as_("root")("directories", "--json").out)[0]["name"] == "internal"
    internal = cli.as_("root")("directory", "test", "internal")
    assert (internal.code, "nothing to test" in internal.err) == (1, True)
    assert "alice" in cli.as_("root")("directory", "search", "internal", "ali").out


def test_the_raw_api(cli: Cli) -> None:
    assert json.loads(cli.as_("root")("api", "get", "/vms?max=1").out)["total"] >= 3
    assert cli.as_("root")("api", "post", "/pools", "{").code == 2


def test_too_many_guesses_are_told(cli: Cli) -> None:
    for _ in range(30):  # on a slow machine the first waits are over before the next guess
        said = cli("login", "--user", "auditor", given="wrong\n")
        if said.code == 1:
            break
    assert said.code == 1 and "Try again in" in said.err
    with cli.served.place.sessions.begin() as tx:
        tx.execute(sa.delete(Throttle))


def test_who_would_be_let_in_from_where(cli: Cli) -> None:
    admin = cli.as_("root")
    ask = ("accessrule", "test", "--user", "alice", "--pool", "Desktops", "--address")
    assert "Yes: alice from 10.1.2.3 would be let in" in admin(*ask, "10.1.2.3").err
    told = admin("accessrule", "create", "Not at home", "--effect", "deny", "--pool", "Desktops", "--network", "203.0.113.0/24",
                 "--sentence", "Come to the office.")
    assert told.code == 0, told.err
    assert admin("accessrule", "move", "Not at home", "--position", "1").code == 0
    said = admin(*ask, "203.0.113.9")
    assert (said.code, "would not be let in: Come to the office." in said.err) == (1, True), said.err
    assert admin("accessrule", "edit", "Not at home", "--pool", "").code == 0
    assert json.loads(admin("accessrules", "--json").out)[0]["pool"] is None
    assert admin(*ask, "home").code == 1
    assert "is not entitled" in admin("accessrule", "test", "--user", "bob", "--pool", "Desktops", "--address", "10.1.2.3").err
    assert admin("accessrule", "remove", "Not at home").code == 0


def test_a_token_is_made_used_listed_and_revoked(cli: Cli) -> None:
    alice = cli.as_("alice")
    made = alice("token", "create", "night run", "--days", "3", "--read-only")
    text = made.out.strip()
    assert (made.code, made.out.count("\n")) == (0, 1) and text.startswith("leasehold_") and text not in made.err
    robot = Cli(cli.served, cli.home, {**cli.environ, "LEASEHOLD_TOKEN": text})
    assert "name: alice" in robot("whoami").out and json.loads(robot("desktops", "--json").out)
    refused = robot("token", "create", "child")
    assert (refused.code, "may only read" in refused.err) == (1, True)
    listed = json.loads(alice("tokens", "--json").out)
    assert [(t["name"], t["read_only"], bool(t["used_at"])) for t in listed] == [("night run", True, True)]
    assert text not in alice("tokens", "--json").out
    assert alice("token", "revoke", "night run").code == 0
    assert robot("whoami").code == 3


def test_a_person_books_changes_and_cancels(cli: Cli) -> None:
    cli = cli.as_("alice")
    start = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    made = cli("booking", "create", "Exam", "--pool", "Desktops", "--starts-at", start.isoformat(), "--ends-at",
               (start + timedelta(hours=2)).isoformat(), "--json")
    assert made.code == 0, made.err
    id = json.loads(made.out)["booking"]["id"]
    told = cli("booking", "calendar", "Desktops")
    assert told.code == 0 and "Exam" in told.out and "Thesis" in told.out, told
    file = cli("booking", "ics", id)
    assert file.out.startswith("BEGIN:VCALENDAR") and f"UID:{id}@localhost" in file.out
    assert cli("booking", "edit", id, "--name", "Oral exam").code == 0
    assert "Oral exam" in cli("bookings", "state = booked").out
    none = cli("booking", "create", "Too long", "--pool", "Desktops", "--starts-at", start.isoformat(), "--ends-at",
               (start + timedelta(hours=12)).isoformat())
    assert none.code == 1 and "8 hours at most" in none.err
    assert cli("booking", "cancel", id).code == 0


def test_a_lease_is_explained_in_full_to_who_runs_the_pool_and_without_names_to_its_holder(cli: Cli) -> None:
    cli("login", "--user", "keeper", given=f"{PASSWORD}\n")
    said = cli("explain", "lease", "alice")
    assert said.code == 0 and said.out.startswith("It runs.\n"), said.err
    assert "decision  Desktop desktops-1 is ready for you.\n" in said.out and "desktops-2: leased to carol\n" in said.out
    cli("login", "--user", "alice", given=f"{PASSWORD}\n")
    own = cli("explain", "lease", "alice")
    assert own.code == 0 and "1 desktop was looked at" in own.out and "carol" not in own.out
    assert json.loads(cli("explain", "lease", "alice", "--json").out)["state"] == "active"


def test_a_pool_is_explained(cli: Cli) -> None:
    root = cli.as_("root")
    assert root("explain", "pool", "Desktops").out == "Nothing keeps pool Desktops from making and starting desktops.\n"
    with cli.served.place.sessions.begin() as tx:
        tx.execute(sa.update(Pool).values(trouble="No host has room.", trouble_code="memory", trouble_since=sa.func.now()))
    said = root("explain", "pool", "Desktops")
    assert said.code == 0 and said.out.startswith("No host has room. Since 20"), said.err
    assert json.loads(root("explain", "pool", "Desktops", "--json").out)["code"] == "memory"


def test_a_rollout_is_halted_and_rolled_back_by_its_pools_name(cli: Cli) -> None:
    cli("login", "--user", "keeper", given=f"{PASSWORD}\n")
    assert "Desktops" in cli("rollouts", "state = running").out
    refused = cli("pool", "roll-out", "Desktops", "--template", "Small 1", "--mode", "batches", "--batch", "2")
    assert refused.code == 1 and "is being rolled out" in refused.err
    assert cli("rollout", "halt", "Desktops").code == 0
    assert cli("rollout", "roll-back", "Desktops").code == 0
    assert "rolling_back" in cli("rollouts").out
