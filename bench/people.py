"""People who sign in, list their desktops and connect, all at once: `python -m bench.people`, a process of its own.

Every person is another user with a connection of their own: TLS handshake, POST session, GET me/desktops, POST
connect. Loopback only; the number of people and the time are bounded. The result is a JSON file.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import socket
import ssl
from collections import deque
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
from gevent.event import Event

from bench.cast import PASSWORD, person
from bench.processes import cpu_s

SILENCE_S = 300  # a person waits no longer for one answer, on however busy a machine


class Connection:
    """One keep-alive connection over TLS, and just enough HTTP for a server that sends Content-Length."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.host = f"127.0.0.1:{port}"
        plain = socket.create_connection(("127.0.0.1", port), SILENCE_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        self._read = b""

    def ask(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        """Status and JSON of the answer."""
        content = b"" if body is None else json.dumps(body).encode()
        head = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", f"Content-Length: {len(content)}"]
        head += ["Content-Type: application/json"] * bool(content) + [f"Authorization: Bearer {token}"] * bool(token)
        self._socket.sendall("\r\n".join([*head, "", ""]).encode() + content)
        while b"\r\n\r\n" not in self._read:
            self._more()
        lines, _, self._read = self._read.partition(b"\r\n\r\n")
        names = dict(line.lower().split(b": ", 1) for line in lines.split(b"\r\n")[1:])
        length = int(names.get(b"content-length", 0))
        while len(self._read) < length:
            self._more()
        content, self._read = self._read[:length], self._read[length:]
        return int(lines.split(b" ", 2)[1]), json.loads(content) if content else None

    def _more(self) -> None:
        more = self._socket.recv(65536)
        if not more:
            raise ConnectionError("The server hung up.")
        self._read += more

    def close(self) -> None:
        self._socket.close()


def flow(port: int, context: ssl.SSLContext, name: str, pool: str) -> dict[str, Any]:
    """One person's way to a desktop; the times in ms of its parts, and what was got."""
    began = perf_counter()
    connection = Connection(port, context)
    try:
        at = [began]

        def ask(want: int, *question: Any, **more: Any) -> Any:
            status, answer = connection.ask(*question, **more)
            at.append(perf_counter())
            if status != want:
                raise ConnectionError(f"{question[0]} {question[1]} answered {status}: {str(answer)[:300]}")
            return answer

        token = ask(201, "POST", "/api/v1/session", {"user": name, "password": PASSWORD})["token"]
        listed = ask(200, "GET", "/api/v1/me/desktops", token=token)
        if pool not in [item["id"] for item in listed["items"]]:
            raise ConnectionError("The pool is not in the list.")
        got = ask(201, "POST", f"/api/v1/me/desktops/{pool}/connect", {"protocol": "vnc", "client": "browser"}, token=token)
        parts = dict(zip(("sign_in", "list", "connect"), ((b - a) * 1000 for a, b in zip(at, at[1:], strict=False)), strict=True))
        return {"ms": (at[-1] - began) * 1000, **parts, "token": token, "lease": got["lease"]["id"]}
    finally:
        connection.close()


def storm(given: argparse.Namespace, context: ssl.SSLContext) -> dict[str, Any]:
    """`at_once` people at the same time until `flows` of them have gone through."""
    waiting = deque(range(given.first, given.first + given.flows))
    done: list[dict[str, Any]] = []
    failed: list[str] = []
    start = Event()

    def one() -> None:
        start.wait()
        while waiting:
            name = person(waiting.popleft())
            try:
                done.append(flow(given.port, context, name, given.pool))
            except (OSError, KeyError, ValueError) as error:
                failed.append(f"{name}: {error}")

    people = [gevent.spawn(one) for _ in range(given.at_once)]
    gevent.sleep(0)
    before = {name: cpu_s(pid) for name, pid in given.watch}
    own, began = cpu_s(given.self), perf_counter()
    start.set()
    gevent.joinall(people, timeout=given.limit_s)
    took = perf_counter() - began
    used = {name: cpu_s(pid) - before[name] for name, pid in given.watch}
    used["people"] = cpu_s(given.self) - own
    gevent.killall(people)
    return {"flows": done, "failed": failed, "unfinished": given.flows - len(done) - len(failed), "s": took, "cpu_s": used}


def give_back(given: argparse.Namespace, context: ssl.SSLContext, done: list[dict[str, Any]]) -> int:
    """Everybody returns their desktop, a few at a time; answers how many could."""
    waiting, good = deque(done), [0]

    def some() -> None:
        connection = Connection(given.port, context)
        while waiting:
            one = waiting.popleft()
            status, _ = connection.ask("POST", f"/api/v1/leases/{one['lease']}/return", {}, token=one["token"])
            good[0] += status in (200, 202)
        connection.close()

    gevent.joinall([gevent.spawn(some) for _ in range(8)], timeout=given.limit_s)
    return good[0]


def main() -> None:
    """Run the storm that the arguments tell, write its result."""
    import os

    parser = argparse.ArgumentParser("bench.people", description=__doc__)
    for name, kind in (("port", int), ("ca", str), ("pool", str), ("first", int), ("flows", int), ("at-once", int),
                       ("limit-s", float), ("result", Path)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--watch", nargs="*", default=[], type=lambda text: (text.split("=")[0], int(text.split("=")[1])))
    parser.add_argument("--give-back", action="store_true")
    given = parser.parse_args()
    given.self = os.getpid()
    context = ssl.create_default_context(cafile=given.ca)
    result = storm(given, context)
    if given.give_back:
        result["given_back"] = give_back(given, context, result["flows"])
    given.result.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
