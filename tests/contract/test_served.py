"""The TLS server and its client: who may ask, what is refused, and that nobody holds up the others."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from backend.clock import WallClock
from hostapi.client import HostClient, HostUnreachable, client_context
from hostapi.desk import Desk
from hostapi.journal import Journal
from hostapi.server import HostServer, server_context
from hostapi.types import VmSpec
from hostapi.wire import API_HEADER, api_version
from sim.world import World
from tests.pki import Certificate, Pki


@pytest.fixture
def world() -> World:
    world = World(WallClock())
    world.add_host("h1")
    return world


@pytest.fixture
def server(world: World, pki: Pki) -> Iterator[HostServer]:
    server = HostServer(world.desk("h1"), "127.0.0.1", 0, server_context(*pki.issue("host")))
    server.start()
    yield server
    server.stop()


def client(server: HostServer, certificate: Certificate, **more: float) -> HostClient:
    return HostClient("127.0.0.1", server.port, client_context(*certificate), **more)


def raw(server: HostServer, pki: Pki, body: bytes, path: str = "/ask", **headers: str) -> tuple[int, dict[str, object]]:
    context = client_context(*pki.issue("manager"))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=10)
    try:
        connection.request("POST", path, body, {API_HEADER: api_version(), **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("role", ["gateway", "host", "nobody"])
def test_only_managers_may_ask(server: HostServer, pki: Pki, world: World, role: str) -> None:
    stranger = client(server, pki.issue(role))
    with pytest.raises(HostUnreachable) as refused:
        stranger.ask(uuid4(), "start_vm", {"spec": VmSpec(uuid4(), "w", 64, 1)}, wait_s=5)
    assert refused.value.code == "not_a_manager"
    with pytest.raises(HostUnreachable):
        stranger.report()
    assert world.host("h1").runs == {}


def test_a_portal_may_move_files_and_nothing_else(server: HostServer, pki: Pki, world: World) -> None:
    portal, id = client(server, pki.issue("portal")), uuid4()
    assert portal.write_part("/srv/a", id, 0, b"abc") == portal.part_size("/srv/a", id) == 3
    for ask in (
        lambda: portal.ask(uuid4(), "start_vm", {"spec": VmSpec(uuid4(), "w", 64, 1)}, wait_s=5),
        lambda: portal.ask(uuid4(), "part_size", {"domain_path": "/srv/a", "volume_id": id}, wait_s=5),
        lambda: portal.watch([uuid4()], wait_s=0),
        lambda: portal.cancel(uuid4()),
        portal.report,
        portal.host_cpu,
    ):
        with pytest.raises(HostUnreachable) as refused:
            ask()
        assert refused.value.code == "not_a_manager"
    assert world.host("h1").runs == {}


def test_a_certificate_of_another_ca_ends_in_the_handshake(server: HostServer, pki: Pki, tmp_path: Path) -> None:
    alien = Pki(tmp_path / "alien").issue("manager")
    with pytest.raises(HostUnreachable):
        client(server, Certificate(pki.ca_file, alien.cert_file, alien.key_file)).report()


def test_nobody_without_a_certificate(server: HostServer, pki: Pki) -> None:
    context = ssl.create_default_context(cafile=str(pki.ca_file))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with context.wrap_socket(socket.create_connection(("127.0.0.1", server.port)), server_hostname="localhost") as sock:
            sock.sendall(b"POST /ask HTTP/1.1\r\n\r\n")
            sock.recv(1)


@pytest.mark.parametrize("role", ["manager", "gateway"])
def test_what_answers_must_be_a_host(world: World, pki: Pki, role: str) -> None:
    server = HostServer(world.desk("h1"), "127.0.0.1", 0, server_context(*pki.issue(role)))
    server.start()
    try:
        with pytest.raises(HostUnreachable, match="not a host's"):
            client(server, pki.issue("manager")).report()
    finally:
        server.stop()


def test_a_host_of_another_address_is_not_believed(server: HostServer, pki: Pki) -> None:
    elsewhere = HostClient("127.0.0.2", server.port, client_context(*pki.issue("manager")))
    with pytest.raises(HostUnreachable):
        elsewhere.report()


def test_another_version_is_refused_in_words(server: HostServer, pki: Pki) -> None:
    status, answer = raw(server, pki, b"{}", **{API_HEADER: "0123456789abcdef"})
    assert status == 409
    error = answer["error"]
    assert isinstance(error, dict) and error["code"] == "version_mismatch"
    assert "0123456789abcdef" in error["message"] and "same version" in error["message"]


@pytest.mark.parametrize(("path", "body", "length"), [
    ("/ask", b"not json", None), ("/ask", b"{}", None), ("/ask", b'{"uid": "x"}', None), ("/fly", b"{}", None),
    ("/question", b'{"verb": "stop_vm", "args": {}}', None), ("/question", b'{"verb": "screens", "args": {"vm_ids": 5}}', None),
    ("/ask", b"", "999999999"), ("/ask", b"", "-1"), ("/ask", b"", "many"),
])
def test_garbage_is_refused_and_harms_nobody(server: HostServer, pki: Pki, path: str, body: bytes, length: str | None) -> None:
    headers = {"Content-Length": length} if length else {}
    status, answer = raw(server, pki, body, path, **headers)
    assert status == 400
    error = answer["error"]
    assert isinstance(error, dict) and error["code"] == "bad_request"
    assert client(server, pki.issue("manager")).report().hostname == "h1"


def test_silent_and_babbling_strangers_hold_nobody_up(server: HostServer, pki: Pki) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    babbling = socket.create_connection(("127.0.0.1", server.port))
    babbling.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert client(server, pki.issue("manager")).report().hostname == "h1"
    for one in [*silent, babbling]:
        one.close()


def test_many_ask_at_once(server: HostServer, pki: Pki, world: World) -> None:
    asker, errors = client(server, pki.issue("manager")), []
    specs = [VmSpec(uuid4(), f"w{n}", 64, 1) for n in range(60)]

    def start(spec: VmSpec) -> None:
        if asker.ask(uuid4(), "start_vm", {"spec": spec}, wait_s=20).state != "done":
            errors.append(spec)

    threads = [threading.Thread(target=start, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert set(world.host("h1").runs) == {spec.vm_id for spec in specs}


def test_the_connection_is_kept(server: HostServer, pki: Pki) -> None:
    asker = client(server, pki.issue("manager"))
    accepted: list[object] = []
    accept = server.get_request

    def counted() -> object:
        accepted.append(1)
        return accept()

    server.get_request = counted  # type: ignore[method-assign,assignment]
    for _ in range(20):
        asker.report()
    assert len(accepted) == 1


def test_a_restarted_host_is_reached_again_on_a_kept_connection(world: World, pki: Pki) -> None:
    certificate = pki.issue("host")
    server = HostServer(world.desk("h1"), "127.0.0.1", 0, server_context(*certificate))
    server.start()
    asker = client(server, pki.issue("manager"))
    asker.report()
    port = server.port
    server.stop()
    again = HostServer(world.desk("h1"), "127.0.0.1", port, server_context(*certificate))
    again.start()
    try:
        assert asker.report().hostname == "h1"
    finally:
        again.stop()


def test_silence_is_unreachable_and_no_answer(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        asker = HostClient(
            "127.0.0.1", deaf.getsockname()[1], client_context(*pki.issue("manager")), connect_s=0.5
        )
        with pytest.raises(HostUnreachable):
            asker.report()
    with pytest.raises(HostUnreachable):
        asker.report()  # nobody listens any more


def test_a_network_cut_while_asking_loses_the_answer_but_not_the_step(world: World) -> None:
    world.launch_s = 0.3
    spec, uid, door = VmSpec(uuid4(), "w", 64, 1), uuid4(), world.door("h1")
    threading.Timer(0.1, world.do, ["network h1 off"]).start()
    with pytest.raises(HostUnreachable):
        door.ask(uid, "start_vm", {"spec": spec}, wait_s=5)
    world.do("network h1 on")
    assert door.ask(uid, "start_vm", {"spec": spec}, wait_s=5).state == "done"


def test_a_bug_in_a_verb_ends_its_step_and_not_the_agent(world: World, caplog: pytest.LogCaptureFixture) -> None:
    desk, spec = world.desk("h1"), VmSpec(uuid4(), "w", 64, 1)
    host = world.host("h1")
    host.runs = None  # type: ignore[assignment]
    outcome = desk.ask(uuid4(), "start_vm", {"spec": spec}, wait_s=5)
    assert outcome.failure is not None and outcome.failure.code == "internal_error"
    host.runs = {}
    assert desk.ask(uuid4(), "start_vm", {"spec": spec}, wait_s=5).state == "done"
    assert "failed by a bug" in caplog.text


def test_an_outcome_that_cannot_be_journalled_is_answered_all_the_same(world: World) -> None:
    journal = Journal(None)
    desk, uid = Desk(world.host("h1"), journal), uuid4()
    world.launch_s = 0.2
    spec = VmSpec(uuid4(), "w", 64, 1)
    assert desk.ask(uid, "start_vm", {"spec": spec}, wait_s=0).state == "running"
    journal._db.execute("ALTER TABLE step RENAME COLUMN outcome TO elsewhere")  # as good as a full disk
    end = time.monotonic() + 10
    while (outcome := desk.ask(uid, "start_vm", {"spec": spec}, wait_s=1)).state == "running":
        assert time.monotonic() < end
    assert outcome.state == "done"


def test_steps_are_watched_together_until_one_ends(world: World, server: HostServer, pki: Pki) -> None:
    asker, world.boot_s = client(server, pki.issue("manager")), 0.4
    spec, other, boot = VmSpec(uuid4(), "w", 64, 1), VmSpec(uuid4(), "x", 64, 1), uuid4()
    assert asker.ask(uuid4(), "start_vm", {"spec": spec}, wait_s=20).state == "done"
    asked = {"vm_id": spec.vm_id, "timeout_s": 60}
    assert asker.ask(boot, "await_boot", asked, wait_s=0).state == "running"
    assert list(asker.watch([boot], wait_s=0)) == [boot]
    assert asker.watch([boot], wait_s=20) == {}  # as soon as it has ended
    assert asker.ask(boot, "await_boot", asked, wait_s=0).state == "done"
    world.boot_s = 3600
    assert asker.ask(uuid4(), "start_vm", {"spec": other}, wait_s=20).state == "done"
    boot = uuid4()
    assert asker.ask(boot, "await_boot", {"vm_id": other.vm_id, "timeout_s": 7200}, wait_s=0).state == "running"
    assert list(asker.watch([boot, uuid4()], wait_s=20)) == [boot]  # one that nobody knows is not waited for
    threading.Timer(0.2, server.desk.close).start()
    with pytest.raises(HostUnreachable):
        asker.watch([boot], wait_s=20)
