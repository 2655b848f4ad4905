"""Serves a `Desk` over mutual TLS: POST /ask, /watch, /cancel, /question; for managers, and a little for portals."""

from __future__ import annotations

import http.server
import logging
import socket
import ssl
import threading
from typing import Any

import msgspec

from hostapi.desk import Desk
from hostapi.tls import roles, server_context
from hostapi.types import Failure
from hostapi.verbs import ALWAYS, TRANSFERS, HostRefused
from hostapi.wire import API_HEADER, Answer, Ask, BadRequest, Cancel, Question, Watch, api_version

log = logging.getLogger("hostapi")
HANDSHAKE_S, IDLE_S = 10.0, 300.0
MOST_BYTES = 32 << 20  # the largest question anybody has a reason to ask: an upgrade brings its package along
MOST_CONNECTIONS = 1000


class HostServer(http.server.ThreadingHTTPServer):
    """A desk behind a TLS port; a thread a connection, the handshake in that thread."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, desk: Desk, address: str, port: int, ssl_context: ssl.SSLContext) -> None:
        self.desk, self.ssl_context = desk, ssl_context
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        if ":" in address:
            self.address_family = socket.AF_INET6
        super().__init__((address, port), _Exchange)

    @property
    def port(self) -> int:
        """The port it listens on, also when it was asked for any free one."""
        return int(self.server_address[1])

    def start(self) -> threading.Thread:
        """Serve in a thread of its own."""
        thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.2}, name="hostapi", daemon=True
        )
        thread.start()
        return thread

    def stop(self) -> None:
        """Stop listening and hang up on everybody; running steps are the desk's business."""
        self.shutdown()
        self.server_close()
        with self._open_lock:
            for connection in self._open:
                _hang_up(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            log.warning("too many connections; %s is turned away", client_address[0])
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        secured = request
        try:
            request.settimeout(HANDSHAKE_S)
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self.ssl_context.wrap_socket(request, server_side=True)
            with self._open_lock:
                self._open.add(secured)
            self.finish_request(secured, client_address)
        except (OSError, ValueError) as broken:  # ssl.SSLError is an OSError
            log.info("connection from %s ended: %s", client_address[0], broken)
        finally:
            with self._open_lock:
                self._open.discard(secured)
            self.shutdown_request(secured)
            self._places.release()


class _Exchange(http.server.BaseHTTPRequestHandler):
    """One manager's connection; every answer is JSON and names our API."""

    server: HostServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "leasehold-agent", ""
    timeout = IDLE_S
    wbufsize = -1  # head and body leave in one write

    def do_POST(self) -> None:
        """Answer one question, or say in the envelope why not."""
        try:
            body = self._body()
            if refusal := self._refusal(body):
                self._answer(*refusal)
                return
            doors = {"/ask": self._ask, "/watch": self._watch, "/cancel": self._cancel, "/question": self._question}
            if self.path not in doors:
                raise BadRequest(f"There is no {self.path}.")
            self._answer(200, doors[self.path](body))
        except (msgspec.DecodeError, BadRequest) as wrong:
            self._answer(400, _error("bad_request", str(wrong)))
        except HostRefused as no:
            self._answer(409, msgspec.json.encode(Answer(error=no.failure)))
        except (ssl.SSLError, ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:  # the edge: a bug must not leave the manager without an answer
            log.exception("answering %s failed by a bug", self.path)
            self._answer(
                500,
                _error(
                    "internal_error", "Something went wrong in the host's agent; its log has the details."
                ),
            )

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def _refusal(self, body: bytes) -> tuple[int, bytes] | None:
        assert isinstance(self.connection, ssl.SSLSocket)
        who = roles(self.connection.getpeercert())
        by_portal = "portal" in who and self.path == "/question" and _verb_of(body) in TRANSFERS
        if "manager" not in who and not by_portal:
            return 403, _error(
                "not_a_manager", "Only a manager may ask hosts; this certificate is not a manager's."
            )
        theirs = self.headers.get(API_HEADER, "none")
        if theirs != api_version() and not (self.path == "/ask" and _verb_of(body) in ALWAYS):
            sentence = (
                f"The manager speaks host API {theirs}, this host's agent {api_version()}: "
                "both must be of the same version. Upgrade the host."
            )
            return 409, _error("version_mismatch", sentence)
        return None

    def _body(self) -> bytes:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= MOST_BYTES:
            self.close_connection = True  # what follows is unknown, so nothing more can be read from here
            raise BadRequest(f"A question needs a Content-Length of at most {MOST_BYTES} bytes.")
        return self.rfile.read(length)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header(API_HEADER, api_version())
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _ask(self, body: bytes) -> bytes:
        ask = msgspec.json.decode(body, type=Ask)
        outcome = self.server.desk.ask(
            ask.uid, ask.verb, msgspec.json.decode(ask.args, type=dict), wait_s=ask.wait_s
        )
        return msgspec.json.encode(outcome)

    def _watch(self, body: bytes) -> bytes:
        watch = msgspec.json.decode(body, type=Watch)
        return msgspec.json.encode(self.server.desk.watch(watch.uids, wait_s=watch.wait_s))

    def _cancel(self, body: bytes) -> bytes:
        self.server.desk.cancel(msgspec.json.decode(body, type=Cancel).uid)
        return b"{}"

    def _question(self, body: bytes) -> bytes:
        question = msgspec.json.decode(body, type=Question)
        value = self.server.desk.question(question.verb, msgspec.json.decode(question.args, type=dict))
        return msgspec.json.encode(Answer(value=msgspec.to_builtins(value)))


class _Named(msgspec.Struct):
    verb: str = ""


def _verb_of(body: bytes) -> str:
    """The verb that another version asks for, however the rest of its question looks."""
    try:
        return msgspec.json.decode(body, type=_Named).verb
    except msgspec.MsgspecError:
        return ""


def _error(code: str, message: str) -> bytes:
    return msgspec.json.encode(Answer(error=Failure(code, message)))


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is gone already


__all__ = ["Desk", "HostServer", "server_context"]
