"""Which enrolled thin client asks: a cookie of its own in browsers, a header from the command line."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Response, request

from backend.devices import enrolling
from backend.devices.enrolling import DeviceFacts
from backend.errors import Denied
from broker import reach
from broker.access import Whence
from portal.auth import person
from portal.parts import parts
from portal.transaction import tx

COOKIE = "__Host-leasehold-device"
HEADER = "Leasehold-Device"
LASTS = timedelta(days=400)  # browsers keep no cookie for longer; each look at the kiosk page begins the time anew


def by_cookie() -> DeviceFacts | None:
    """The enrolled device that this browser is on; None for every other browser."""
    token = request.cookies.get(COOKIE)
    return enrolling.find(tx(), token, address=request.remote_addr or "", now=parts().clock.now()) if token else None


def by_header() -> DeviceFacts | None:
    """The device that a program says it runs on; `Denied` when it is not, or not any more, enrolled."""
    token = request.headers.get(HEADER)
    if not token:
        return None
    device = enrolling.find(tx(), token, address=request.remote_addr or "", now=parts().clock.now())
    if device is None:
        raise Denied("unknown_device", "This device is not enrolled here any more. Ask your administrator for a new code.")
    return device


def remember(response: Response, token: str) -> None:
    """Have the browser keep the device's token, out of reach of scripts."""
    until = parts().clock.now() + LASTS
    response.set_cookie(COOKIE, token, expires=until, path="/", secure=True, httponly=True, samesite="Lax")


def forget(response: Response) -> None:
    """Take a token that is worth nothing any more from the browser."""
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Lax")


def whence(who: Any = None) -> Whence:
    """Where the person of this request asks from, or who has just signed in with it."""
    who, address = who or person(), request.remote_addr or ""
    return reach.whence(tx(), who.id, address) if who.device_id else Whence(address)
