"""The SPICE protocol as far as the gateway speaks it: link messages, tickets, message heads, DISPLAY_INIT. No sockets.

Little-endian throughout. A connection is one channel: the client's link message, the server's reply with an RSA key,
the client's choice of authentication and its encrypted password, the server's result; then messages both ways.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

MAGIC, MAJOR, MINOR = b"REDQ", 2, 2
HEAD = struct.Struct("<4sIII")  # magic, major, minor, bytes that follow
LINK = struct.Struct("<IBBIII")  # connection id, channel type, channel id, common caps, channel caps, offset of caps
REPLY = struct.Struct("<I162sIII")  # error, public key, common caps, channel caps, offset of caps
LINK_BYTES = 4096
TICKET_BYTES = 128  # an RSA-1024 block

MAIN, DISPLAY, INPUTS = 1, 2, 3
CHANNELS = {1: "main", 2: "display", 3: "inputs", 4: "cursor", 5: "playback", 6: "record", 8: "smartcard", 9: "usbredir",
            10: "port", 11: "webdav"}
AUTH_SELECTION, AUTH_SPICE, AUTH_SASL, MINI_HEADER = (1 << bit for bit in range(4))  # common capabilities

OK, ERROR, INVALID_MAGIC, INVALID_DATA, VERSION_MISMATCH, PERMISSION_DENIED = 0, 1, 2, 3, 4, 7
BAD_CONNECTION_ID, CHANNEL_NOT_AVAILABLE = 8, 9

DISPLAY_INIT = 101
# What a viewer may say on each channel. spice-server 0.15.1 ends its whole VM over some of the others: migration's
# messages out of place (4 on any channel, 110 on main) and a second DISPLAY_INIT.
_COMMON = {1, 2, 3, 6}  # acknowledgements, pong, good-bye
ALLOWED = {
    MAIN: _COMMON | {101, 104, 105, 106, 107, 108, 112},  # client's name, channels, mouse mode, agent, quality
    DISPLAY: _COMMON | {102, 103, 105},  # stream reports, preferred compression and codecs; DISPLAY_INIT apart
    INPUTS: _COMMON | {101, 102, 103, 104, 111, 112, 113, 114},  # keys, pointer
    4: _COMMON,
    5: _COMMON,
    6: _COMMON | {101, 102, 103},  # sound
    **{vmc: _COMMON | {101, 102, 201} for vmc in (8, 9, 10, 11)},  # data, compressed data, port events
}
BY_HAND = frozenset({101, 102, 104, 111, 112, 113, 114})  # keys and pointer; the lock keys (103) are told by viewers themselves
INIT = struct.Struct("<BqBi")  # pixmap cache id, its size in pixels, dictionary id, its window in pixels
CACHE_PIXELS, WINDOW_PIXELS = 64 << 20, 16 << 20  # more than any viewer asks for

# SPICE says SHA-1 and 1,024 bits; TLS is around both
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)


class SpiceError(Exception):
    """The other end does not speak SPICE as it should; `code` is the link error to answer with."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True)
class Link:
    """A client's link message."""

    connection_id: int
    channel: int
    channel_id: int
    common: tuple[int, ...]
    caps: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{CHANNELS.get(self.channel, self.channel)}-{self.channel_id}"

    def pack(self) -> bytes:
        body = LINK.pack(self.connection_id, self.channel, self.channel_id, len(self.common), len(self.caps), LINK.size)
        return _message(body + _caps(self.common, self.caps))


@dataclass(frozen=True)
class Reply:
    """A server's answer to it."""

    error: int
    public_key: bytes
    common: tuple[int, ...]
    caps: tuple[int, ...]

    def pack(self) -> bytes:
        body = REPLY.pack(self.error, self.public_key, len(self.common), len(self.caps), REPLY.size)
        return _message(body + _caps(self.common, self.caps))


def read_link(exactly: Callable[[int], bytes]) -> Link:
    """The client's link message; `SpiceError` for anything else."""
    body = _read(exactly)
    if len(body) < LINK.size:
        raise SpiceError(INVALID_DATA, "the link message is too short")
    connection_id, channel, channel_id, n_common, n_caps, offset = LINK.unpack_from(body)
    if channel not in CHANNELS:
        raise SpiceError(CHANNEL_NOT_AVAILABLE, f"there is no channel of type {channel}")
    common, caps = _words(body, offset, n_common, n_caps)
    return Link(connection_id, channel, channel_id, common, caps)


def read_reply(exactly: Callable[[int], bytes]) -> Reply:
    """The server's reply."""
    body = _read(exactly)
    if len(body) < REPLY.size:
        raise SpiceError(INVALID_DATA, "the link reply is too short")
    error, public_key, n_common, n_caps, offset = REPLY.unpack_from(body)
    common, caps = _words(body, offset, n_common, n_caps)
    return Reply(error, public_key, common, caps)


def refusal(error: int) -> bytes:
    """A link reply that says no."""
    return Reply(error, bytes(162), (), ()).pack()


def both(client: Link, server: Reply, cap: int) -> bool:
    """Whether both have this common capability."""
    return bool(client.common and server.common and client.common[0] & server.common[0] & cap)


def without_sasl(reply: Reply, public_key: bytes) -> Reply:
    """The VM's reply with the gateway's key in it, and without the way of logging in that the gateway has not got."""
    common = tuple(word & ~AUTH_SASL if i == 0 else word for i, word in enumerate(reply.common))
    return Reply(reply.error, public_key, common, reply.caps)


class TicketKey:
    """The gateway's RSA key, under which clients encrypt the password; 1,024 bits because SPICE knows no other."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 1024)
        self.public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def open(self, ticket: bytes) -> bytes | None:
        """The password in an encrypted ticket; None when it is none of ours."""
        try:
            return self._key.decrypt(ticket, _OAEP).rstrip(b"\0")
        except ValueError:
            return None


def same(shown: bytes | None, password: str) -> bool:
    """Whether the password shown is this one; takes as long either way."""
    return hmac.compare_digest(shown or b"", password.encode())


def seal_ticket(public_key: bytes, password: str) -> bytes:
    """The password encrypted for a VM's display, always 128 bytes."""
    key = serialization.load_der_public_key(public_key)
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != TICKET_BYTES * 8:
        raise SpiceError(INVALID_DATA, "the display's key is no RSA key of 1,024 bits")
    return key.encrypt(password.encode() + b"\0", _OAEP)


class Messages:
    """A client's messages, passed on whole: what is half sent when the client goes, the VM never sees.

    Messages over 64 KiB (files, USB) are passed on as they come. Garbage is a `SpiceError`.
    """

    WHOLE, LARGEST = 65536, 64 << 20

    def __init__(self, channel: int, mini: bool) -> None:
        self._head = struct.Struct("<HI") if mini else struct.Struct("<QHII")
        self._allowed, self.mini, self._buffer, self._skip = ALLOWED[channel], mini, b"", 0
        self._by_hand = BY_HAND if channel == INPUTS else frozenset()
        self.touched = False  # whether there was a key or the pointer in what was taken

    def take(self, data: bytes) -> bytes:
        """What of the client's bytes, together with what was kept, may be passed on now."""
        data = self._buffer + data
        end = min(self._skip, len(data))
        self._skip -= end
        while not self._skip and (size := self._size(data, end)):
            if size > len(data) - end:
                if size <= self.WHOLE:
                    break
                self._skip = size - (len(data) - end)
                size = len(data) - end
            end += size
        self._buffer = data[end:]
        return data[:end]

    def take_init(self, data: bytes) -> bytes:
        """Like `take` for a display channel that has not sent DISPLAY_INIT: b"" until it is there whole."""
        self._buffer += data
        if len(self._buffer) < self._head.size:
            return b""
        kind, size = self._parse(self._buffer, 0)
        if kind != DISPLAY_INIT or size != INIT.size:
            raise SpiceError(INVALID_DATA, "the display channel did not begin with DISPLAY_INIT")
        end = self._head.size + size
        if len(self._buffer) < end:
            return b""
        init, self._buffer = self._tamed(self._buffer[:end]), self._buffer[end:]
        return init + self.take(b"")

    def _parse(self, data: bytes, at: int) -> tuple[int, int]:
        words = self._head.unpack_from(data, at)
        return (words[0], words[1]) if self.mini else (words[1], words[2])

    def _size(self, data: bytes, at: int) -> int:
        """The size of the message there, its head included; 0 while the head is not there whole."""
        if len(data) - at < self._head.size:
            return 0
        kind, size = self._parse(data, at)
        if kind not in self._allowed or size > self.LARGEST:
            raise SpiceError(INVALID_DATA, f"message {kind} of {size} bytes is not a viewer's")
        self.touched = self.touched or kind in self._by_hand
        return self._head.size + size

    def _tamed(self, message: bytes) -> bytes:
        """DISPLAY_INIT with sizes that spice-server can bear: it ends its process over absurd ones."""
        cache_id, pixels, dictionary, window = INIT.unpack_from(message, self._head.size)
        body = INIT.pack(cache_id, min(max(pixels, 0), CACHE_PIXELS), dictionary, min(max(window, 0), WINDOW_PIXELS))
        return message[: self._head.size] + body


class Boundaries:
    """Where a VM's messages end. Native clients need each in a TLS record of its own: spice-gtk asks the socket, not
    TLS, whether there is more, leaves the second of two messages in one record unread, owes the VM an answer to its
    ping, and is thrown out by spice-server after a minute."""

    def __init__(self, mini: bool) -> None:
        self._struct = struct.Struct("<HI") if mini else struct.Struct("<QHII")
        self._field = 1 if mini else 2
        self._head, self._left = b"", 0  # of the message that is under way: its head so far; bytes of its body to come

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The bytes in pieces of which none has more than one message in it."""
        start, at = 0, 0
        while at < len(data):
            if not self._left:
                missing = self._struct.size - len(self._head)
                self._head += data[at : at + missing]
                at = min(at + missing, len(data))
                if len(self._head) < self._struct.size:
                    break
                self._left, self._head = self._struct.unpack(self._head)[self._field], b""
            body = min(self._left, len(data) - at)
            self._left -= body
            at += body
            if not self._left:
                yield data[start:at]
                start = at
        if start < len(data):
            yield data[start:]


def _read(exactly: Callable[[int], bytes]) -> bytes:
    magic, major, _minor, size = HEAD.unpack(exactly(HEAD.size))
    if magic != MAGIC:
        raise SpiceError(INVALID_MAGIC, "it does not speak SPICE")
    if major != MAJOR:
        raise SpiceError(VERSION_MISMATCH, f"it speaks SPICE {major}")
    if size > LINK_BYTES:
        raise SpiceError(INVALID_DATA, "the link message is too long")
    return exactly(size)


def _words(body: bytes, offset: int, n_common: int, n_caps: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if n_common > 32 or n_caps > 32 or offset + 4 * (n_common + n_caps) > len(body):
        raise SpiceError(INVALID_DATA, "the capabilities do not fit")
    words = struct.unpack_from(f"<{n_common + n_caps}I", body, offset)
    return words[:n_common], words[n_common:]


def _message(body: bytes) -> bytes:
    return HEAD.pack(MAGIC, MAJOR, MINOR, len(body)) + body


def _caps(common: tuple[int, ...], caps: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(common) + len(caps)}I", *common, *caps)
