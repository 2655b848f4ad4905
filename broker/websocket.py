"""A WebSocket's server side as a stream of bytes (RFC 6455): opening handshake, frames, pings, close codes.

The opening handshake is websockify's; frames are ours, because a console needs what its class does not give:
no copy of a whole message, no queue that grows behind a slow reader, and one shared buffer for all connections.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Mapping
from email.message import Message
from typing import Any

import numpy
from websockify.websocket import WebSocket as Websockify

from broker.viewer import PROTOCOL

FRAME_BYTES = 1_000_000  # browsers' own frames are far smaller: pointer, keys, pasted text
REASON_BYTES = 123
CLOSE_WAITS_S = 2.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# what the page is told when a console ends; below 4000 they are RFC 6455's own
NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, BAD_TEXT, TOO_BIG = 1000, 1001, 1002, 1003, 1007, 1009
ENDED, REFUSED, GONE, UNAVAILABLE, FOLLOW = 4001, 4003, 4004, 4005, 4006


class WebSocketError(Exception):
    """The browser broke the protocol; `code` is the close code that says how."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Handshake(Websockify):  # type: ignore[misc]
    """websockify's opening handshake, its answer kept in `answer` instead of sent."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = b""

    def select_subprotocol(self, protocols: list[str]) -> str:
        return PROTOCOL

    def send(self, data: bytes) -> int:
        self.answer += data
        return len(data)


def handshake(headers: Message) -> bytes:
    """The answer to the browser's upgrade request; `WebSocketError` when it is none."""
    if headers.get("Upgrade", "").lower() != "websocket" or headers.get("Sec-WebSocket-Version") != "13":
        raise WebSocketError(PROTOCOL_ERROR, "Consoles are WebSockets, version 13.")
    if not headers.get("Sec-WebSocket-Key"):
        raise WebSocketError(PROTOCOL_ERROR, "The WebSocket key is missing.")
    shaking = _Handshake()
    shaking.accept(shaking, headers)
    return shaking.answer


class WebSocket:
    """The data that passes in binary messages, as one stream; message borders mean nothing to a console."""

    def __init__(self, sock: Any, early: bytes = b"") -> None:
        self._sock, self._buffer, self._at = sock, early, 0  # what was read, and up to where it is used up
        self._left = 0  # bytes of the present data frame still to come
        self._mask, self._within = b"", False
        self._writing = threading.Lock()
        self._cut = False  # a frame was begun and not finished: nothing may be sent any more
        self._said_close = False

    # -- reading -----------------------------------------------------------------------------------
    def recv(self) -> bytes:
        """The next bytes; b"" at the end. Answers pings and the browser's close on the way."""
        while not self._left:
            if not self._head():
                return b""
        if self._at == len(self._buffer) and not self._more():
            return b""
        data = unmask(self._take(min(self._left, len(self._buffer) - self._at)), self._mask)
        self._left -= len(data)
        turn = len(data) & 3
        self._mask = self._mask[turn:] + self._mask[:turn]
        return data

    def _head(self) -> bool:
        """Read the next frame's head, and the whole frame when it is a control frame; False at the end."""
        if not self._have(2):
            return False
        first, second = self._take(2)
        opcode, final, length = first & 0x0F, bool(first & 0x80), second & 0x7F
        if first & 0x70:
            raise WebSocketError(PROTOCOL_ERROR, "Reserved bits are set.")
        if not second & 0x80:
            raise WebSocketError(PROTOCOL_ERROR, "A frame was not masked.")
        if opcode >= CLOSE and (not final or length > 125 or opcode > PONG):
            raise WebSocketError(PROTOCOL_ERROR, "A control frame was malformed.")
        if length > 125:
            size, shortest = (2, 126) if length == 126 else (8, 65536)
            if not self._have(size):
                return False
            length = int.from_bytes(self._take(size), "big")
            if length < shortest:
                raise WebSocketError(PROTOCOL_ERROR, "A length was not written the short way.")
        if length > FRAME_BYTES:
            raise WebSocketError(TOO_BIG, "A frame was larger than 1 MB.")
        if not self._have(4):
            return False
        mask = self._take(4)
        if opcode >= CLOSE:
            return self._control(opcode, length, mask)
        if opcode == TEXT:
            raise WebSocketError(UNSUPPORTED, "Consoles speak in binary messages.")
        if opcode not in (CONTINUATION, BINARY) or (opcode == CONTINUATION) != self._within:
            raise WebSocketError(PROTOCOL_ERROR, "A frame came out of order.")
        self._left, self._mask, self._within = length, mask, not final
        return True

    def _control(self, opcode: int, length: int, mask: bytes) -> bool:
        if not self._have(length):
            return False
        body = unmask(self._take(length), mask)
        if opcode == CLOSE:
            self.close(_close_code(body), "")
            return False
        if opcode == PING:
            self._frame(PONG, body)
        time.sleep(0)  # a flood of pings must not keep the other consoles waiting
        return True

    def _have(self, size: int) -> bool:
        while len(self._buffer) - self._at < size:
            if not self._more():
                return False
        return True

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._buffer[self._at - size : self._at]

    def _more(self) -> bool:
        data = self._sock.recv(65536)
        self._buffer, self._at = self._buffer[self._at :] + data, 0
        return bool(data)

    # -- writing -----------------------------------------------------------------------------------
    def sendall(self, data: bytes) -> None:
        """Send as one binary message; waits while the browser does not take it."""
        self._frame(BINARY, data)

    def ping(self) -> None:
        """Ask for a sign of life, unless something is being sent at the moment."""
        if not self._writing.locked():
            self._frame(PING, b"")

    def close(self, code: int, reason: str) -> None:
        """Say good-bye once; what others still send is dropped from then on. The socket is closed by its owner.

        Waits a little for a frame that is being sent; behind a browser that takes nothing there is nothing to say.
        """
        if self._said_close or not self._writing.acquire(timeout=CLOSE_WAITS_S):
            return
        try:
            if not self._cut and not self._said_close:
                self._said_close = True
                body = struct.pack(">H", code) + shorten(reason) if code else b""
                self._sock.sendall(frame_head(CLOSE, len(body)) + body)
        finally:
            self._writing.release()

    def _frame(self, opcode: int, data: bytes) -> None:
        with self._writing:
            if self._cut or self._said_close:
                return
            self._cut = True  # stays so when the sender is killed half-way
            self._sock.sendall(frame_head(opcode, len(data)) + data)
            self._cut = False


def frame_head(opcode: int, length: int) -> bytes:
    """The head of an unmasked, unfragmented frame."""
    if length < 126:
        return struct.pack(">BB", 0x80 | opcode, length)
    if length < 65536:
        return struct.pack(">BBH", 0x80 | opcode, 126, length)
    return struct.pack(">BBQ", 0x80 | opcode, 127, length)


def unmask(data: bytes, mask: bytes) -> bytes:
    """`data` with the mask taken off (or put on). One big XOR: as integers while small, in numpy when large."""
    size = len(data)
    keys = (mask * (size // 4 + 1))[:size]
    if size < 1024:
        return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")
    return (numpy.frombuffer(data, numpy.uint8) ^ numpy.frombuffer(keys, numpy.uint8)).tobytes()


def shorten(reason: str) -> bytes:
    """A close frame's reason: UTF-8, at most 123 bytes, cut between characters."""
    text = reason.encode()
    if len(text) <= REASON_BYTES:
        return text
    return text[: REASON_BYTES - 3].decode(errors="ignore").encode() + "…".encode()


def subprotocols(headers: Mapping[str, str] | Message) -> list[str]:
    """The subprotocols that the browser offers."""
    return [name.strip() for name in (headers.get("Sec-WebSocket-Protocol") or "").split(",") if name.strip()]


def _close_code(body: bytes) -> int:
    """The code to answer a close frame with: its own, when it is one that may be sent; 0 for none."""
    if not body:
        return 0
    if len(body) == 1:
        raise WebSocketError(PROTOCOL_ERROR, "A close frame was malformed.")
    (code,) = struct.unpack_from(">H", body)
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise WebSocketError(PROTOCOL_ERROR, "A close code was wrong.")
    try:
        body[2:].decode()
    except UnicodeDecodeError:
        raise WebSocketError(BAD_TEXT, "A close reason was not UTF-8.") from None
    return int(code)
