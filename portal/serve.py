"""The portal behind TLS on gevent: one process of as many as wanted."""

from __future__ import annotations

import signal
import socket
import ssl
from contextlib import suppress
from typing import Any

import structlog
from flask import Flask
from gevent import signal_handler
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer

from backend.config import Settings

log = structlog.get_logger("web")

CONNECTIONS = 4000  # a person holds one or two; each costs a greenlet
SILENCE_S = 75  # a connection on which nothing moves for so long is closed; streams speak every 15 s
STOP_S = 10  # how long requests may take to end when the process is told to stop


class _Handler(WSGIHandler):  # type: ignore[misc]
    """pywsgi's handler without its own access log: portal/log.py writes one line a request."""

    # a peer that is gone when its answer is written is no bug of ours, with TLS neither
    ignored_socket_errors = (*WSGIHandler.ignored_socket_errors, ssl.SSL_ERROR_EOF)

    def read_requestline(self) -> str:
        """The next request of this connection; a server that stops does not wait for one."""
        if self.server.ending:
            return ""
        self.server.silent.add(self.socket)
        try:
            return str(super().read_requestline())
        finally:
            self.server.silent.discard(self.socket)

    def log_request(self) -> None:
        return None


class _Server(WSGIServer):  # type: ignore[misc]
    """pywsgi's server whose connections do not wait for ever on a silent peer."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.ending = False
        self.silent: set[Any] = set()  # connections kept alive between two requests

    def end_silent(self) -> None:
        """Close what nobody is being answered on, so that only requests under way are waited for."""
        self.ending = True
        for connection in list(self.silent):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> Any:
        client_socket.settimeout(SILENCE_S)
        try:
            return super().wrap_socket_and_handle(client_socket, address)
        except OSError as gone:  # ssl.SSLError is one: no TLS, a certificate that is not believed, a peer that went away
            log.debug("connection ended", address=address[0], why=str(gone))
            return None


def listening(address: str) -> Any:
    """A listening socket on "host:port". TCP_NODELAY is inherited by its connections: pywsgi writes head and
    body apart, which otherwise costs every keep-alive request a delayed acknowledgement, 40 ms."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family, backlog=512)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


def tls(settings: Settings) -> ssl.SSLContext:
    """TLS 1.2 or newer with the web's own certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def server(app: Flask, settings: Settings) -> WSGIServer:
    """The server, not started yet."""
    return _Server(
        listening(settings.web_listen), app, handler_class=_Handler, spawn=Pool(CONNECTIONS), log=None,
        error_log=_ErrorLog(), ssl_context=tls(settings), environ={"wsgi.multithread": True},
    )


class _ErrorLog:
    """What pywsgi would print goes to the log, as everything else."""

    def write(self, text: str) -> None:
        if text.strip():
            log.debug("http", text=text.strip()[:500])

    def flush(self) -> None:
        return None


def serve(app: Flask, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then end the streams, let requests finish, and return."""
    web = server(app, settings)

    def stop() -> None:
        app.extensions["poller"].stop()
        web.end_silent()
        web.stop(timeout=STOP_S)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal_handler(number, stop)  # in a greenlet of its own: it takes locks, and waits
    log.info("serving", address=settings.web_listen, url=settings.public_url)
    web.serve_forever(stop_timeout=STOP_S)
