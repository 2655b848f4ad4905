"""People who work on desktops while everything is killed around them, each in a thread of their own."""

from __future__ import annotations

import json
import random
import struct
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import urllib3

from bench.rfb import Viewer
from tests.chaos.place import PASSWORD, Place, person

SILENCE_S = 60  # nobody waits longer for one answer
PAUSE_S = 0.3
BOOKS = 0.2  # of the visits are booked before
SHORTEST = timedelta(minutes=5)  # that a booking may last
KEY = struct.pack(">BBxxI", 4, 1, 0x61)


class Over(Exception):
    """The run is over, or was given up: whoever still tries may stop."""


@dataclass
class Told:
    """What all people have seen together."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # seconds until an answer, a screen
    seen: dict[str, list[tuple[float, float, str]]] = field(default_factory=lambda: defaultdict(list))  # VM: from, to, who
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def fault(self, sentence: str) -> None:
        with self.lock:
            self.faults.append(sentence)

    def waited(self, what: str, seconds: float) -> None:
        with self.lock:
            self.waits[what].append(seconds)

    def saw(self, vm: str, since: float, until: float, who: str) -> None:
        with self.lock:
            self.seen[vm].append((since, until, who))


class Console(Viewer):
    """A console whose display sends everything back."""

    def enter(self) -> None:
        """noVNC's part, until the display itself has answered."""
        self._exactly(12)
        self._send(b"RFB 003.008\n")
        self._exactly(self._exactly(1)[0])
        self._send(b"\x01")
        if any(self._exactly(4)):
            raise ConnectionError("The gateway lets nobody in.")
        self._send(b"\x01")
        self._exactly(1)

    def trip(self) -> None:
        """A key, and its echo."""
        self._send(KEY)
        if self._exactly(len(KEY)) != KEY:
            raise ConnectionError("The display sends back something else.")


class Person:
    """One person: `live` until `over`, then `come_back` once more, when everything must work."""

    def __init__(self, place: Place, told: Told, n: int, over: threading.Event) -> None:
        self.place, self.told, self.name, self.over = place, told, person(n), over
        self.pools = [str(id) for id in place.pools_of(n)]
        self.dice = random.Random(f"{place.options.seed}/{n}")
        self.token = ""
        self.give_up_at = float("inf")
        self.http = urllib3.PoolManager(ssl_context=place.trust(), retries=False, timeout=SILENCE_S)

    # -- their days --------------------------------------------------------------------------------
    def live(self) -> None:
        """One visit after the other."""
        while not self.over.is_set():
            try:
                hold_s = self.dice.uniform(0.5, self.place.options.lease_s * 1.2)
                if self.dice.random() < BOOKS:
                    self._booked_visit(self.dice.choice(self.place.pools), hold_s)
                else:
                    self._visit(self.dice.choice(self.pools), hold_s)
            except Over:
                self._cancel_all()
                return
            except Exception as wrong:  # noqa: BLE001 -- the edge of a thread: whatever it is, the run must tell of it
                self.told.fault(f"{self.name} stumbled over {type(wrong).__name__}: {wrong}")
                return

    def come_back(self, limit_s: float) -> None:
        """A last visit, with nothing killed any more: sign in, get a desktop, see its screen, give it back."""
        self.over, self.give_up_at = threading.Event(), time.monotonic() + limit_s
        try:
            self._sign_in()
            for pool in self.pools:  # what chaos has left them
                self._return(pool)
            pool = self.dice.choice(self.pools)
            while not self._hold(pool, 0.1):
                self._rest(PAUSE_S)
            self._return(pool)
        except Over:
            self.told.fault(f"{self.name} got no desktop after everything was at rest.")
        except Exception as wrong:  # noqa: BLE001 -- the edge of a thread: whatever it is, the run must tell of it
            self.told.fault(f"{self.name} stumbled at the end over {type(wrong).__name__}: {wrong}")

    def _booked_visit(self, pool_id: UUID, hold_s: float) -> None:
        """Book a desktop for a little later, come when its time begins, or do not, and cancel the booking."""
        pool = str(pool_id)
        if not self.token:
            self._sign_in()
        starts = datetime.now(UTC) + timedelta(seconds=self.dice.uniform(1, self.place.options.lease_s))
        wish = {"pool_id": pool, "starts_at": starts.isoformat(), "ends_at": (starts + SHORTEST).isoformat()}
        booking = self._ask("POST", "/me/bookings", wish).get("booking")
        if booking is None:
            return  # all are booked or in use then, and they were told so
        self.told.count("booked")
        if self.dice.random() < 0.8:
            self._rest(max(0.0, (starts - datetime.now(UTC)).total_seconds()))
            self._hold(pool, hold_s, booked=booking["id"])
        self._cancel(booking["id"])
        self._return(pool)
        self._rest(self.dice.uniform(0, 2))

    def _cancel(self, booking: str) -> None:
        self._ask("POST", f"/me/bookings/{booking}/cancel", {})
        self.told.count("cancelled a booking")

    def _cancel_all(self) -> None:
        """The run is over: nothing that they booked keeps desktops for minutes to come."""
        self.over, self.give_up_at = threading.Event(), time.monotonic() + self.place.options.settle_s
        try:
            self._sign_in()
            for booking in self._ask("GET", "/me/bookings").get("items", []):
                if booking["state"] in ("booked", "preparing", "running"):
                    self._cancel(booking["id"])
                    self._return(booking["pool_id"])
        except Over:
            self.told.fault(f"{self.name} could not cancel what they had booked.")

    def _visit(self, pool: str, hold_s: float) -> None:
        if not self.token:
            self._sign_in()
        listed = self._ask("GET", "/me/desktops")
        if pool not in [item["id"] for item in listed.get("items", [])]:
            self.told.fault(f"{self.name} does not see a pool of theirs: {listed}")
        self._hold(pool, hold_s)
        end = self.dice.random()
        if end < 0.5:
            self._return(pool)
        elif end < 0.7:
            self._ask("DELETE", "/session")
            self.token = ""
            self.told.count("signed out with a lease")
        else:
            self.http.clear()
            self.token = ""
            self.told.count("vanished")
        self._rest(self.dice.uniform(0, 2))

    def _sign_in(self) -> None:
        while not self.token:
            self.token = self._ask("POST", "/session", {"user": self.name, "password": PASSWORD}).get("token", "")
            if not self.token:  # tries that a kill cut off count as failed ones: they are told to wait
                self._rest(PAUSE_S)

    def _hold(self, pool: str, hold_s: float, booked: str = "") -> bool:
        """Work on a desktop for so long, connecting again whenever the console breaks; whether it was seen at all. With a
        desktop `booked`, nobody else's booking may be in the way."""
        asked, until, seen, patience = time.monotonic(), time.monotonic() + hold_s, False, self.dice.uniform(3, 20)
        impatient_at = time.monotonic() + patience
        while not seen or time.monotonic() < until:
            got = self._ask("POST", f"/me/desktops/{pool}/connect", {"protocol": "vnc", "client": "browser", "move": True})
            if got.get("state") != "ready":
                if not got.get("error") and not got.get("sentence"):
                    self.told.fault(f"{self.name} waits and is not told why: {got}")
                if booked and "are booked" in str(got.get("sentence")) and self._still(booked):
                    self.told.fault(f"{self.name}, who has booked, waits for who has booked: {got}")
                if time.monotonic() > impatient_at and self.give_up_at == float("inf"):
                    self.told.count("left while waiting")
                    return seen
                self._rest(PAUSE_S)
                continue
            try:
                if not seen:
                    self.told.waited("for a desktop that was booked" if booked else "for a desktop", time.monotonic() - asked)
                seen = self._watch(got, until) or seen
            except OSError as broken:
                self.told.count("console broke")
                self._judge(str(broken))
                self._rest(PAUSE_S)
            if self.dice.random() < 0.3:
                self._ask("POST", f"/leases/{got['lease']['id']}/extend", {})
                self.told.count("asked to extend")
        return seen

    def _watch(self, got: dict[str, Any], until: float) -> bool:
        viewer, since, last = got["viewer"], 0.0, 0.0
        console = Console(viewer["url"], viewer["protocols"], token=self.token, origin=self.place.public,
                          ca_file=f"{self.place.folder}/ca.pem", limit_s=SILENCE_S)  # fmt: skip
        try:
            console.enter()
            self.told.count("console seen")
            since = time.monotonic()
            while True:
                asked = time.monotonic()
                console.trip()
                last = asked  # it was theirs when they asked, at least
                if time.monotonic() >= until:
                    return True
                self._rest(0.2)
        finally:
            if last:
                self.told.saw(got["vm"]["id"], since, last, self.name)
            console.close()

    def _still(self, booking: str) -> bool:
        """Whether the booking goes on."""
        mine = self._ask("GET", "/me/bookings").get("items", [])
        return any(one["id"] == booking and one["state"] == "running" for one in mine)

    def _judge(self, why: str) -> None:
        """A console ends by a broken connection or with a sentence."""
        if why.startswith("The gateway closed the console:") and not why.removeprefix("The gateway closed the console:").strip():
            self.told.fault(f"{self.name}'s console was closed without a word.")

    def _return(self, pool: str) -> None:
        """Give back what they hold of the pool."""
        for item in self._ask("GET", "/me/desktops").get("items", []):
            if item["id"] == pool and item["lease"]:
                self._ask("POST", f"/leases/{item['lease']['id']}/return", {})
                self.told.count("returned")

    # -- asking ------------------------------------------------------------------------------------
    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer, or a refusal in words; while nobody answers, ask again with the same key."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= {"Idempotency-Key": str(uuid4())} if method == "POST" and path != "/session" else {}
        content, began = json.dumps(body).encode() if body is not None else None, time.monotonic()
        while True:
            try:
                answer = self.http.request(method, f"{self.place.public}/api/v1{path}", headers=headers, body=content)
            except (urllib3.exceptions.HTTPError, OSError) as lost:
                self.told.count(f"lost: {type(lost).__name__}")
                self._rest(PAUSE_S)
                continue
            told = self._read(method, path, answer)
            if answer.status < 500:
                self.told.waited("for an answer, all tries together", time.monotonic() - began)
                return told
            self._rest(PAUSE_S)

    def _read(self, method: str, path: str, answer: Any) -> dict[str, Any]:
        path = "/".join("…" if _is_id(word) else word for word in path.split("/"))
        self.told.count(f"{method} {path}: {answer.status}")
        try:
            told: dict[str, Any] = json.loads(answer.data) if answer.data else {}
        except ValueError:
            self.told.fault(f"{method} {path} answered {answer.status} with what is no JSON: {answer.data[:200]!r}")
            return {}
        if answer.status >= 400:
            error = told.get("error") or {}
            code, sentence = error.get("code", ""), str(error.get("message", ""))
            self.told.count(f"  {answer.status} {code}: {sentence}" if answer.status >= 500 else f"  {answer.status} {code}")
            if not code or not sentence.endswith((".", "?", "!")) or answer.status == 500:
                self.told.fault(f"{method} {path} answered {answer.status} unclearly: {answer.data[:300]!r}")
            if answer.status == 401:
                self.token = ""
        return told

    def _rest(self, seconds: float) -> None:
        if self.over.wait(seconds) or time.monotonic() > self.give_up_at:
            raise Over


def _is_id(word: str) -> bool:
    try:
        UUID(word)
    except ValueError:
        return False
    return True
