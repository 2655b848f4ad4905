"""A VNC display with a picture of a desktop on it, which writes what is typed and remembers every key."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

from broker.rfb import answer

WIDTH, HEIGHT = 1024, 640
SMALL = (480, 300)
QEMU_KEYS = -258  # pseudo-encoding: "send me scancodes", as QEMU's own display says
LETTERS = dict(zip((*range(0x10, 0x1A), *range(0x1E, 0x27), *range(0x2C, 0x33)), "qwertyuiopasdfghjklzxcvbnm", strict=True))
DIGITS = dict(zip(range(0x02, 0x0C), "1234567890", strict=True))
SIGNS = {0x39: " ", 0x0C: "-", 0x0D: "=", 0x33: ",", 0x34: ".", 0x35: "/", 0x27: ";", 0x28: "'", 0x1C: "\n"}
SHIFTED = dict(zip("1234567890-=,./;'", '!@#$%^&*()_+<>?:"', strict=True))
SHIFT = 0x2A
CODES = {sign: code for code, sign in (LETTERS | DIGITS | SIGNS).items()}
KEYSYMS = {ord(sign): code for sign, code in CODES.items()} | {ord(SHIFTED.get(s, s.upper())): code for s, code in CODES.items()}
KEYSYMS |= {ord(" "): CODES[" "], 0xFF0D: CODES["\n"], 0xFFE1: SHIFT}


def typed(scancodes: list[tuple[int, bool]]) -> str:
    """What a guest with a US keyboard makes of these presses."""
    keys: dict[int, str] = LETTERS | DIGITS | SIGNS
    text, shift = "", False
    for code, down in scancodes:
        if code == SHIFT:
            shift = down
        elif down and (key := keys.get(code)):
            text += (key.upper() if key.isalpha() else SHIFTED.get(key, key)) if shift else key
    return text


class PictureDisplay:
    """One VM's display; `password` answers what is accepted now, or None."""

    def __init__(self, name: str, password: Callable[[], str | None]) -> None:
        self.name, self._password = name, password
        self.scancodes: list[tuple[int, bool]] = []
        self.open: set[socket.socket] = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def text(self) -> str:
        """What was typed into it."""
        return typed(self.scancodes)

    def picture(self) -> Image.Image:
        """The desktop as it looks now."""
        return draw(self.name, self.text)

    def hang_up(self) -> None:
        """Break every open connection, as a network would."""
        for sock in list(self.open):
            sock.close()

    def stop(self) -> None:
        self.listener.close()
        self.hang_up()

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self.open.add(sock)
        try:
            if self._log_in(sock):
                self._talk(sock)
        except (OSError, EOFError, struct.error):
            pass
        finally:
            self.open.discard(sock)
            sock.close()

    def _log_in(self, sock: socket.socket) -> bool:
        sock.sendall(b"RFB 003.008\n")
        _exactly(sock, 12)
        sock.sendall(b"\x01\x02")
        _exactly(sock, 1)
        challenge = os.urandom(16)
        sock.sendall(challenge)
        password = self._password()
        if password is None or answer(password, challenge) != _exactly(sock, 16):
            sock.sendall(struct.pack(">II", 1, 14) + b"Wrong password")
            return False
        sock.sendall(bytes(4))
        _exactly(sock, 1)
        name = self.name.encode()
        pixels = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
        sock.sendall(struct.pack(">HH", WIDTH, HEIGHT) + pixels + struct.pack(">I", len(name)) + name)
        return True

    def _talk(self, sock: socket.socket) -> None:
        told, seen, wants = False, None, False
        order = "BGRX"
        sock.settimeout(0.2)
        while True:
            try:
                kind = _exactly(sock, 1)[0]
            except TimeoutError:
                kind = -1
            sock.settimeout(10)
            if kind == 0:  # SetPixelFormat: noVNC wants red in the lowest byte
                _, _, _, _, _, _, _, red, _, _ = struct.unpack(">3xBBBBHHHBBB3x", _exactly(sock, 19))
                order = "RGBX" if red == 0 else "BGRX"
            elif kind == 2:
                _exactly(sock, 4 * struct.unpack(">xH", _exactly(sock, 3))[0])
            elif kind == 3:
                incremental = _exactly(sock, 9)[0]
                wants, seen = True, seen if incremental else None
            elif kind == 4:  # a key by its sign: what a viewer sends until it has heard that scan codes are understood
                down, keysym = struct.unpack(">BxxI", _exactly(sock, 7))
                if code := KEYSYMS.get(keysym):
                    self.scancodes.append((code, bool(down)))
            elif kind == 5:
                _exactly(sock, 5)
            elif kind == 6:
                _exactly(sock, struct.unpack(">3xI", _exactly(sock, 7))[0])
            elif kind == 255:
                _, down, _, code = struct.unpack(">BHII", _exactly(sock, 11))
                self.scancodes.append((code, bool(down)))
            if wants and seen != self.text:
                rectangles = [] if told else [struct.pack(">HHHHi", 0, 0, WIDTH, HEIGHT, QEMU_KEYS)]
                told, wants, seen = True, False, self.text
                image = self.picture().convert("RGBX").tobytes("raw", order)
                rectangles.append(struct.pack(">HHHHi", 0, 0, WIDTH, HEIGHT, 0) + image)
                sock.sendall(struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles))
            sock.settimeout(0.2)


def draw(name: str, text: str = "", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """A desktop: a wallpaper, a panel with the desktop's name, a window with what was typed."""
    image = Image.linear_gradient("L").rotate(90).resize((WIDTH, HEIGHT)).convert("RGB")
    image = Image.blend(image, Image.new("RGB", image.size, (18, 66, 110)), 0.82)
    pen = ImageDraw.Draw(image)
    large, small, mono = (ImageFont.load_default(n) for n in (54, 17, 19))
    pen.text((64, 70), name, (255, 255, 255), large)
    pen.text((66, 140), "Debian GNU/Linux 12", (190, 214, 238), small)
    pen.rectangle((0, HEIGHT - 44, WIDTH, HEIGHT), (12, 30, 52))
    pen.text((22, HEIGHT - 32), "Applications      Files      Terminal", (220, 232, 245), small)
    pen.rounded_rectangle((300, 200, 960, 540), 10, (24, 28, 36))
    pen.rounded_rectangle((300, 200, 960, 236), 10, (58, 66, 82))
    pen.text((318, 208), f"Terminal on {name}", (230, 236, 245), small)
    lines = [
        f"user@{name}:~$ uname -a",
        f"Linux {name} 6.1.0-28-amd64 #1 SMP x86_64 GNU/Linux",
        *f"user@{name}:~$ {text}_".split("\n"),
    ]
    for n, line in enumerate(lines[-12:]):
        pen.text((318, 250 + 24 * n), line, (150, 240, 170), mono)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def webp(name: str) -> bytes:
    """The small picture of it."""
    out = io.BytesIO()
    draw(name, size=SMALL).save(out, "WEBP", quality=75)
    return out.getvalue()


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
