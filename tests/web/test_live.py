"""The change stream: no gap and no double, whoever writes in whatever order; only what one may see; it ends with the session."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from backend.changes import Change, touch
from backend.db import Sessions
from backend.directory import sessions as web_sessions
from backend.vms.models import Vm
from portal.live import Poller, stream
from sim import make
from sim.postgres import Cluster
from tests.web.place import Place

PATIENCE_S = 60


class Listener:
    """Reads a stream in a thread, as an EventSource would: events as (id, type, data)."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._news = threading.Condition()
        self.events: list[tuple[str, str, str]] = []
        self.over = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for chunk in self._lines:
            for block in chunk.split("\n\n"):
                fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
                if "event" in fields:
                    with self._news:
                        self.events.append((fields.get("id", ""), fields["event"], fields["data"]))
                        self._news.notify_all()
        with self._news:
            self.over = True
            self._news.notify_all()

    def wait(self, what: Any) -> None:
        with self._news:
            assert self._news.wait_for(lambda: what(self.events), PATIENCE_S), self.events[-5:]

    def wait_over(self) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.over, PATIENCE_S)

    def kinds(self) -> list[str]:
        return [kind for _, kind, _ in self.events]


@pytest.fixture
def listen(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("portal.live.COMMENT_S", 0.5)
    heard: list[tuple[Listener, Poller]] = []
    one = Poller(place.sessions)

    def begin(
        name: str, resume: tuple[int, int] | None = None, types: frozenset[str] = frozenset(), poller: Poller = one,
    ) -> Listener:
        listener = Listener(stream(poller, place.parts, place.tokens[name], types, resume))
        heard.append((listener, poller))
        listener.wait(lambda events: events)
        return listener

    yield begin
    for listener, poller in heard:
        poller.stop()
        listener.thread.join(PATIENCE_S)


def last_id(listener: Listener) -> tuple[int, int]:
    xid, id = next(id for id, _, _ in reversed(listener.events) if id).split(".")
    return int(xid), int(id)


@contextmanager
def held(maker: Sessions, kind: str, id: str, **whose: Any) -> Iterator[None]:
    """A change in a transaction that is still open."""
    with maker.begin() as tx:
        tx.execute(sa.text("SELECT pg_current_xact_id()"))  # as the first change of a row takes it
        touch(tx, kind, id, **whose)
        yield


def change(place: Place, kind: str, id: object, **whose: Any) -> None:
    with place.sessions.begin() as tx:
        touch(tx, kind, id, **whose)


def test_a_change_is_told(place: Place, listen: Any) -> None:
    root = listen("root")
    assert root.kinds() == ["hello"]
    change(place, "vm", place.ids["vm"])
    root.wait(lambda events: len(events) == 2)
    assert root.events[1][1:] == ("vm", f'{{"kind": "vm", "id": "{place.ids["vm"]}"}}')


def test_who_commits_late_is_neither_lost_nor_told_twice(place: Place, listen: Any) -> None:
    """The earlier transaction commits after the later one: readers by id alone would never see it."""
    root = listen("root")
    with held(place.sessions, "vm", "early"):
        change(place, "vm", "late")
        change(place, "host", "later")
    root.wait(lambda events: len(events) == 4)
    assert [data.split('"id": ')[1] for _, _, data in root.events[1:]] == ['"early"}', '"late"}', '"later"}']


def test_resume_without_a_gap_while_writers_commit_out_of_order(place: Place, listen: Any) -> None:
    """Twelve writers in random order; the listener is cut off again and again, and goes on where it was, at another
    process every time."""
    wanted: set[str] = set()
    lock = threading.Lock()

    def write(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(12):
            with place.sessions() as tx:
                tx.execute(sa.text("SELECT pg_current_xact_id()"))  # as the first change of a row takes it
                ids = [uuid4().hex for _ in range(dice.randint(1, 4))]
                for id in ids:
                    touch(tx, "host", id)
                    threading.Event().wait(dice.random() * 0.02)
                if dice.random() < 0.2:
                    tx.rollback()
                else:
                    tx.commit()
                    with lock:
                        wanted.update(ids)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(12)]
    got: list[str] = []
    listener = listen("root")
    start = last_id(listener)
    for writer in writers:
        writer.start()
    cut = 0
    while any(writer.is_alive() for writer in writers) or not wanted <= set(got):
        lines = stream(Poller(place.sessions), place.parts, place.tokens["root"], frozenset({"host"}), start)
        for chunk in lines:
            for block in filter(None, chunk.split("\n\n")):
                fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
                assert fields.get("event") != "reset"
                if fields.get("event") == "host":
                    got.append(fields["data"])
                    xid, id = fields["id"].split(".")
                    assert (int(xid), int(id)) > start
                    start = (int(xid), int(id))
            if len(got) > 5 * (cut + 1):
                break
            if not any(writer.is_alive() for writer in writers) and len(got) >= len(wanted):
                break
        lines.close()  # type: ignore[attr-defined]
        cut += 1
        got = [data.split('"id": "')[1].rstrip('"}') if "{" in data else data for data in got]
    assert len(got) == len(set(got)), "nothing is told twice"
    assert set(got) == wanted
    assert cut > 3


def test_a_listener_that_comes_back_too_late_is_told_to_look_at_everything(place: Place, listen: Any) -> None:
    for n in range(3):
        change(place, "vm", n)
    with place.sessions.begin() as tx:
        tx.execute(sa.delete(Change))
    change(place, "vm", "new")
    listener = listen("root", (1, 1))
    assert listener.kinds() == ["reset"]
    change(place, "vm", "after")
    listener.wait(lambda events: any("after" in data for _, _, data in events))


def test_far_behind_is_read_from_the_database(place: Place, listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.live.AT_ONCE", 7)
    first = listen("root")
    start = last_id(first)
    with place.sessions.begin() as tx:
        for n in range(40):
            touch(tx, "host", n)
    first.wait(lambda events: len(events) == 41)
    late = listen("root", start, poller=Poller(place.sessions))
    late.wait(lambda events: len(events) == 41)
    assert late.events[1:] == first.events[1:]


def test_only_the_wanted_kinds(place: Place, listen: Any) -> None:
    listener = listen("root", types=frozenset({"task", "lease"}))
    for kind in ("vm", "task", "host", "lease"):
        change(place, kind, "x")
    listener.wait(lambda events: len(events) == 3)
    assert listener.kinds() == ["hello", "task", "lease"]


def test_everybody_is_told_only_what_they_may_see(place: Place, listen: Any) -> None:
    people = {name: listen(name) for name in ("root", "auditor", "keeper", "alice", "bob")}
    pool, alice, bob = place.ids["pool"], place.people["alice"], place.people["bob"]
    with place.sessions.begin() as tx:
        other = make.a_vm(tx, "other")
    change(place, "vm", place.ids["vm"], pool_id=pool)  # alice's leased desktop
    change(place, "vm", place.ids["own_vm"])  # alice's own
    change(place, "vm", other.id)  # nobody's
    change(place, "lease", place.ids["lease"], user_id=alice, pool_id=pool)
    change(place, "lease", uuid4(), user_id=bob, pool_id=pool)  # in alice's pool, and not hers
    change(place, "host", place.ids["host"])
    change(place, "task", place.ids["task"], user_id=alice)  # about a desktop of the pool
    change(place, "permission", uuid4(), user_id=bob)
    change(place, "session", uuid4(), user_id=uuid4())
    change(place, "end", "x", user_id=alice)
    change(place, "end", "x", user_id=bob)
    change(place, "end", "x", pool_id=pool)

    people["root"].wait(lambda events: len(events) == 13)
    for name, count in {"alice": 7, "bob": 4}.items():
        people[name].wait(lambda events, count=count: len(events) >= count)
    told = {name: [(kind, data.split('"id": "')[1].rstrip('"}')) for _, kind, data in listener.events[1:]]
            for name, listener in people.items()}
    vm, own, lease, task = (str(place.ids[k]) for k in ("vm", "own_vm", "lease", "task"))
    assert told["alice"] == [("vm", vm), ("vm", own), ("lease", lease), ("pool", str(pool)), ("task", task), ("end", "x")]
    assert [kind for kind, _ in told["bob"]] == ["lease", "permission", "end"]
    people["keeper"].wait(lambda events: len(events) >= 5)
    keeper = [(kind, data.split('"id": "')[1].rstrip('"}')) for _, kind, data in people["keeper"].events[1:]]
    assert keeper[0] == ("vm", vm)
    assert ("vm", own) not in keeper
    assert ("host", str(place.ids["host"])) not in keeper
    assert ("task", task) in keeper
    assert [kind for kind, _ in keeper].count("lease") == 2
    assert "permission" not in [kind for kind, _ in keeper]
    assert ("host", str(place.ids["host"])) in told["auditor"]


def test_new_rights_count_in_a_stream_that_runs(place: Place, listen: Any) -> None:
    bob = listen("bob")
    said = place.as_("keeper").post(f"/api/v1/pools/{place.ids['pool']}/entitlements", {"user_id": str(place.people["bob"])})
    assert said.status_code == 202
    bob.wait(lambda events: "permission" in [kind for _, kind, _ in events])
    change(place, "member", place.ids["member"], pool_id=place.ids["pool"])
    bob.wait(lambda events: events[-1][1] == "pool")


@pytest.mark.parametrize("how", ["signed out", "disabled", "quietly"])
def test_the_stream_ends_with_the_session(place: Place, listen: Any, how: str) -> None:
    alice = listen("alice")
    if how == "signed out":
        place.as_("alice").delete("/api/v1/session")
    elif how == "disabled":
        place.as_("root").post(f"/api/v1/users/{place.people['alice']}/edit", {"enabled": False})
    else:
        place.clock.time += web_sessions.LASTS["api"]
    alice.wait_over()
    assert alice.kinds()[-1] == "end"


def test_it_ends_when_the_process_stops(place: Place, listen: Any) -> None:
    poller = Poller(place.sessions)
    root = listen("root", poller=poller)
    poller.stop()
    root.wait_over()


def test_over_http(place: Place) -> None:
    client = place.as_("root")
    said = client.get("/api/v1/changes", buffered=False)
    assert (said.status_code, said.mimetype) == (200, "text/event-stream")
    assert said.headers["Cache-Control"] == "no-store"
    lines = iter(said.response)
    assert b"event: hello" in next(lines)
    with place.sessions.begin() as tx:
        touch(tx, "vm", tx.scalars(sa.select(Vm.id)).first())
    assert any(b"event: vm" in chunk for chunk in lines)
    said.close()
    assert place.as_(None).get("/api/v1/changes").status_code == 401
    assert client.get("/api/v1/changes", headers={"Last-Event-ID": "x"}).status_code == 422


def test_a_session_has_so_many_streams_and_no_more_and_gets_them_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.live.SEATS", 3)
    alice, seats, poller = place.as_("alice"), place.app.extensions["seats"], place.app.extensions["poller"]
    open_ones = [alice.get("/api/v1/changes") for _ in range(3)]
    next(iter(open_ones[0].response))  # one is read from, the others were never begun
    told = alice.get("/api/v1/changes")
    assert (told.status_code, told.get_json()["error"]["code"]) == (429, "too_many_streams")
    assert told.headers["Retry-After"] and "close one of its windows" in told.get_json()["error"]["message"]
    other = place.as_("bob").get("/api/v1/changes")
    assert other.status_code == 200
    for one in (*open_ones, other):
        one.close()
    assert seats._taken == {} and poller._streams == 0
    again = alice.get("/api/v1/changes")
    assert again.status_code == 200
    again.close()
    assert seats._taken == {}


def test_a_stream_that_is_dropped_unread_and_unclosed_frees_its_place(place: Place) -> None:
    with place.app.test_request_context("/api/v1/changes", headers={"Authorization": f"Bearer {place.tokens['alice']}"}):
        place.app.dispatch_request()
    assert place.app.extensions["seats"]._taken == {}


def test_a_stream_that_cannot_begin_is_not_counted(place: Place, cluster: Cluster) -> None:
    """Else the poller would go on for ever with nobody listening."""
    engine = sa.create_engine(cluster.url("there_is_no_such_database"))
    poller = Poller(sessionmaker(engine))
    for _ in range(2):
        with pytest.raises(sa.exc.OperationalError):
            poller.join()
    assert poller._streams == 0
    listening = Poller(place.sessions)
    listening.join()
    listening.leave()
    assert listening._streams == 0
