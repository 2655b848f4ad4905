"""SPICE through the gateway, against a real QEMU: native clients' way in, hostile and hasty ones, one session at a time."""

from __future__ import annotations

import os
import socket
import struct
import time

import pytest

from backend.clock import WallClock
from backend.directory.models import WebSession
from broker import tickets
from broker.models import Ticket
from pools.models import Lease
from sim import make
from tests.broker.browser import DISPLAY_INIT, Refused, SpiceClient, through
from tests.broker.conftest import Desk, sign_in
from tests.broker.processes import Qemu, wait_until

MAIN, DISPLAY, INPUTS, CURSOR = 1, 2, 3, 4


def link(desk: Desk, ticket: Ticket, channel: int, connection_id: int = 0, channel_id: int = 0) -> SpiceClient:
    """A channel up to the password."""
    client = SpiceClient(through(desk.gateway, tickets.spice_name(ticket.id)), channel, connection_id, channel_id)
    desk.opened.append(client)
    return client


def password(desk: Desk, ticket: Ticket) -> str:
    return tickets.spice_password(desk.keyring, ticket.id)


def main_channel(desk: Desk, ticket: Ticket) -> tuple[SpiceClient, int]:
    """The main channel, let in, and the session's id."""
    main = link(desk, ticket, MAIN)
    assert main.error == 0
    assert main.log_in(password(desk, ticket)) == 0
    kind, body = main.message()
    assert kind == 103  # MAIN_INIT
    return main, struct.unpack_from("<I", body)[0]


def display_channel(desk: Desk, ticket: Ticket, session: int) -> SpiceClient:
    """A display channel that draws."""
    display = link(desk, ticket, DISPLAY, session)
    assert display.log_in(password(desk, ticket), DISPLAY_INIT) == 0
    while display.message()[0] != 102:  # MARK: the first picture is complete
        pass
    return display


def spice_ticket(desk: Desk, **values: object) -> Ticket:
    return desk.ticket("spice", "native", **values)


def test_all_channels_of_one_ticket(desk: Desk, qemu: Qemu) -> None:
    ticket = spice_ticket(desk)
    main, session = main_channel(desk, ticket)
    assert main.caps  # the server's own, not ours
    display = display_channel(desk, ticket, session)
    others = [link(desk, ticket, kind, session) for kind in (INPUTS, CURSOR)]
    assert [channel.log_in(password(desk, ticket)) for channel in others] == [0, 0]
    others[0].send(101, struct.pack("<I", 0x1E))  # a key
    console = desk.console(ticket)
    assert console is not None and console.ended_at is None and console.client == "native"
    for channel in (*others, display, main):
        channel.close()
    console = desk.ended(ticket)
    assert console.end_reason == "The viewer was closed." and console.bytes_to_client > 1000 and console.bytes_to_vm > 0
    assert qemu.lives()


def test_a_tls_record_holds_no_second_message(desk: Desk, qemu: Qemu) -> None:
    """spice-gtk would not see it until more data comes; QEMU sends its first pings in one go."""
    ticket = spice_ticket(desk)
    main, session = main_channel(desk, ticket)
    main.send(104, b"")  # ATTACH_CHANNELS
    seen = []
    while seen.count(4) < 5:
        kind, body = main.message()
        assert main.sock.pending() == 0, f"more in the record of message {kind}"
        seen.append(kind)
        if kind == 4:
            main.send(3, body[:12])
    display = link(desk, ticket, DISPLAY, session)
    assert display.log_in(password(desk, ticket), DISPLAY_INIT) == 0
    kind = 0
    while kind != 102:
        kind, _ = display.message()
        assert display.sock.pending() == 0, f"more in the record of message {kind}"
    for channel in (display, main):
        channel.close()


def test_advertises_what_the_server_advertises(desk: Desk, qemu: Qemu) -> None:
    ticket = spice_ticket(desk)
    main, session = main_channel(desk, ticket)
    for kind in (DISPLAY, INPUTS, CURSOR):
        direct = SpiceClient(socket.create_connection(("127.0.0.1", qemu.spice)), kind)
        ours = link(desk, ticket, kind, session)
        assert (ours.common[0], ours.caps) == (direct.common[0] & ~4, direct.caps)  # 4: SASL, which we have not got
        assert ours.public_key != direct.public_key
        direct.close()
        ours.close()
    main.close()


def test_wrong_password_does_not_use_the_ticket_up(desk: Desk, qemu: Qemu) -> None:
    ticket = spice_ticket(desk)
    for wrong in ("", "wrong", desk.keyring.display_password(ticket.id)):
        client = link(desk, ticket, MAIN)
        assert client.log_in(wrong) == 7
        client.close()
    main, _ = main_channel(desk, ticket)
    main.close()


def test_used_late_revoked_and_after_the_lease(desk: Desk, qemu: Qemu) -> None:
    def refused(ticket: Ticket) -> bool:
        try:
            client = link(desk, ticket, MAIN)
        except EOFError:
            return True
        client.close()
        return client.error != 0

    used = spice_ticket(desk)
    main, _ = main_channel(desk, used)
    assert refused(used)  # while its session lives
    main.close()
    desk.ended(used)
    assert refused(used)  # and after
    assert refused(spice_ticket(desk, now=WallClock().now() - tickets.VALID))
    revoked = spice_ticket(desk)
    spice_ticket(desk)
    assert refused(revoked)
    assert refused(desk.ticket("vnc", "browser"))
    after = spice_ticket(desk)
    desk.change(Lease, desk.lease_id, state="returning")
    assert refused(after)
    desk.change(Lease, desk.lease_id, state="active")
    desk.change(WebSession, desk.session_id, ended_at=WallClock().now())
    assert refused(spice_ticket(desk))
    with pytest.raises(Refused, match="404"):
        through(desk.gateway, "ticket-nonsense")
    with pytest.raises(Refused, match="404"):
        through(desk.gateway, "127.0.0.1", qemu.spice)  # it is no open proxy


def test_later_channels_need_a_live_session(desk: Desk, qemu: Qemu) -> None:
    ticket = spice_ticket(desk)
    assert link(desk, ticket, INPUTS, 1).error == 8
    main, session = main_channel(desk, ticket)
    wrong = link(desk, ticket, INPUTS, session)
    assert wrong.log_in("wrong") == 7
    wrong.close()
    display = display_channel(desk, ticket, session)
    assert link(desk, ticket, DISPLAY, session).error == 9
    display.close()
    main.close()
    desk.ended(ticket)
    assert link(desk, ticket, INPUTS, session).error == 8


def closed_within(channel: SpiceClient, limit_s: float = 30) -> None:
    """The gateway hangs up; whatever it still sends is read."""
    channel.sock.settimeout(limit_s)
    while channel.sock.recv(65536):
        pass
    channel.close()


def test_the_end_of_the_lease_closes_all_channels(desk: Desk, qemu: Qemu) -> None:
    ticket = spice_ticket(desk)
    main, session = main_channel(desk, ticket)
    display = display_channel(desk, ticket, session)
    desk.change(Lease, desk.lease_id, state="returning")
    closed_within(display)
    closed_within(main)
    assert desk.ended(ticket).end_reason == "Your lease on this desktop is over."
    assert qemu.lives()


def test_opened_again_takes_over_after_the_first_is_over(desk: Desk, qemu: Qemu) -> None:
    first, second = spice_ticket(desk), None
    main, session = main_channel(desk, first)
    display = display_channel(desk, first, session)
    second = spice_ticket(desk)
    again, session = main_channel(desk, second)
    closed_within(display)
    closed_within(main)
    assert "opened again" in (desk.ended(first).end_reason or "")
    display_channel(desk, second, session).close()
    again.close()
    assert qemu.lives()


# -- in the browser ----------------------------------------------------------------------------------
def web_link(desk: Desk, ticket: Ticket, channel: int, connection_id: int = 0, **how: str) -> SpiceClient:
    """A channel as a page opens it: a WebSocket, with a password that is nobody's."""
    client = SpiceClient(desk.browser(ticket, path="/console/spice", **how), channel, connection_id)
    assert client.error == 0
    return client


def test_spice_in_the_browser(desk: Desk, qemu: Qemu) -> None:
    ticket = desk.ticket("spice", "browser")
    main = web_link(desk, ticket, MAIN)
    assert main.log_in("ignored") == 0
    kind, body = main.message()
    assert kind == 103
    session = struct.unpack_from("<I", body)[0]
    display = web_link(desk, ticket, DISPLAY, session)
    assert display.log_in("", DISPLAY_INIT) == 0
    while display.message()[0] != 102:
        pass
    keys = web_link(desk, ticket, INPUTS, session)
    assert keys.log_in("") == 0
    desk.change(Lease, desk.lease_id, state="returning")
    for channel in (display, keys, main):
        assert channel.sock.until_closed() == (4001, "Your lease on this desktop is over.")
    assert qemu.lives()


def test_spice_in_the_browser_is_for_its_own_session(desk: Desk, qemu: Qemu) -> None:
    ticket = desk.ticket("spice", "browser")
    with desk.sessions.begin() as tx:
        _, cookie = sign_in(tx, make.a_user(tx), WallClock().now())
    with pytest.raises(AssertionError):
        web_link(desk, ticket, MAIN, cookie=cookie)
    main = web_link(desk, ticket, MAIN)
    assert main.log_in("") == 0
    session = struct.unpack_from("<I", main.message()[1])[0]
    with pytest.raises(AssertionError):
        web_link(desk, ticket, INPUTS, session, cookie=cookie)
    assert link(desk, ticket, INPUTS, session).error == 9  # nor does a native client get in by the ticket's name
    for _ in range(8):  # a page reloaded at the wrong moment, again and again
        again = desk.ticket("spice", "browser")
        main = web_link(desk, again, MAIN)
        assert main.log_in("") == 0
        session = struct.unpack_from("<I", main.message()[1])[0]
        display = web_link(desk, again, DISPLAY, session)
        assert display.log_in("", DISPLAY_INIT) == 0
        main.close()
        display.close()
        desk.ended(again)
        assert qemu.lives()


# -- hostile and hasty -------------------------------------------------------------------------------
def quiet(channel: SpiceClient) -> None:
    """Wait for the gateway's own end; it may be an abrupt one."""
    try:
        closed_within(channel)
    except (OSError, EOFError):
        channel.close()


def test_display_channels_linked_and_closed_at_once(desk: Desk, qemu: Qemu) -> None:
    """What kills QEMU's own port at the first or second try (test_the_same_kills_qemu_itself)."""
    for how in (b"", DISPLAY_INIT[:3], DISPLAY_INIT[:10], DISPLAY_INIT):
        ticket = spice_ticket(desk)
        main, session = main_channel(desk, ticket)
        for _ in range(15):
            display = link(desk, ticket, DISPLAY, session)
            if display.error == 0:  # else the one before is still being closed
                display.log_in(password(desk, ticket), how)
            display.close()
        main.close()
        desk.ended(ticket)
        assert qemu.lives(), how


@pytest.mark.parametrize("after_ms", [0, 20, 60, 150])
def test_sessions_closed_early(desk: Desk, qemu: Qemu, after_ms: int) -> None:
    """Whole sessions, all channels cut at once, main first; the next one begins without waiting."""
    for _ in range(10):
        ticket = spice_ticket(desk)
        main, session = main_channel(desk, ticket)
        channels = [main]
        for kind in (DISPLAY, INPUTS, CURSOR):
            channel = link(desk, ticket, kind, session)
            assert channel.log_in(password(desk, ticket), DISPLAY_INIT if kind == DISPLAY else b"") == 0
            channels.append(channel)
        time.sleep(after_ms / 1000)
        for channel in channels:
            channel.close()
        assert qemu.lives()


HOSTILE = {
    "a second DISPLAY_INIT": (DISPLAY, DISPLAY_INIT),
    "a migration's flush mark": (DISPLAY, struct.pack("<HI", 4, 0)),
    "a migration's flush mark on inputs": (INPUTS, struct.pack("<HI", 4, 0)),
    "a migration's flush mark on main": (MAIN, struct.pack("<HI", 4, 0)),
    "a seamless migration": (MAIN, struct.pack("<HI", 110, 16) + b"\1\0\0\0" * 4),
    "garbage": (DISPLAY, b"\xff" * 200),
    "garbage on main": (MAIN, b"\xff" * 200),
    "garbage on inputs": (INPUTS, os.urandom(500)),
    "half a message": (INPUTS, struct.pack("<HI", 101, 40) + b"half"),
    "half a head": (DISPLAY, b"\x66"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_messages(desk: Desk, qemu: Qemu, what: str) -> None:
    for _ in range(3):
        ticket, (kind, message) = spice_ticket(desk), HOSTILE[what]
        main, session = main_channel(desk, ticket)
        channel = main
        if kind == DISPLAY:
            channel = display_channel(desk, ticket, session)
        elif kind != MAIN:
            channel = link(desk, ticket, kind, session)
            assert channel.log_in(password(desk, ticket)) == 0
        channel.sock.sendall(message)
        if not what.startswith("half"):
            quiet(channel)  # the gateway cuts it
        channel.close()
        main.close()
        desk.ended(ticket)
        assert qemu.lives()


@pytest.mark.parametrize("window", [-7, 1 << 26, 0x7FFFFFFF])
def test_absurd_sizes_in_display_init(desk: Desk, qemu: Qemu, window: int) -> None:
    ticket = spice_ticket(desk)
    main, session = main_channel(desk, ticket)
    display = link(desk, ticket, DISPLAY, session)
    assert display.log_in(password(desk, ticket), struct.pack("<HIBqBi", 101, 14, 1, -5, 1, window)) == 0
    while display.message()[0] != 102:
        pass
    display.close()
    main.close()
    assert qemu.lives()


def test_bad_link_messages(desk: Desk, qemu: Qemu) -> None:
    ticket = spice_ticket(desk)
    whole = struct.pack("<IBBIII", 0, 1, 0, 1, 1, 18) + struct.pack("<II", 0b1011, 0)
    for bad, error in (
        (b"GET / HTTP/1.1\r\n\r\n", 2), (b"REDQ" + struct.pack("<III", 1, 0, len(whole)) + whole, 4),
        (b"REDQ" + struct.pack("<III", 2, 2, 1 << 30), 3), (b"REDQ" + struct.pack("<III", 2, 2, 4) + b"abcd", 3),
        (b"REDQ" + struct.pack("<III", 2, 2, 18) + struct.pack("<IBBIII", 0, 77, 0, 0, 0, 18), 9),
        (b"REDQ" + struct.pack("<III", 2, 2, 18) + struct.pack("<IBBIII", 0, 1, 0, 1 << 31, 5, 18), 3),
    ):
        sock = through(desk.gateway, tickets.spice_name(ticket.id))
        sock.sendall(bad)
        answer = sock.recv(4096)
        assert answer[:4] == b"REDQ" and struct.unpack_from("<I", answer, 16)[0] == error
        sock.close()
    sock = through(desk.gateway, tickets.spice_name(ticket.id))
    sock.sendall(b"REDQ\x02")
    sock.close()
    main, _ = main_channel(desk, ticket)
    main.close()
    assert qemu.lives()


def test_the_same_kills_qemu_itself(desk: Desk, qemu: Qemu) -> None:
    """Straight at QEMU's port, without the gateway: the VM dies. When this fails, spice-server was mended."""
    qemu.password("spice", "direct12")

    def attack() -> bool:
        main = SpiceClient(socket.create_connection(("127.0.0.1", qemu.spice)), MAIN)
        desk.opened.append(main)
        assert main.log_in("direct12") == 0
        session = struct.unpack_from("<I", main.message()[1])[0]
        display = SpiceClient(socket.create_connection(("127.0.0.1", qemu.spice)), DISPLAY, session)
        assert display.log_in("direct12", DISPLAY_INIT) == 0
        display.sock.sendall(DISPLAY_INIT)
        quiet(display)
        return qemu.process.poll() is not None

    attack()
    wait_until(lambda: qemu.process.poll() is not None, "QEMU has died")
