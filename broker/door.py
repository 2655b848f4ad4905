"""The gateway's one port: tells TLS from plain CONNECT by the first byte, checks who comes, and leads them on."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import gevent
import structlog

from backend.config import Settings
from backend.errors import Denied, Refused
from backend.proxies import Proxies
from broker import tickets
from broker.http import BadRequest, Request, answer, read_request
from broker.live import VIEWER_CLOSED, code_of
from broker.pump import read
from broker.rfb import RfbError, log_in
from broker.spice_console import SpiceConsoles, Viewer
from broker.viewer import PREFIX, PROTOCOL
from broker.vnc import greet, relay
from broker.websocket import GONE, NORMAL, PROTOCOL_ERROR, UNAVAILABLE, WebSocket, WebSocketError, handshake, subprotocols
from hostapi.console import keep_alive

if TYPE_CHECKING:
    from broker.gateway import Gateway

log = structlog.get_logger("door")
HELLO_S = 10.0  # how long TLS and a request's head may take
OPEN_S = 20.0  # how long a viewer may take to introduce itself
GOOD_BYE_S = 2.0
CONSOLE, SPICE_CONSOLE = "/console", "/console/spice"
COOKIE = "__Host-leasehold"
TLS_HANDSHAKE = 0x16  # the first byte of every TLS connection, and of no HTTP request
NOT_OURS = "This console ticket is not valid. Open the console again from the portal."


class Door:
    """Serves the connections of one listening socket."""

    def __init__(self, settings: Settings, gateway: Gateway) -> None:
        self.gateway, self.origin = gateway, origin_of(settings.public_url)
        self.proxies = Proxies.of(settings.trusted_proxies)
        self.spice = SpiceConsoles(gateway)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)

    def enter(self, sock: Any, address: Any) -> None:
        """One connection from its first byte to its last."""
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock)
            with gevent.Timeout(HELLO_S):
                first = sock.recv(1, socket.MSG_PEEK)
            if first and first[0] == TLS_HANDSHAKE:
                self._browser(sock, address[0])
            elif first:
                self._native(sock, address[0])
        except (OSError, BadRequest, gevent.Timeout):
            pass  # strangers, scanners, cut lines: nobody is left to be told
        except Exception:
            log.exception("connection failed")
        finally:
            with suppress(OSError):
                sock.close()

    # -- browsers: TLS, then HTTP ------------------------------------------------------------------
    def _browser(self, plain: Any, address: str) -> None:
        with gevent.Timeout(HELLO_S):
            sock = self.tls.wrap_socket(plain, server_side=True)
        try:
            with gevent.Timeout(HELLO_S):
                request = read_request(sock)
            if request is None:
                return
            address = self.proxies.client(address, ",".join(request.headers.get_all("X-Forwarded-For", [])))
            if request.path in (CONSOLE, SPICE_CONSOLE) and request.method == "GET":
                self._console(sock, request, address)
            elif request.path == "/healthz" and request.method in ("GET", "HEAD"):
                sock.sendall(answer(200, "ok"))
            else:
                sock.sendall(answer(404, "There is nothing here but consoles; the portal has another address."))
        finally:
            with suppress(OSError):
                sock.close()

    def _console(self, sock: Any, request: Request, address: str) -> None:
        """Open a console for a page of the portal. What it is refused for is told in the close frame, where pages can
        read it; only a foreign page gets no WebSocket at all."""
        if origin_of(request.headers.get("Origin") or "") != self.origin:
            log.warning("console asked for by a foreign page", address=address)
            sock.sendall(answer(403, "Consoles are opened from the portal only."))
            return
        offered = subprotocols(request.headers)
        token = next((name.removeprefix(PREFIX) for name in offered if name.startswith(PREFIX)), None)
        if PROTOCOL not in offered or token is None:
            sock.sendall(answer(400, "A console needs a ticket."))
            return
        request.headers.replace_header("Sec-WebSocket-Protocol", PROTOCOL)  # the token goes no further
        try:
            sock.sendall(handshake(request.headers))
        except WebSocketError as wrong:
            sock.sendall(answer(426, str(wrong), Upgrade="websocket", Sec_WebSocket_Version="13"))
            return
        ws = WebSocket(sock, request.early)
        try:
            ticket_id, session_id = self._who(token, request.cookie(COOKIE), address)
            if request.path == CONSOLE:
                self._vnc(ws, ticket_id, session_id, address)
            else:
                self._spice(ws, ticket_id, session_id, address)
        except Refused as no:
            _part(ws, code_of(no), no.message)
        except WebSocketError as wrong:
            _part(ws, wrong.code, str(wrong))

    def _who(self, token: str, cookie: str | None, address: str) -> tuple[UUID, UUID]:
        """The ticket, and the sign-in of the browser that shows it."""
        ticket_id = tickets.ticket_of(self.gateway.keyring, token)
        if ticket_id is None:
            log.warning("console ticket not ours", address=address)
            raise Denied("ticket_refused", NOT_OURS)
        session_id = self.gateway.session_of(cookie) if cookie else None
        if session_id is None:
            no = Denied("ticket_refused", "You are not signed in. Sign in to the portal and open the console again.")
            self.gateway.refuse(ticket_id, no, address)
            raise no
        return ticket_id, session_id

    def _vnc(self, ws: WebSocket, ticket_id: UUID, session_id: UUID, address: str) -> None:
        gateway = self.gateway
        live, opening = gateway.redeem(ticket_id, protocols=("vnc",), client="browser", session_id=session_id, address=address)
        display = None
        try:
            with gevent.Timeout(OPEN_S):
                viewer = greet(ws)  # meanwhile the display gets its password
                gateway.wait_until_ready(live, opening)
                if not live.over.is_set():
                    display = gateway.dial(opening.vm_id, "vnc")
                    _log_in(display, gateway.display_password(ticket_id))
            if display is not None:
                relay(live, ws, viewer.rest, display, "The desktop's screen was closed.")
                if live.code == GONE:
                    live.code, live.why = gateway.why_gone(opening)
        except Refused as no:
            live.end_refused(no)
        except WebSocketError as wrong:
            live.end(wrong.code, str(wrong))
        except RfbError as wrong:
            live.end(PROTOCOL_ERROR, f"The console could not be opened: {wrong}.")
        except gevent.Timeout:
            live.end(UNAVAILABLE, "The console took too long to open. Try again.")
        except OSError:
            pass
        finally:
            if display is not None:
                display.close()
            live.end(NORMAL, VIEWER_CLOSED)
            gateway.ended(live)
            _part(ws, live.code, live.why)

    def _spice(self, ws: WebSocket, ticket_id: UUID, session_id: UUID, address: str) -> None:
        """One SPICE channel of a page; the token has been checked, so what it sends as a password counts for nothing."""

        def read() -> bytes:
            try:
                return ws.recv()
            except WebSocketError as wrong:
                ws.close(wrong.code, str(wrong))
                return b""

        self.spice.serve(Viewer(
            ticket_id, who=f"session {session_id}", address=address, session_id=session_id, read=read, sendall=ws.sendall,
            finish=partial(_part, ws)))
        _part(ws, NORMAL, "")

    # -- native clients: CONNECT, then TLS, then SPICE ---------------------------------------------
    def _native(self, sock: Any, address: str) -> None:
        with gevent.Timeout(HELLO_S):
            request = read_request(sock)
        if request is None:
            return
        ticket_id = tickets.ticket_named(request.target.rpartition(":")[0]) if request.method == "CONNECT" else None
        if ticket_id is None:
            sock.sendall(answer(404 if request.method == "CONNECT" else 400, "This port speaks TLS."))
            return
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with gevent.Timeout(HELLO_S):
            tls = self.tls.wrap_socket(sock, server_side=True)
        try:
            self.spice.serve(Viewer(
                ticket_id, who=address, address=address, session_id=None, read=partial(read, tls), sendall=tls.sendall,
                finish=lambda code, why: None))
        finally:
            with suppress(OSError):
                tls.close()


def origin_of(url: str) -> str:
    """scheme://host:port of an address, its port always written out, lower case."""
    scheme, _, rest = url.lower().partition("://")
    host = rest.partition("/")[0]
    if host and ":" not in host.rpartition("]")[2]:
        host += ":443" if scheme == "https" else ":80"
    return f"{scheme}://{host}"


def _log_in(display: Any, password: str) -> None:
    try:
        log_in(display, password)
    except RfbError as no:
        log.error("display refused the gateway", why=str(no))
        raise Refused("screen_refused", "The desktop's screen refused the gateway. Open the console again.") from no


def _part(ws: WebSocket, code: int, why: str) -> None:
    """Say good-bye and give the browser a moment to answer, so that its page hears the reason."""
    with suppress(OSError, WebSocketError), gevent.Timeout(GOOD_BYE_S, False):
        ws.close(code, why)
        while ws.recv():
            pass


