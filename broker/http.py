"""The little HTTP that the gateway's port speaks: read a request's head, answer it."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from http import HTTPStatus
from typing import Any

HEAD_BYTES = 16384


class BadRequest(Exception):
    """What came is no HTTP request head, or one too long."""


@dataclass(frozen=True)
class Request:
    """A request's head; `early` is what came behind it."""

    method: str
    target: str
    version: str
    headers: Message
    early: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def cookie(self, name: str) -> str | None:
        """The cookie of this name."""
        for pair in (self.headers.get("Cookie") or "").split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name:
                return value
        return None


def read_request(sock: Any) -> Request | None:
    """The next request's head; None when the other end closed instead."""
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > HEAD_BYTES:
            raise BadRequest("the request's head is too long")
        part = sock.recv(4096)
        if not part:
            return None
        data += part
    head, _, early = data.partition(b"\r\n\r\n")
    first, _, headers = head.decode("latin-1").partition("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest("the request line is malformed")
    return Request(words[0], words[1], words[2], HeaderParser().parsestr(headers), early)


def answer(status: int, text: str = "", **headers: str) -> bytes:
    """A whole response that closes the connection."""
    body = text.encode() + b"\n" if text else b""
    fields = {
        "Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close",
        "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
