"""RFB 3.8 (RFC 6143) as far as the gateway speaks it: log in to QEMU with the password, let the browser in without."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

VERSION = b"RFB 003.008\n"
NONE, VNC = 1, 2


class RfbError(Exception):
    """The other end does not speak RFB as it should, or says no; `str()` is its reason."""


class Exactly:
    """Reads exactly so many bytes from a stream that gives any number; `rest` is what was read too far."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read, self.rest = read, b""

    def __call__(self, size: int) -> bytes:
        while len(self.rest) < size:
            data = self._read()
            if not data:
                raise RfbError("the connection was closed")
            self.rest += data
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


def log_in(display: Any, password: str) -> None:
    """Log in to a VM's display (a socket) with VNC authentication. A display that asks for no password is refused:
    it would be open to anybody on its host."""
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = display.recv(size - len(data))
            if not part:
                raise RfbError("the connection was closed")
            data += part
        return data

    version = exactly(12)
    if not version.startswith(b"RFB 003.") or version < VERSION:
        raise RfbError(f"it speaks {version!r} instead of RFB 3.8")
    display.sendall(VERSION)
    (count,) = exactly(1)
    if count == 0:
        raise RfbError(_reason(exactly))
    if VNC not in exactly(count):
        raise RfbError("it does not ask for a password")
    display.sendall(bytes([VNC]))
    display.sendall(answer(password, exactly(16)))
    if struct.unpack(">I", exactly(4))[0] != 0:
        raise RfbError(_reason(exactly))


def let_in(send: Callable[[bytes], None], exactly: Exactly) -> None:
    """Play the server towards the browser up to where it is let in; the gateway has checked its ticket already."""
    send(VERSION)
    version = exactly(12)
    if version != VERSION:
        raise RfbError("the viewer does not speak RFB 3.8")
    send(bytes([1, NONE]))
    if exactly(1) != bytes([NONE]):
        raise RfbError("the viewer chose a security type that was not offered")
    send(struct.pack(">I", 0))


class Inputs:
    """Reads what a browser says over VNC, to tell keys and pointer from the questions that viewers ask by themselves."""

    _KEY, _POINTER, _CUT, _ENCODINGS, _SIZE, _FENCE, _QEMU = 4, 5, 6, 2, 251, 248, 255
    _FIXED = {0: 20, 3: 10, _KEY: 8, _POINTER: 6, 150: 10, 250: 4}  # RFC 6143, 7.5; 150: continuous updates; 250: xvp

    def __init__(self) -> None:
        self._kept, self._skip, self._lost = b"", 0, False

    def heard(self, data: bytes) -> bool:
        """Whether there is a key, the pointer or pasted text in these bytes. Once a message is not understood, everything
        counts as input: nobody is thought idle for the sake of a new viewer."""
        if self._lost:
            return True
        skipped, found = min(self._skip, len(data)), False
        self._skip -= skipped
        data = self._kept + data[skipped:]
        while data and not self._lost:
            size = self._length(data)
            if size == 0:
                break
            found = found or data[0] in (self._KEY, self._POINTER, self._CUT) or (data[0] == self._QEMU and data[1] == 0)
            self._skip, data = max(0, size - len(data)), data[size:]
        self._kept = b"" if self._lost else data
        return found or self._lost

    def _length(self, data: bytes) -> int:
        """The length of the message that begins here; 0 when more must come to tell."""
        if data[0] in self._FIXED:
            return self._FIXED[data[0]]
        if len(data) < (2 if data[0] == self._QEMU else 4 if data[0] == self._ENCODINGS else 9 if data[0] == self._FENCE else 8):
            return 0
        match data[0]:
            case self._ENCODINGS:
                return 4 + 4 * int.from_bytes(data[2:4], "big")
            case self._CUT:  # the extended clipboard's length is negative
                return 8 + abs(int.from_bytes(data[4:8], "big", signed=True))
            case self._SIZE:
                return 8 + 16 * data[6]
            case self._FENCE:
                return 9 + data[8]
            case self._QEMU if data[1] == 0:
                return 12
            case self._QEMU if data[1] == 1:
                return 10
        self._lost = True
        return 0


def answer(password: str, challenge: bytes) -> bytes:
    """The challenge encrypted with DES under the password, whose bytes count with their bits reversed (RFC 6143, 7.2.2)."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
    # three times the same key makes triple DES plain DES
    return Cipher(TripleDES(key * 3), modes.ECB()).encryptor().update(challenge)


def _reason(exactly: Callable[[int], bytes]) -> str:
    (length,) = struct.unpack(">I", exactly(4))
    return exactly(min(length, 1000)).decode(errors="replace")
