"""Console gateway process: redeems tickets, opens displays, keeps account of the consoles it holds, and ends them.

Importing this module makes the whole process cooperative: it is a process root, nobody else imports it.
"""

from __future__ import annotations

from backend import green

green.patch()  # before everything else that knows sockets

import resource
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

import gevent
import sqlalchemy as sa
import structlog
from gevent.event import Event
from gevent.server import StreamServer

import backend.storage.models  # noqa: F401 -- pools' rows point at these
from backend import config, garbage, logs
from backend.clock import Clock, WallClock
from backend.config import Settings
from backend.db import Sessions, Tx, new_sessions
from backend.directory import sessions as signed_in
from backend.errors import Refused, Unavailable
from backend.hosts.models import Host
from backend.secrets import Keyring
from backend.vms.models import Vm
from broker import consoles, tickets
from broker.door import Door
from broker.live import LiveConsole
from broker.models import Ticket
from broker.tickets import Redeemed
from broker.websocket import ENDED, FOLLOW, GOING_AWAY, GONE
from hostapi.client import HostUnreachable, client_context
from hostapi.console import open_console
from hostapi.tls import host_name
from hostapi.verbs import HostRefused

log = structlog.get_logger("gateway")
READY_WITHIN_S = 10.0  # how long to wait for the display's password, and for a VM's last session to be over
DATABASE_S = 15.0
KEEP_S, SEEN_EVERY, PING_EVERY = 1.0, 5, 30  # seconds; rounds; rounds
MOVED = "The desktop moved to another host. Connecting again …"
NO_DATABASE = "Leasehold is busy with itself for a moment: its database does not answer. Try again shortly."


class Gateway:
    """The consoles of one process, and what the database knows of them. Running ones need no database."""

    def __init__(self, settings: Settings, sessions: Sessions, keyring: Keyring, clock: Clock, hosts: ssl.SSLContext) -> None:
        self.settings, self.keyring, self.clock = settings, keyring, clock
        self._sessions, self._hosts = sessions, hosts
        self.live: dict[UUID, LiveConsole] = {}
        self._unwritten: dict[UUID, LiveConsole] = {}  # over, but the database could not be told yet
        self._refused: set[tuple[UUID, str]] = set()
        self._rounds, self._cleaned, self._stopping = 0, False, False

    # -- opening -----------------------------------------------------------------------------------
    def redeem(
        self, ticket_id: UUID, *, protocols: tuple[str, ...], client: str, session_id: UUID | None, address: str
    ) -> tuple[LiveConsole, Redeemed]:
        """Use the ticket up; from then on the console is in the books, and `ended` must be called for it."""
        live = LiveConsole()
        self.live[live.id] = live  # before its row can be seen, so that the keeper never takes it for a left-over
        opening = None
        try:
            with self._transaction() as tx:
                opening = tickets.redeem(
                    tx, ticket_id, console_id=live.id, protocols=protocols, client=client, session_id=session_id,
                    address=address, gateway=self.settings.gateway_name, now=self.clock.now())
        except Refused as no:
            opening = None
            self.refuse(ticket_id, no, address)
            raise
        finally:
            if opening is None:
                del self.live[live.id]
        live.booked = True
        log.info("console opened", console=str(live.id), vm=opening.vm_name, protocol=opening.protocol, user=opening.user_name)
        return live, opening

    def refuse(self, ticket_id: UUID, no: Refused, address: str) -> None:
        """Write a refusal down, once a ticket and reason; when even that cannot be done, the log has it."""
        log.warning("ticket refused", ticket=str(ticket_id), address=address, why=no.message)
        if isinstance(no, Unavailable) or (ticket_id, no.message) in self._refused:
            return
        if len(self._refused) >= 10_000:
            self._refused.clear()
        self._refused.add((ticket_id, no.message))
        with suppress(Unavailable), self._transaction() as tx:
            tickets.refused(tx, ticket_id, no, address=address)

    def wait_until_ready(self, live: LiveConsole, opening: Redeemed) -> None:
        """Wait until the display has the ticket's password, and until the VM's earlier SPICE session is over."""
        pause, until = 0.02, time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until:
            with self._transaction() as tx:
                ready = tickets.armed(tx, opening.ticket_id) and not (
                    opening.protocol == "spice"
                    and consoles.others_live(tx, opening.vm_id, but=live.id, now=self.clock.now()))
            if ready or live.over.wait(pause):
                return
            pause = min(pause * 1.5, 0.25)
        raise Unavailable("not_ready", "The desktop's screen is not ready. Try again in a moment.")

    def dial(self, vm_id: UUID, protocol: str) -> Any:
        """A stream to the VM's display, wherever the VM is now. A gateway that follows a migrating VM dials again here."""
        with self._transaction() as tx:
            place = tx.execute(
                sa.select(Vm.name, Host.id, Host.name.label("host"), Host.address, Host.console_port)
                .join(Host, Host.id == Vm.host_id).where(Vm.id == vm_id)
            ).first()
        if place is None:
            raise Unavailable("no_screen", "This desktop does not run on any host at the moment.")
        try:
            return open_console(
                place.address, place.console_port, self._hosts, vm_id, protocol, name=host_name(place.id))
        except HostRefused as no:
            raise Unavailable(no.failure.code, f"The screen of {place.name} could not be opened: {no}") from no
        except HostUnreachable as silent:
            log.warning("console host unreachable", host=place.host, why=str(silent))
            why = f"Host {place.host}, where {place.name} runs, does not answer. Try again in a moment."
            raise Unavailable("host_silent", why) from silent

    def vm_of(
        self, ticket_id: UUID, *, protocols: tuple[str, ...], client: str, session_id: UUID | None, address: str
    ) -> UUID:
        """The VM of a ticket that could be redeemed now; refuses otherwise. Nothing is proved or used up by it."""
        with self._transaction() as tx:
            ticket = tx.get(Ticket, ticket_id)
            vm = tickets.examine(
                tx, ticket, protocols=protocols, client=client, session_id=session_id, address=address,
                now=self.clock.now())
            return vm.id

    def session_of(self, cookie: str) -> UUID | None:
        """The browser's live sign-in."""
        with self._transaction() as tx:
            found = signed_in.find(tx, cookie, self.clock.now())
            return found.id if found else None

    def spice_password(self, ticket_id: UUID) -> str:
        return tickets.spice_password(self.keyring, ticket_id)

    def display_password(self, ticket_id: UUID) -> str:
        return self.keyring.display_password(ticket_id)

    # -- ending ------------------------------------------------------------------------------------
    def ended(self, live: LiveConsole) -> None:
        """Write down that the console is over; if that cannot be done now, the keeper goes on trying."""
        self.live.pop(live.id, None)
        try:
            with self._transaction() as tx:
                self._write_end(tx, live)
        except Unavailable:
            self._unwritten[live.id] = live
        log.info("console closed", console=str(live.id), why=live.why, to_client=live.to_client, to_vm=live.to_vm)

    def why_gone(self, opening: Redeemed) -> tuple[int, str]:
        """A close code and a sentence for a person whose VM closed its display."""
        moved = False
        try:
            with self._transaction() as tx:
                vm = tx.get(Vm, opening.vm_id)
                state, host = (vm.state, tx.get(Host, vm.host_id)) if vm else ("removed", None)
                moved = host is not None and (host.address, host.console_port) != (opening.address, opening.port)
        except Unavailable:
            state = "unknown"
        if state == "migrating" or (state == "up" and moved):
            return FOLLOW, MOVED
        if state in ("saving_state", "suspended"):
            return GONE, "The desktop was suspended; connect again and it goes on where it was."
        if state in ("down", "powering_down", "removed", "image_locked"):
            return GONE, "The desktop was shut down."
        return GONE, "The desktop's screen was closed. If the desktop still runs, connect again."

    def _write_end(self, tx: Tx, live: LiveConsole) -> None:
        consoles.end(tx, live.id, why=live.why, now=self.clock.now(), to_client=live.to_client, to_vm=live.to_vm)

    # -- the keeper --------------------------------------------------------------------------------
    def keep_forever(self) -> None:
        """Once a second: end what is to be ended. Every few seconds: say what lives, and how many bytes went by."""
        while not self._stopping:
            try:
                self.keep()
            except Unavailable as silent:
                log.warning("keeping the books failed; consoles go on", why=silent.message)
            except Exception:
                log.exception("keeping the books failed")
            gevent.sleep(KEEP_S)

    def keep(self) -> None:
        """One round of it."""
        now, living, unwritten = self.clock.now(), dict(self.live), dict(self._unwritten)
        self._rounds += 1
        with self._transaction() as tx:
            if not self._cleaned:
                for console_id in consoles.left_behind(tx, self.settings.gateway_name, living):
                    consoles.end(tx, console_id, why="The gateway was restarted.", now=now)
            for live in unwritten.values():
                self._write_end(tx, live)
            to_end = consoles.unwanted(tx, self.settings.gateway_name, now) if living else []
            lost: set[UUID] = set()
            if self._rounds % SEEN_EVERY == 0:
                booked = {i: c for i, c in living.items() if c.booked}
                touched = _take_touched(booked)
                lost = consoles.seen(tx, {i: (c.to_client, c.to_vm) for i, c in booked.items()}, touched, now)
        self._cleaned = True
        for console_id in unwritten:
            del self._unwritten[console_id]
        for console_id, why in to_end:
            if console_id in living:
                living[console_id].end(ENDED, why)
        for console_id in lost:
            living[console_id].end(ENDED, "This console was closed.")
        if self._rounds % PING_EVERY == 0:
            for live in living.values():
                if live.ping is not None:
                    gevent.spawn(_quietly, live.ping)

    def stop(self) -> None:
        """End all consoles in words; for the process's own end."""
        self._stopping = True
        for live in list(self.live.values()):
            live.end(GOING_AWAY, "The console gateway is being restarted. Connect again.")

    @contextmanager
    def _transaction(self) -> Iterator[Tx]:
        """A short transaction; `Unavailable` in words when the database does not answer."""
        limit = gevent.Timeout(DATABASE_S)
        try:
            with limit, self._sessions.begin() as tx:
                yield tx
        except gevent.Timeout as late:
            if late is not limit:
                raise
            raise Unavailable("no_database", NO_DATABASE) from late
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as broken:
            raise Unavailable("no_database", NO_DATABASE) from broken


def _take_touched(living: dict[UUID, LiveConsole]) -> list[UUID]:
    """The consoles that somebody has used since this was asked last."""
    touched = [id for id, console in living.items() if console.touched]
    for id in touched:
        living[id].touched = False
    return touched


def _quietly(ping: Any) -> None:
    with suppress(OSError), gevent.Timeout(5, False):  # a broken connection is seen by its own greenlets too
        ping()


def _enter(door: Door, sock: Any, address: Any) -> None:
    try:
        door.enter(sock, address)
    except Exception:
        log.exception("connection failed")
    finally:
        sock.close()


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.strip().rpartition(":")
    return host.strip("[]"), int(port)


def main() -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # two files a console; the usual 1,024 are soon used up
    settings = config.load()
    logs.configure(settings.log_level)
    keyring = Keyring(settings.secret_key())
    sessions = new_sessions(settings.database_url, settings.database_pool)
    hosts = client_context(settings.hosts_ca(), settings.client_cert_file, settings.client_key_file)
    gateway = Gateway(settings, sessions, keyring, WallClock(), hosts)
    door = Door(settings, gateway)
    servers = [StreamServer(_address(one), partial(_enter, door), backlog=1024) for one in settings.gateway_listen.split(",")]
    for server in servers:
        server.init_socket()
    keeper = gevent.spawn(gateway.keep_forever)
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stopping.set)
    for server in servers:
        server.start()
    garbage.look_seldom()
    log.info("gateway ready", listen=settings.gateway_listen, public=settings.gateway_public)
    stopping.wait()
    for server in servers:
        server.stop(timeout=0)
    gateway.stop()
    with gevent.Timeout(8, False):
        while gateway.live:
            gevent.sleep(0.05)
    keeper.kill()


if __name__ == "__main__":
    main()
