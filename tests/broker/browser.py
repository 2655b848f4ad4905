"""The far ends as tests need them: a browser's WebSocket, a VNC display that answers, a raw SPICE client."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
import threading
from typing import Any

from broker.rfb import answer
from broker.spice import HEAD, LINK, REPLY, Link, seal_ticket
from broker.websocket import frame_head, unmask
from tests.broker.processes import GatewayProcess


class Refused(Exception):
    """The server answered the upgrade with something else: its whole answer."""


class Browser:
    """A browser's side of a WebSocket. `closed` is (code, reason) once the server has closed."""

    def __init__(
        self, gateway: GatewayProcess, *, token: str, cookie: str | None, origin: str | None = None, path: str = "/console",
        protocols: str | None = None, receive_buffer: int | None = None, forwarded_for: str | None = None,
    ) -> None:
        self.sock = gateway.connect()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.closed: tuple[int, str] | None = None
        self.data, self._raw = b"", b""
        self.pongs: list[bytes] = []
        key = base64.b64encode(os.urandom(16)).decode()
        head = [
            f"GET {path} HTTP/1.1", f"Host: {gateway.public}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", f"Origin: {origin or gateway.origin}",
            f"Sec-WebSocket-Protocol: {protocols or f'binary, leasehold.{token}'}",
        ]
        if forwarded_for is not None:
            head.append(f"X-Forwarded-For: {forwarded_for}")
        if cookie is not None:
            head.append(f"Cookie: theme=dark; __Host-leasehold={cookie}")
        self.sock.sendall("\r\n".join([*head, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self.sock.recv(4096)
            if not part:
                break
            answer += part
        self.head, _, self._raw = answer.partition(b"\r\n\r\n")
        if not self.head.startswith(b"HTTP/1.1 101"):
            self.sock.close()
            raise Refused(answer.decode())

    def frame(self, opcode: int, data: bytes, final: bool = True, mask: bool = True) -> None:
        """Send one frame."""
        head = bytearray(frame_head(opcode, len(data)))
        if not final:
            head[0] &= 0x7F
        if mask:
            head[1] |= 0x80
            key = os.urandom(4)
            self.sock.sendall(bytes(head) + key + unmask(data, key))
        else:
            self.sock.sendall(bytes(head) + data)

    def send(self, data: bytes) -> None:
        self.frame(2, data)

    def exactly(self, size: int) -> bytes:
        """So many bytes of data; EOFError when the server closed before."""
        while len(self.data) < size:
            self._next()
        data, self.data = self.data[:size], self.data[size:]
        return data

    def recv(self, most: int) -> bytes:
        """As a socket does: some bytes of data, b"" at the end."""
        try:
            while not self.data:
                self._next()
        except EOFError:
            return b""
        data, self.data = self.data[:most], self.data[most:]
        return data

    sendall = send

    def until_closed(self) -> tuple[int, str]:
        """Read on until the server closes; answers its code and reason (1006 when it just hung up)."""
        try:
            while True:
                self._next()
        except EOFError:
            pass
        return self.closed or (1006, "")

    def greet(self) -> None:
        """noVNC's part up to where it is let in."""
        assert self.exactly(12) == b"RFB 003.008\n"
        self.send(b"RFB 003.008\n")
        assert self.exactly(2) == b"\x01\x01"
        self.send(b"\x01")
        assert self.exactly(4) == bytes(4)

    def close(self) -> None:
        self.sock.close()

    def _next(self) -> None:
        while True:
            if (frame := self._whole()) is not None:
                opcode, data = frame
                if opcode == 8:
                    code = struct.unpack(">H", data[:2])[0] if data else 1005
                    self.closed = code, data[2:].decode()
                    raise EOFError(self.closed)
                if opcode == 9:
                    self.frame(10, data)
                    continue
                if opcode == 10:
                    self.pongs.append(data)
                    return
                self.data += data
                return
            try:
                part = self.sock.recv(65536)
            except (ConnectionError, ssl.SSLError):
                part = b""
            if not part:
                raise EOFError(self.closed)
            self._raw += part

    def _whole(self) -> tuple[int, bytes] | None:
        raw = self._raw
        if len(raw) < 2:
            return None
        length, at = raw[1] & 0x7F, 2
        if length > 125:
            at = 4 if length == 126 else 10
            if len(raw) < at:
                return None
            length = int.from_bytes(raw[2:at], "big")
        if len(raw) < at + length:
            return None
        self._raw = raw[at + length :]
        return raw[0] & 0x0F, raw[at : at + length]


class Display:
    """A display that speaks VNC's login and then sends back whatever it gets (or what `behave` does)."""

    def __init__(self, behave: Any = None) -> None:
        self.passwords: set[str] = set()
        self.behave = behave or echo
        self.open = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                sock.sendall(b"RFB 003.008\n")
                if sock.recv(12) != b"RFB 003.008\n":
                    return
                sock.sendall(b"\x01\x02")
                sock.recv(1)
                challenge = os.urandom(16)
                sock.sendall(challenge)
                shown = sock.recv(16)
                if not any(answer(password, challenge) == shown for password in list(self.passwords)):
                    sock.sendall(struct.pack(">II", 1, 14) + b"Wrong password")
                    return
                sock.sendall(bytes(4))
                self.open += 1
                self.behave(sock)
            except OSError:
                pass
            finally:
                self.open -= 1

    def stop(self) -> None:
        self.listener.close()


def echo(sock: socket.socket) -> None:
    """Send everything back."""
    while data := sock.recv(65536):
        sock.sendall(data)


class SpiceClient:
    """One SPICE channel, byte by byte; `sock` is any stream to where SPICE is spoken."""

    def __init__(self, sock: Any, channel: int, connection_id: int = 0, channel_id: int = 0, caps: tuple[int, ...] = ()) -> None:
        self.sock = sock
        sock.sendall(Link(connection_id, channel, channel_id, (0b1011,), caps).pack())
        try:
            _, _, _, size = HEAD.unpack(self.exactly(HEAD.size))
        except EOFError:
            sock.close()
            raise
        body = self.exactly(size)
        self.error, self.public_key, n_common, n_caps, at = REPLY.unpack_from(body)
        words = struct.unpack_from(f"<{n_common + n_caps}I", body, at)
        self.common, self.caps = words[:n_common], words[n_common:]

    def log_in(self, password: str, then: bytes = b"") -> int:
        """Answer SPICE's result of the login."""
        self.sock.sendall(struct.pack("<I", 1) + seal_ticket(self.public_key, password) + then)
        return int(struct.unpack("<I", self.exactly(4))[0])

    def message(self) -> tuple[int, bytes]:
        """The next message of the server."""
        kind, size = struct.unpack("<HI", self.exactly(6))
        return kind, self.exactly(size)

    def send(self, kind: int, body: bytes) -> None:
        self.sock.sendall(struct.pack("<HI", kind, len(body)) + body)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def close(self) -> None:
        self.sock.close()


DISPLAY_INIT = struct.pack("<HIBqBi", 101, 14, 1, 20 << 20, 1, 4 << 20)


def through(gateway: GatewayProcess, name: str, port: int | None = None) -> ssl.SSLSocket:
    """A native client's way: CONNECT, then TLS checked against the CA."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), 20)
    sock.sendall(f"CONNECT {name}:{port or gateway.port} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = sock.recv(1)
        if not part:
            break
        answer += part
    if b" 200 " not in answer.split(b"\r\n")[0]:
        sock.close()
        raise Refused(answer.decode())
    return ssl.create_default_context(cafile=str(gateway.ca_file)).wrap_socket(sock, server_hostname="localhost")


__all__ = ["DISPLAY_INIT", "LINK", "Browser", "Display", "Refused", "SpiceClient", "through"]
