"""A gateway process in front of the real agent's console port, and rows for a person with a desktop."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from agent.consoles import Consoles
from backend.clock import WallClock
from backend.db import Sessions, new_sessions
from backend.secrets import Keyring
from broker import tickets
from broker.models import ConsoleSession, Ticket
from broker.viewer import Face, vv
from hostapi.tls import server_context
from hostapi.types import Protocol
from hostapi.verbs import HostRefused
from sim import make
from sim.postgres import Cluster
from tests.broker.browser import Browser, Display
from tests.broker.processes import GatewayProcess, Qemu, wait_until
from tests.pki import Pki

House = tuple[GatewayProcess, Sessions, Keyring]


@dataclass
class Desk:
    """Alice's desktop as rows, its displays' ports, and the gateway in front of it."""

    sessions: Sessions
    keyring: Keyring
    gateway: GatewayProcess
    ports: dict[tuple[UUID, str], int]
    passwords: list[Any] = field(default_factory=list)  # who is told a display's password: f(protocol, password)
    opened: list[Any] = field(default_factory=list)
    user_id: UUID = UUID(int=0)
    session_id: UUID = UUID(int=0)
    cookie: str = ""
    vm_id: UUID = UUID(int=0)
    lease_id: UUID = UUID(int=0)

    def ticket(self, protocol: str = "vnc", client: str = "browser", *, arm: bool = True, **values: Any) -> Ticket:
        """A ticket minted now, its display armed as the SetTicket task would."""
        with self.sessions.begin() as tx:
            now = WallClock().now()
            ticket = tickets.mint(tx, **{
                "user_id": self.user_id, "session_id": self.session_id, "vm_id": self.vm_id, "lease_id": self.lease_id,
                "protocol": protocol, "client": client, "now": now, **values})
        if arm:
            self.arm(ticket)
        return ticket

    def arm(self, ticket: Ticket) -> None:
        for tell in self.passwords:
            tell(ticket.protocol, self.keyring.display_password(ticket.id))
        with self.sessions.begin() as tx:
            tx.get_one(Ticket, ticket.id).armed_at = WallClock().now()

    def token(self, ticket: Ticket) -> str:
        return tickets.token(self.keyring, ticket)

    def browser(self, ticket: Ticket | None = None, **how: Any) -> Browser:
        """A browser that opens the ticket's console, with Alice's cookie unless told otherwise."""
        ticket = ticket or self.ticket()
        browser = Browser(self.gateway, **{"token": self.token(ticket), "cookie": self.cookie, **how})
        self.opened.append(browser)
        return browser

    def viewer_file(self, ticket: Ticket) -> str:
        """Its .vv text."""
        face = Face(self.gateway.public, self.gateway.ca_pem, "OU=web,CN=localhost")
        return vv(face, name=tickets.spice_name(ticket.id), title="w7",
                  password=tickets.spice_password(self.keyring, ticket.id))

    def console(self, ticket: Ticket) -> ConsoleSession | None:
        with self.sessions() as tx:
            return tx.scalars(sa.select(ConsoleSession).where(ConsoleSession.ticket_id == ticket.id)).first()

    def ended(self, ticket: Ticket) -> ConsoleSession:
        """Its console's row, once it has ended."""
        wait_until(lambda: (c := self.console(ticket)) and c.ended_at, "the console's row has ended")
        console = self.console(ticket)
        assert console is not None
        return console

    def change(self, row: Any, id: UUID, **values: Any) -> None:
        """Change a row as somebody else would."""
        with self.sessions.begin() as tx:
            for name, value in values.items():
                setattr(tx.get_one(row, id), name, value)


@pytest.fixture(scope="module")
def consoles(pki: Pki) -> Iterator[tuple[int, dict[tuple[UUID, str], int]]]:
    """The agent's console port, and which port of ours stands for which display."""
    ports: dict[tuple[UUID, str], int] = {}

    def display_port(vm_id: UUID, protocol: Protocol) -> int | None:
        if (vm_id, protocol) not in ports:
            raise HostRefused("no_display", "The VM does not run here.")
        return ports[vm_id, protocol]

    agent = Consoles(display_port, "127.0.0.1", 0, server_context(*pki.issue("host", "alpha")))
    agent.start()
    yield agent.port, ports
    agent.stop()


@pytest.fixture(scope="module")
def house(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[House]:
    """One database and one gateway process for a module's tests: starting them costs more than most tests do."""
    database, folder = cluster.new_database(), tmp_path_factory.mktemp("gateway")
    key = folder / "key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(32))
    sessions = new_sessions(cluster.url(database))
    gateway = GatewayProcess(folder, pki, cluster.url(database), key)
    yield gateway, sessions, Keyring(key.read_bytes())
    gateway.stop()
    sessions.kw["bind"].dispose()
    cluster.drop(database)
    logged = gateway.log.read_text()
    assert "Traceback" not in logged and '"exception"' not in logged, logged


@pytest.fixture
def gateway(house: House) -> GatewayProcess:
    """The gateway, running; started again when the test before has ended it."""
    if not house[0].runs():
        house[0].start()
    return house[0]


@pytest.fixture
def desk(gateway: GatewayProcess, house: Any, consoles: Any) -> Iterator[Desk]:
    """A person (Alice, to the tests), signed in, with a lease on a running desktop whose displays are nowhere yet."""
    (_, sessions, keyring), (console_port, ports) = house, consoles
    made = a_desk(sessions, keyring, gateway, console_port, ports)
    yield made
    for opened in made.opened:
        opened.close()


def a_desk(
    sessions: Sessions, keyring: Keyring, gateway: GatewayProcess, console_port: int, ports: dict[tuple[UUID, str], int]
) -> Desk:
    desk, now = Desk(sessions, keyring, gateway, ports), WallClock().now()
    with sessions.begin() as tx:
        host = make.a_host(tx, address="127.0.0.1", console_port=console_port)
        pool = make.a_pool(tx, host=host, members=0)
        user = make.a_user(tx)
        desk.user_id = user.id
        desk.session_id, desk.cookie = sign_in(tx, user, now)
        lease = make.a_lease(tx, pool, user, now=now)
        assert lease.vm_id is not None
        desk.vm_id, desk.lease_id = lease.vm_id, lease.id
    return desk


def sign_in(tx: Any, user: Any, now: datetime) -> tuple[UUID, str]:
    """A browser's session of this person, and its cookie."""
    cookie = secrets.token_urlsafe(32)
    session = make.a_session(tx, user, now, token_hash=hashlib.sha256(cookie.encode()).digest(),
                             expires_at=now + timedelta(hours=1))
    return session.id, cookie


@pytest.fixture
def display(desk: Desk) -> Iterator[Display]:
    """Alice's VNC display: sends back what it gets."""
    made = Display()
    desk.ports[desk.vm_id, "vnc"] = made.port
    desk.passwords.append(lambda protocol, password: made.passwords.add(password))
    yield made
    made.stop()


@pytest.fixture
def qemu(desk: Desk, tmp_path: Path) -> Iterator[Qemu]:
    """Alice's desktop as a real QEMU."""
    made = Qemu(tmp_path)
    desk.ports[desk.vm_id, "vnc"], desk.ports[desk.vm_id, "spice"] = made.vnc, made.spice
    desk.passwords.append(made.password)
    yield made
    made.stop()

