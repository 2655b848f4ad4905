"""A VNC console in the browser: the gateway logs in to the display, lets the browser in without, and moves bytes."""

from __future__ import annotations

from functools import partial
from typing import Any

from broker.live import LiveConsole, move_bytes
from broker.pump import copy, read
from broker.rfb import Exactly, Inputs, let_in
from broker.websocket import WebSocket, WebSocketError


def greet(ws: WebSocket) -> Exactly:
    """Let the browser in; answers the reader with what it has sent already. `RfbError` when it speaks otherwise."""
    exactly = Exactly(ws.recv)
    let_in(ws.sendall, exactly)
    return exactly


def relay(live: LiveConsole, ws: WebSocket, early: bytes, display: Any, gone: str) -> None:
    """Move bytes between a browser that was let in and a display that was logged in to, until the console is over."""

    inputs = Inputs()

    def send(data: bytes) -> None:
        live.touched = inputs.heard(data) or live.touched
        display.sendall(data)

    def up() -> None:
        try:
            if early:
                send(early)
            copy(ws.recv, send, live.count_up)
        except WebSocketError as wrong:
            live.end(wrong.code, str(wrong))

    def down() -> None:
        copy(partial(read, display), ws.sendall, live.count_down)

    live.ping = ws.ping
    move_bytes(live, down, up, gone, lambda: ws.close(live.code, live.why))
