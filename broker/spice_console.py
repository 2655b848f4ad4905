"""A SPICE console: the gateway is the client's server and the display's client, channel by channel.

spice-server 0.15.1 ends its whole VM when a display channel is closed before it has begun to draw, and over some
messages that no viewer sends (docs/adr/0005). So the gateway links a display channel at the VM only when it holds the
client's DISPLAY_INIT and sends both at once, and closes it only when the VM has answered; it passes on only whole
messages that viewers send, closes all other channels before main, waits until the VM has closed each, and starts a
VM's next session after the last one is over.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import gevent
import structlog
from gevent.event import Event

from backend.errors import Refused
from broker import spice
from broker.live import VIEWER_CLOSED, LiveConsole, code_of
from broker.pump import copy, read
from broker.rfb import Exactly, RfbError
from broker.spice import Link, Messages, Reply, SpiceError
from broker.websocket import ENDED, GONE, NORMAL, UNAVAILABLE

log = structlog.get_logger("spice")
HANDSHAKE_S, HANG_UP_S, ANSWER_S = 20.0, 2.0, 20.0


@dataclass(frozen=True)
class Viewer:
    """A client's connection, one channel of its session. `proved` when its token was checked outside SPICE."""

    ticket_id: UUID
    who: str  # later channels must come from whom the first came from: an address, or a browser's session
    address: str
    session_id: UUID | None
    read: Callable[[], bytes]
    sendall: Callable[[bytes], None]
    finish: Callable[[int, str], None]

    @property
    def proved(self) -> bool:
        return self.session_id is not None

    @property
    def client(self) -> str:
        return "browser" if self.proved else "native"


class Books(Protocol):
    """What the gateway knows and writes down; see broker.gateway."""

    def redeem(self, ticket_id: UUID, *, protocols: tuple[str, ...], client: str, session_id: UUID | None,
               address: str) -> tuple[LiveConsole, Any]: ...
    def wait_until_ready(self, live: LiveConsole, opening: Any) -> None: ...
    def ended(self, live: LiveConsole) -> None: ...
    def why_gone(self, opening: Any) -> tuple[int, str]: ...
    def refuse(self, ticket_id: UUID, no: Refused, address: str) -> None: ...
    def vm_of(self, ticket_id: UUID, *, protocols: tuple[str, ...], client: str, session_id: UUID | None,
              address: str) -> UUID: ...
    def dial(self, vm_id: UUID, protocol: str) -> Any: ...
    def spice_password(self, ticket_id: UUID) -> str: ...
    def display_password(self, ticket_id: UUID) -> str: ...


class Session:
    """The channels of one live SPICE console; main is the first."""

    def __init__(self, viewer: Viewer, live: LiveConsole, vm_id: UUID) -> None:
        self.who, self.live, self.vm_id = viewer.who, live, vm_id
        self.channels: dict[tuple[int, int], Event] = {}  # (type, id) -> set when that channel is over


class SpiceConsoles:
    """All SPICE consoles of this gateway process."""

    def __init__(self, books: Books) -> None:
        self.books, self.key = books, spice.TicketKey()
        self.sessions: dict[UUID, Session] = {}  # by ticket

    def serve(self, viewer: Viewer) -> None:
        """Carry one channel from its link message to its end."""
        exactly = Exactly(viewer.read)
        try:
            with gevent.Timeout(HANDSHAKE_S):
                link = spice.read_link(exactly)
        except SpiceError as wrong:
            viewer.sendall(spice.refusal(wrong.code))
            return
        except (RfbError, gevent.Timeout):
            return
        with suppress(OSError, RfbError, SpiceError, gevent.Timeout):
            try:
                self._channel(viewer, exactly, link)
            except Refused as no:
                log.info("spice channel refused", channel=link.name, why=no.message)
                viewer.finish(code_of(no), no.message)

    def _channel(self, viewer: Viewer, exactly: Exactly, link: Link) -> None:
        session = self.sessions.get(viewer.ticket_id)
        if link.channel == spice.MAIN:
            try:
                vm_id = self.books.vm_of(
                    viewer.ticket_id, protocols=("spice",), client=viewer.client, session_id=viewer.session_id,
                    address=viewer.address)
            except Refused as no:
                viewer.sendall(spice.refusal(spice.ERROR))  # here viewers say so; after the password they ask for another
                self.books.refuse(viewer.ticket_id, no, viewer.address)
                raise
        elif session is not None and _may_join(session, viewer, link):
            vm_id = session.vm_id
        else:
            viewer.sendall(spice.refusal(spice.CHANNEL_NOT_AVAILABLE if session else spice.BAD_CONNECTION_ID))
            return
        with _hung_up(self.books.dial(vm_id, "spice")) as display:
            with gevent.Timeout(HANDSHAKE_S):
                display.sendall(link.pack())
                reply = spice.read_reply(partial(_exactly, display))
                viewer.sendall(spice.without_sasl(reply, self.key.public).pack())
                if reply.error != spice.OK or not self._proved(viewer, exactly, link, reply):
                    return
            if link.channel == spice.MAIN:
                self._main(viewer, exactly, link, reply, display)
            elif session is not None:
                self._other(session, viewer, exactly, link, reply, display)

    def _proved(self, viewer: Viewer, exactly: Exactly, link: Link, reply: Reply) -> bool:
        """Read the client's password and check it."""
        if spice.both(link, reply, spice.AUTH_SELECTION):
            (mechanism,) = struct.unpack("<I", exactly(4))
            if mechanism != 1:  # SPICE's own, the one that was offered
                viewer.sendall(_result(spice.INVALID_DATA))
                return False
        password = self.key.open(exactly(spice.TICKET_BYTES))
        if viewer.proved or spice.same(password, self.books.spice_password(viewer.ticket_id)):
            return True
        log.warning("wrong spice password", address=viewer.address, ticket=str(viewer.ticket_id))
        viewer.sendall(_result(spice.PERMISSION_DENIED))
        return False

    def _main(self, viewer: Viewer, exactly: Exactly, link: Link, reply: Reply, display: Any) -> None:
        """The first channel: redeem the ticket, hold the session, and end it in the right order."""
        try:
            live, opening = self.books.redeem(
                viewer.ticket_id, protocols=("spice",), client=viewer.client, session_id=viewer.session_id,
                address=viewer.address)
        except Refused:
            viewer.sendall(_result(spice.ERROR))
            raise
        session = Session(viewer, live, opening.vm_id)
        self._end_others(session)
        try:
            self.books.wait_until_ready(live, opening)
            with gevent.Timeout(HANDSHAKE_S):
                _log_in(display, link, reply, self.books.display_password(viewer.ticket_id))
                result = _exactly(display, 4)
                viewer.sendall(result)
            if result == _result(spice.OK) and not live.over.is_set():
                self.sessions[viewer.ticket_id] = session
                self._relay(session, link, reply, viewer, exactly.rest, _messages(link, reply), display)
                if live.code == GONE:
                    live.code, live.why = self.books.why_gone(opening)
            else:
                live.end(GONE, "The desktop's screen refused the gateway.")
        except Refused as no:
            live.end_refused(no)
            viewer.sendall(_result(spice.ERROR))
        except (OSError, SpiceError, gevent.Timeout):
            live.end(UNAVAILABLE, "The desktop's screen does not answer. Try again in a moment.")
        finally:
            live.end(NORMAL, VIEWER_CLOSED)
            self._close_channels(session)
            _hang_up(display)
            self.sessions.pop(viewer.ticket_id, None)
            self.books.ended(live)
            viewer.finish(live.code, live.why)

    def _other(self, session: Session, viewer: Viewer, exactly: Exactly, link: Link, reply: Reply, display: Any) -> None:
        """A later channel: joins the session that its ticket opened, while that lives."""
        messages, init = _messages(link, reply), b""
        if link.channel == spice.DISPLAY:
            viewer.sendall(_result(spice.OK))  # so that it sends DISPLAY_INIT, without which it is not linked
            with gevent.Timeout(HANDSHAKE_S):
                init = _read_init(viewer, exactly, messages)
            if not init:
                return
        place = (link.channel, link.channel_id)
        if not _may_join(session, viewer, link):  # it may have ended meanwhile, or another was quicker
            viewer.sendall(_result(spice.CHANNEL_NOT_AVAILABLE))
            return
        over = session.channels[place] = Event()
        owed = 0  # bytes that a display must have sent before it may be closed: its result and its first word
        try:
            with gevent.Timeout(HANDSHAKE_S):
                owed = 5 if init else 0
                _log_in(display, link, reply, self.books.display_password(viewer.ticket_id), init)
                result = _exactly(display, 4)
                owed = 1 if init else 0
                if not init:
                    viewer.sendall(result)
            if result == _result(spice.OK):
                session.live.count_up(len(init))
                came = self._relay(session, link, reply, viewer, exactly.rest, messages, display)
                owed = 0 if came else owed
        finally:
            _await(display, owed)
            _hang_up(display)
            over.set()
            del session.channels[place]
            viewer.finish(session.live.code, session.live.why)

    def _relay(
        self, session: Session, link: Link, reply: Reply, viewer: Viewer, early: bytes, messages: Messages, display: Any
    ) -> int:
        """Move this channel's bytes until it or its session is over; answers how many came from the VM."""
        live, over = session.live, Event()
        main, came, boundaries = link.channel == spice.MAIN, 0, spice.Boundaries(messages.mini)

        def stop(code: int, why: str) -> None:
            over.set()
            if main:
                live.end(code, why)

        def send(data: bytes) -> None:
            whole = messages.take(data)
            if messages.touched:
                live.touched, messages.touched = True, False
            _send(display, whole)

        def up() -> None:
            try:
                send(early)
                copy(viewer.read, send, live.count_up)
            except OSError:
                pass  # an end cut off hard is an end all the same
            except SpiceError as wrong:
                log.warning("spice channel cut", channel=link.name, address=viewer.address, why=str(wrong))
            stop(NORMAL, VIEWER_CLOSED)

        def take() -> bytes:
            nonlocal came
            data = read(display)
            came += len(data)
            return data

        def each_message(data: bytes) -> None:
            for piece in boundaries.pieces(data):
                viewer.sendall(piece)

        def down() -> None:
            with suppress(OSError):
                copy(take, viewer.sendall if viewer.proved else each_message, live.count_down)
            stop(GONE, "The desktop's screen was closed.")

        directions = [gevent.spawn(up), gevent.spawn(down)]
        try:
            gevent.wait([over, live.over], count=1)
        finally:
            gevent.killall(directions)
        return came

    def _close_channels(self, session: Session) -> None:
        """Wait until every other channel is closed at the display; `live.over` has told them all."""
        gevent.wait(list(session.channels.values()), timeout=ANSWER_S + HANG_UP_S)

    def _end_others(self, session: Session) -> None:
        """Have this VM's earlier session in this process ended at once, instead of when the keeper sees the row."""
        for other in list(self.sessions.values()):
            if other.vm_id == session.vm_id and other is not session:
                other.live.end(ENDED, "This console was opened again somewhere else.")


def _may_join(session: Session, viewer: Viewer, link: Link) -> bool:
    """Whether the session lives, is this viewer's, and has no such channel yet."""
    place = (link.channel, link.channel_id)
    return session.who == viewer.who and not session.live.over.is_set() and place not in session.channels


def _read_init(viewer: Viewer, exactly: Exactly, messages: Messages) -> bytes:
    """The client's DISPLAY_INIT; b"" when it goes without."""
    init, exactly.rest = messages.take_init(exactly.rest), b""
    while not init:
        data = viewer.read()
        if not data:
            break
        init = messages.take_init(data)
    return init


def _log_in(display: Any, link: Link, reply: Reply, password: str, init: bytes = b"") -> None:
    """Send the VM's own password, and what must follow it without a gap."""
    choice = struct.pack("<I", 1) if spice.both(link, reply, spice.AUTH_SELECTION) else b""
    display.sendall(choice + spice.seal_ticket(reply.public_key, password) + init)


def _messages(link: Link, reply: Reply) -> Messages:
    return Messages(link.channel, spice.both(link, reply, spice.MINI_HEADER))


def _result(code: int) -> bytes:
    return struct.pack("<I", code)


def _send(display: Any, data: bytes) -> None:
    if data:
        display.sendall(data)


def _exactly(sock: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise OSError("the display closed the connection")
        data += part
    return data


@contextmanager
def _hung_up(display: Any) -> Iterator[Any]:
    try:
        yield display
    finally:
        display.close()


def _await(display: Any, owed: int) -> None:
    """Wait until the display has sent so many bytes more."""
    with suppress(OSError, gevent.Timeout), gevent.Timeout(ANSWER_S):
        _exactly(display, owed)


def _hang_up(display: Any) -> None:
    """Say that no more comes and wait until the display has closed too: only then is it done with the channel."""
    with suppress(OSError, gevent.Timeout), gevent.Timeout(HANG_UP_S):
        display.shutdown(socket.SHUT_WR)
        while display.recv(65536):
            pass
