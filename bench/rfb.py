"""A small VNC viewer over a WebSocket, as a browser's: in through the gateway, and one whole picture."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
from urllib.parse import urlsplit

RAW = 0
COOKIE = "__Host-leasehold"


class Viewer:
    """One console: opened with a ticket's address and protocols; `picture` is read to its last byte."""

    def __init__(self, url: str, protocols: list[str], *, token: str, origin: str, ca_file: str, limit_s: float = 60) -> None:
        where = urlsplit(url)
        assert where.hostname is not None
        plain = socket.create_connection((where.hostname, where.port or 443), limit_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = ssl.create_default_context(cafile=ca_file).wrap_socket(plain, server_hostname=where.hostname)
        self._raw = b""  # bytes of frames
        self._data = bytearray()  # bytes within frames
        self._socket.sendall("\r\n".join([
            f"GET {where.path} HTTP/1.1", f"Host: {where.netloc}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Protocol: {', '.join(protocols)}", f"Origin: {origin}", f"Cookie: {COOKIE}={token}", "", "",
        ]).encode())  # fmt: skip
        while b"\r\n\r\n" not in self._raw:
            self._more()
        head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        if b" 101 " not in head.splitlines()[0]:
            raise ConnectionError(head.decode(errors="replace"))

    def picture(self) -> tuple[int, int]:
        """Log in, ask for the whole screen, read it to its last pixel; answers its size."""
        self._exactly(12)
        self._send(b"RFB 003.008\n")
        self._exactly(self._exactly(1)[0])
        self._send(b"\x01")  # no password: the ticket was enough
        if any(self._exactly(4)):
            raise ConnectionError("The gateway lets nobody in.")
        self._send(b"\x01")  # others may watch
        width, height, bits = struct.unpack(">HHB", self._exactly(5))
        self._exactly(15)
        self._exactly(struct.unpack(">I", self._exactly(4))[0])
        self._send(struct.pack(">BxHi", 2, 1, RAW))
        self._send(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        while (kind := self._exactly(1)[0]) != 0:
            self._skip(kind)
        (rectangles,) = struct.unpack(">xH", self._exactly(3))
        for _ in range(rectangles):
            _, _, wide, high, encoding = struct.unpack(">HHHHi", self._exactly(12))
            if encoding != RAW:
                raise ConnectionError(f"The display sends encoding {encoding}, which was not offered.")
            self._exactly(wide * high * bits // 8)
        return width, height

    def close(self) -> None:
        """Leave the console."""
        self._socket.close()

    def _skip(self, kind: int) -> None:
        if kind == 3:  # text of the clipboard
            self._exactly(struct.unpack(">xxxI", self._exactly(7))[0])
        elif kind == 1:  # colours of a palette
            self._exactly(struct.unpack(">xHH", self._exactly(5))[1] * 6)
        elif kind != 2:  # 2: the bell
            raise ConnectionError(f"The display says {kind}, which nobody understands.")

    def _send(self, data: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))
        self._socket.sendall(struct.pack(">BB", 0x82, 0x80 | len(data)) + mask + masked)

    def _exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            self._frame()
        data = bytes(self._data[:size])
        del self._data[:size]
        return data

    def _frame(self) -> None:
        while len(self._raw) < 2:
            self._more()
        kind, length, at = self._raw[0] & 0x0F, self._raw[1] & 0x7F, 2
        if length > 125:
            at = 4 if length == 126 else 10
            while len(self._raw) < at:
                self._more()
            length = int.from_bytes(self._raw[2:at], "big")
        parts, have = [self._raw[at : at + length]], min(length, len(self._raw) - at)
        self._raw = self._raw[at + length :]
        while have < length:
            self._more(length - have)
            parts.append(self._raw)
            have, self._raw = have + len(self._raw), b""
        content = b"".join(parts)
        if kind == 8:
            raise ConnectionError(f"The gateway closed the console: {content[2:].decode(errors='replace')}")
        if kind in (0, 1, 2):
            self._data += content

    def _more(self, most: int = 262_144) -> None:
        more = self._socket.recv(most)
        if not more:
            raise ConnectionError("The gateway hung up.")
        self._raw += more
