"""The browser's way through the gateway: who is let in, what passes, and how it ends."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from backend.clock import WallClock
from backend.directory.models import WebSession
from backend.events import Event
from broker import consoles, tickets
from broker.loop import TicketsLoop
from broker.models import AccessRule, ConsoleSession, Ticket
from pools.models import Lease
from sim import make
from tests.broker.browser import Browser, Display, Refused
from tests.broker.conftest import Desk, sign_in
from tests.broker.processes import Qemu, wait_until


def test_bytes_pass_both_ways(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    browser = desk.browser(ticket)
    assert b"Sec-WebSocket-Protocol: binary\r\n" in browser.head + b"\r\n"
    browser.greet()
    for size in (1, 125, 126, 5000, 65535, 65536, 300_000):
        data = os.urandom(size)
        browser.send(data)
        assert browser.exactly(size) == data
    console = desk.console(ticket)
    assert console is not None and console.ended_at is None and console.address == "127.0.0.1"
    browser.close()
    console = desk.ended(ticket)
    assert console.end_reason == "The viewer was closed."
    assert console.bytes_to_vm == console.bytes_to_client == sum((1, 125, 126, 5000, 65535, 65536, 300_000))
    assert desk.token(ticket) not in desk.gateway.log.read_text()
    with desk.sessions() as tx:
        mine = sa.and_(Event.code.like("console.%"), Event.user_id == desk.user_id)
        codes = tx.scalars(sa.select(Event.code).where(mine).order_by(Event.id)).all()
    assert codes == ["console.opened", "console.closed"]


@pytest.mark.parametrize("trusted, address", [("", "127.0.0.1"), ("127.0.0.0/8", "203.0.113.5")])
def test_a_console_has_the_address_of_its_person(desk: Desk, display: Display, trusted: str, address: str) -> None:
    """What the client wrote itself counts for nothing, and without a setting no header does."""
    desk.gateway.stop()
    desk.gateway.environ["LEASEHOLD_TRUSTED_PROXIES"] = trusted
    desk.gateway.start()
    try:
        ticket = desk.ticket()
        desk.browser(ticket, forwarded_for="198.51.100.1, 203.0.113.5").greet()
        console = desk.console(ticket)
        assert console is not None and console.address == address
    finally:
        del desk.gateway.environ["LEASEHOLD_TRUSTED_PROXIES"]
        desk.gateway.stop()  # the next test starts it again


def test_a_living_console_is_counted(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    browser = desk.browser(ticket)
    browser.greet()
    browser.send(bytes(1000))
    browser.exactly(1000)
    console = desk.console(ticket)
    assert console is not None
    began = console.seen_at
    wait_until(lambda: (c := desk.console(ticket)) and (c.bytes_to_vm, c.bytes_to_client) == (1000, 1000), "its bytes are there")
    console = desk.console(ticket)
    assert console is not None and console.seen_at > began and console.ended_at is None


def test_a_row_that_somebody_else_ended_closes_its_console(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    browser = desk.browser(ticket)
    browser.greet()
    console = desk.console(ticket)
    assert console is not None
    with desk.sessions.begin() as tx:
        assert consoles.end(tx, console.id, why="Its gateway has gone away.", now=WallClock().now())
    assert browser.until_closed()[0] == 4001


def refusal(desk: Desk, ticket: Ticket, **how: object) -> str:
    """The sentence this browser is refused with."""
    code, reason = desk.browser(ticket, **how).until_closed()
    assert code == 4003, (code, reason)
    return reason


def test_a_ticket_opens_one_console(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    desk.browser(ticket).greet()
    assert "used already" in refusal(desk, ticket)
    with desk.sessions() as tx:
        event = tx.scalars(sa.select(Event).where(Event.code == "ticket.refused", Event.user_id == desk.user_id)).one()
    assert "used already" in event.sentence and "127.0.0.1" in event.sentence


def test_late_ticket(desk: Desk, display: Display) -> None:
    ticket = desk.ticket(now=WallClock().now() - tickets.VALID)
    assert "has expired" in refusal(desk, ticket)


def test_another_persons_ticket(desk: Desk, display: Display) -> None:
    with desk.sessions.begin() as tx:
        _, cookie = sign_in(tx, make.a_user(tx), WallClock().now())
    ticket = desk.ticket()
    assert "another sign-in" in refusal(desk, ticket, cookie=cookie)
    desk.browser(ticket).greet()  # and it is still Alice's to use


@pytest.mark.parametrize("cookie", [None, "", "made-up"])
def test_without_sign_in(desk: Desk, display: Display, cookie: str | None) -> None:
    assert "not signed in" in refusal(desk, desk.ticket(), cookie=cookie)


def test_after_sign_out(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    desk.change(WebSession, desk.session_id, ended_at=WallClock().now())
    assert "not signed in" in refusal(desk, ticket)


@pytest.mark.parametrize("state", ["returning", "ended"])
def test_after_the_lease(desk: Desk, display: Display, state: str) -> None:
    ticket = desk.ticket()
    desk.change(Lease, desk.lease_id, state=state)
    assert "lease on this desktop is over" in refusal(desk, ticket)


def test_revoked_ticket_says_why(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    desk.ticket()
    assert "a newer ticket took its place" in refusal(desk, ticket)


def test_forged_tickets(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    token = desk.token(ticket)
    for wrong in ("", "x", token[:-1], token[:-1] + ("A" if token[-1] != "A" else "B"), "A" * 64):
        if not wrong:
            continue
        assert "not valid" in refusal(desk, ticket, token=wrong)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:8443", "https://localhost", "null"])
def test_foreign_pages_get_no_websocket(desk: Desk, display: Display, origin: str) -> None:
    ticket = desk.ticket()
    with pytest.raises(Refused, match="403 Forbidden"):
        desk.browser(ticket, origin=origin)
    desk.browser(ticket).greet()


def test_other_requests(desk: Desk) -> None:
    for request, status in ((b"GET / HTTP/1.1", b"404"), (b"GET /console HTTP/1.1", b"403"), (b"nonsense", b"")):
        with desk.gateway.connect() as sock:
            sock.sendall(request + b"\r\nHost: x\r\n\r\n")
            assert sock.recv(1000)[9:12] == status
    with pytest.raises(Refused, match="400 Bad Request"):
        desk.browser(desk.ticket(), protocols="binary")


def test_not_armed_yet_then_armed(desk: Desk, display: Display) -> None:
    ticket = desk.ticket(arm=False)
    browser = desk.browser(ticket)
    browser.greet()
    desk.arm(ticket)
    browser.send(b"hello")
    assert browser.exactly(5) == b"hello"


def test_the_host_does_not_answer(desk: Desk, display: Display) -> None:
    desk.ports.clear()
    browser = desk.browser()
    browser.greet()
    code, reason = browser.until_closed()
    assert code == 4005 and "could not be opened" in reason


def test_a_display_with_another_password(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    display.passwords.clear()
    browser = desk.browser(ticket)
    browser.greet()
    code, reason = browser.until_closed()
    assert code == 4004 and "refused the gateway" in reason
    assert desk.ended(ticket).end_reason == reason


def test_the_end_of_the_lease_closes_the_console(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    browser = desk.browser(ticket)
    browser.greet()
    desk.change(Lease, desk.lease_id, state="returning")
    assert browser.until_closed() == (4001, "Your lease on this desktop is over.")
    assert desk.ended(ticket).end_reason == "Your lease on this desktop is over."


def test_signing_out_closes_the_console(desk: Desk, display: Display) -> None:
    browser = desk.browser()
    browser.greet()
    desk.change(WebSession, desk.session_id, ended_at=WallClock().now())
    assert browser.until_closed()[0] == 4001


def test_revoking_closes_the_console(desk: Desk, display: Display) -> None:
    browser = desk.browser()
    browser.greet()
    with desk.sessions.begin() as tx:
        tickets.revoke_for(tx, vm_id=desk.vm_id, why="An administrator took the desktop back.", now=WallClock().now())
    assert browser.until_closed() == (4001, "An administrator took the desktop back.")


def test_a_desktop_that_ends(desk: Desk, display: Display) -> None:
    display.behave = lambda sock: sock.recv(1)
    ticket = desk.ticket()
    browser = desk.browser(ticket)
    browser.greet()
    browser.send(b"x")
    code, reason = browser.until_closed()
    assert code == 4004 and "screen was closed" in reason


def test_stopping_the_gateway_says_good_bye(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    browser = desk.browser(ticket)
    browser.greet()
    desk.gateway.stop()
    assert browser.until_closed()[0] == 1001
    assert "restarted" in (desk.ended(ticket).end_reason or "")


def test_a_killed_gateway_cleans_up_when_it_is_back(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    desk.browser(ticket).greet()
    desk.gateway.kill()
    desk.gateway.start()
    assert desk.ended(ticket).end_reason == "The gateway was restarted."


def test_the_loop_ends_consoles_of_gateways_that_never_came_back(desk: Desk, display: Display) -> None:
    ticket = desk.ticket()
    desk.browser(ticket).greet()
    desk.gateway.kill()

    class Later:
        def now(self):  # type: ignore[no-untyped-def]
            return WallClock().now() + timedelta(minutes=5)

    loop = TicketsLoop(Later())  # type: ignore[arg-type]
    for ended in (False, True):
        with desk.sessions.begin() as tx:
            loop.apply(tx, None)
        console = desk.console(ticket)
        assert console is not None and (console.ended_at is not None) is ended


def test_a_rule_refuses_tickets_and_closes_consoles(desk: Desk, display: Display) -> None:
    watching = desk.browser(desk.ticket())
    watching.greet()
    later = desk.ticket(arm=False)
    with desk.sessions.begin() as tx:
        rule_id = make.an_access_rule(tx, "deny", network="127.0.0.0/8", sentence="Not from here.").id
    try:
        assert refusal(desk, later) == "Not from here."
        with desk.sessions.begin() as tx:
            TicketsLoop(WallClock()).apply(tx, None)
        assert watching.until_closed() == (4001, "Not from here.")
    finally:
        with desk.sessions.begin() as tx:
            tx.execute(sa.delete(AccessRule).where(AccessRule.id == rule_id))


def test_protocol_errors(desk: Desk, display: Display) -> None:
    def after(*frames: tuple[int, bytes, bool, bool]) -> int:
        browser = desk.browser()
        browser.greet()
        for frame in frames:
            browser.frame(*frame)
        return browser.until_closed()[0]

    assert after((2, b"not masked", True, False)) == 1002
    assert after((3, b"reserved opcode", True, True)) == 1002
    assert after((0, b"continues nothing", True, True)) == 1002
    assert after((2, b"begun", False, True), (2, b"begun again", True, True)) == 1002
    assert after((9, b"ping in pieces", False, True)) == 1002
    assert after((9, b"x" * 126, True, True)) == 1002
    assert after((1, b"text", True, True)) == 1003
    assert after((2, b"x" * 1_000_001, True, True)) == 1009
    assert after((8, b"\x03", True, True)) == 1002
    assert after((8, b"\x03\xe8\xff", True, True)) == 1007
    assert after((8, b"\x0f\xa0bye", True, True)) == 4000
    assert after((8, b"", True, True)) == 1005


def test_fragments_and_pings(desk: Desk, display: Display) -> None:
    browser = desk.browser()
    browser.greet()
    browser.frame(2, b"one ", final=False)
    browser.frame(9, b"are you there")
    browser.frame(0, b"two ", final=False)
    browser.frame(0, b"", final=False)
    browser.frame(0, b"three")
    assert browser.exactly(13) == b"one two three"
    assert browser.pongs == [b"are you there"]


def test_a_slow_reader_slows_its_own_display_alone(desk: Desk, display: Display) -> None:
    """A stalled browser in front of a display that sends without end: the gateway holds one chunk, not the stream."""
    sent = 0

    def flood(sock):  # type: ignore[no-untyped-def]
        nonlocal sent
        chunk = os.urandom(1 << 20)
        while True:
            sent += sock.send(chunk)

    display.behave = flood
    slow = desk.browser(receive_buffer=65536)
    slow.greet()
    before = desk.gateway.memory_kib()
    stalled = [0]

    def settled() -> bool:
        now, stalled[0] = stalled[0], sent
        return sent > 0 and now == sent

    wait_until(lambda: (time.sleep(1), settled())[1], "the display was slowed down")
    assert desk.gateway.memory_kib() - before < 16_384  # it could have held hundreds of megabytes by now
    display.behave = lambda sock: [sock.sendall(data) for data in iter(lambda: sock.recv(65536), b"")]
    quick = desk.browser()
    quick.greet()
    quick.send(b"others go on")
    assert quick.exactly(12) == b"others go on"
    assert len(slow.exactly(1 << 20)) == 1 << 20
    slow.close()
    quick.close()


def test_a_paused_database(desk: Desk, display: Display, cluster) -> None:  # type: ignore[no-untyped-def]
    """Running consoles go on without PostgreSQL; new ones are told, and work when it is back."""
    browser = desk.browser()
    browser.greet()
    later = desk.ticket()
    name = desk.gateway.environ["LEASEHOLD_DATABASE_URL"].split("/")[3].split("?")[0]
    desk.sessions.kw["bind"].dispose()
    cluster.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    cluster.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        code, reason = desk.browser(later).until_closed()
        assert code == 4005 and "database does not answer" in reason
        browser.send(b"still here")
        assert browser.exactly(10) == b"still here"
    finally:
        cluster.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    browser.close()
    again = desk.browser(later)
    again.greet()
    with desk.sessions() as tx:
        live = sa.select(sa.func.count()).select_from(ConsoleSession).where(
            ConsoleSession.ended_at.is_(None), ConsoleSession.user_id == desk.user_id)
        wait_until(lambda: tx.scalar(live) == 1, "only the second console is live")


def test_five_hundred_idle_consoles(desk: Desk, display: Display) -> None:
    """Each of them is heard, and none hears another."""
    browsers: list[Browser] = []
    for _ in range(500):
        browser = desk.browser()
        browser.greet()
        browsers.append(browser)
    for number, browser in enumerate(browsers):
        browser.send(f"console {number:04}".encode())
    for number, browser in enumerate(browsers):
        assert browser.exactly(12) == f"console {number:04}".encode()
    for browser in browsers:
        browser.close()


def test_real_qemu(desk: Desk, qemu: Qemu) -> None:
    """QEMU's own VNC server behind it: the first picture is what QEMU's screendump shows."""
    browser = desk.browser()
    browser.greet()
    browser.send(b"\x01")  # ClientInit: shared
    width, height = (int.from_bytes(browser.exactly(2), "big") for _ in range(2))
    browser.exactly(16)
    browser.exactly(int.from_bytes(browser.exactly(4), "big"))
    assert width >= 640 and height >= 400
    pixel_format = bytes([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0])
    browser.send(bytes(4) + pixel_format + b"\x02\0\0\x01" + bytes(4))  # SetPixelFormat, SetEncodings: raw
    browser.send(b"\x03\0" + bytes(4) + width.to_bytes(2, "big") + height.to_bytes(2, "big"))
    assert browser.exactly(2)[:1] == b"\0"
    rectangles = int.from_bytes(browser.exactly(2), "big")
    assert rectangles >= 1
    browser.close()
    assert qemu.lives()
