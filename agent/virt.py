"""libvirt: lifecycle, events, display tickets, guest channel, screens; with `saves` the only file that imports libvirt."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, get_args
from uuid import UUID

import libvirt
import libvirt_qemu

from agent.deadline import Overdue, within
from agent.domxml import METADATA, DomainFacts, read_domain, read_tickets, ticket_xml, tickets_xml
from agent.runs import Runs
from hostapi.types import EndedBy, PausedFor, TicketSpec
from hostapi.verbs import HostRefused

T = TypeVar("T")
log = logging.getLogger("virt")
CALL_S, OPEN_S, GUEST_S = 20.0, 10.0, 4
CREATE_S = 180.0  # createXML waits out a dead host's storage lease: 66 s were seen
STATES: dict[int, Literal["running", "paused", "off"]] = {
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "off",
    libvirt.VIR_DOMAIN_CRASHED: "off",
}
PAUSES: dict[int, PausedFor] = {libvirt.VIR_DOMAIN_PAUSED_USER: "asked", libvirt.VIR_DOMAIN_PAUSED_IOERROR: "ioerror"}
ENDS: dict[int, EndedBy] = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "guest",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "failed",
}
# libvirtd serves five calls of a connection at a time; a QEMU that hangs takes one until it is killed. So what
# may hang has connections of its own, and looking at what runs is never held up by it.
Lane = Literal["look", "work", "guests", "screens", "saves", "moves"]
_events_lock = threading.Lock()
_events_run = False


class HypervisorDown(HostRefused):
    """libvirt's daemon cannot be reached at the moment; nothing is known of the VMs meanwhile."""


class GuestSilent(Exception):
    """The guest agent does not answer, yet or any more."""


class GuestRefused(GuestSilent):
    """The guest agent answers that it cannot."""


@dataclass(frozen=True)
class Sample:
    """A VM of ours as libvirt sees it now."""

    vm_id: UUID
    name: str
    state: Literal["running", "paused", "off"]
    memory_mib: int
    cpu_s: float
    paused_for: PausedFor
    boots: int


class Hypervisor:
    """One libvirt, reached by its URI; connected anew whenever its daemon was restarted.

    Every call has a deadline. `changed` is called, in libvirt's event thread, whenever a VM starts or ends
    or a guest agent comes or goes."""

    def __init__(self, uri: str, changed: Callable[[], None]) -> None:
        self.uri, self._changed = uri, changed
        self._connections: dict[Lane, libvirt.virConnect] = {}
        self._lane_locks: dict[Lane, threading.Lock] = {lane: threading.Lock() for lane in get_args(Lane)}
        self._lock = threading.Lock()
        self._ticket_locks: dict[UUID, threading.Lock] = {}
        self._facts: dict[tuple[UUID, int], DomainFacts] = {}  # by VM and by libvirt's id of this run
        self._version = ""
        self.runs_seen = Runs()
        _run_events()

    # -- lifecycle -------------------------------------------------------------------------------
    def start(self, name: str, vm_id: UUID, xml: Callable[[bool], str], paused: bool = False) -> None:
        """Run a transient domain; one that runs already is left alone. `xml` is told whether this is
        libvirt's test driver."""

        def create(connection: libvirt.virConnect) -> None:
            try:
                if self.find(connection, vm_id) is not None:
                    return
                plain = connection.getType() == "TEST"  # the test driver knows no pause here
                flags = libvirt.VIR_DOMAIN_START_PAUSED if paused and not plain else 0
                domain = connection.createXML(xml(plain), flags)
                if paused and plain:
                    domain.suspend()
            except libvirt.libvirtError as no:
                if self.find(connection, vm_id) is None:  # else somebody else was quicker, which is as good
                    raise _start_refusal(name, no) from no

        self.call(f"starting VM {name}", create, CREATE_S)

    def stop(self, vm_id: UUID) -> None:
        """Cut a VM's power; it is off for certain when this returns."""

        def destroy(connection: libvirt.virConnect) -> None:
            if (domain := self.find(connection, vm_id)) is None:
                return
            try:
                domain.destroy()
            except libvirt.libvirtError as no:
                if self.find(connection, vm_id) is not None:
                    sentence = f"VM {domain.name()} cannot be stopped: {said(no)}"
                    raise HostRefused("not_stopped", sentence) from no

        self.call("stopping a VM", destroy, 60.0)

    def ask_to_shut_down(self, vm_id: UUID, by_agent: bool) -> bool:
        """Ask the guest to shut down, by its agent or by the power button; False when it cannot be asked so."""
        flag = (
            libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT
            if by_agent
            else libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
        )

        def shut_down(domain: libvirt.virDomain, plain: bool) -> None:
            domain.shutdown() if plain else domain.shutdownFlags(flag)

        return self._ask_domain("shut down", vm_id, shut_down)

    def ask_to_reboot(self, vm_id: UUID, by_agent: bool) -> bool:
        """Ask the guest to reboot, by its agent or by the power button; False when it cannot be asked so."""
        flag = libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT if by_agent else libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN

        def reboot(domain: libvirt.virDomain, plain: bool) -> None:
            domain.reboot(0 if plain else flag)
            if plain:  # the test driver's guests reboot in no time, and no event tells of it
                self._was_reset(vm_id)

        return self._ask_domain("reboot", vm_id, reboot)

    def resets(self, vm_id: UUID) -> int:
        """How often this VM was seen to begin anew, by its own reboot or by the reset button."""
        return self.runs_seen.boots(vm_id)

    def pause(self, vm_id: UUID) -> None:
        """Stop a VM's processors."""

        def pause(connection: libvirt.virConnect) -> None:
            domain = self.require(connection, vm_id)
            try:
                if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
                    domain.suspend()
            except libvirt.libvirtError as no:
                raise HostRefused("not_paused", f"VM {domain.name()} cannot be paused: {said(no)}") from no

        self.call("pausing a VM", pause)

    def paused_for(self, vm_id: UUID) -> PausedFor:
        """Why a VM is paused; nothing when it runs."""

        def read(connection: libvirt.virConnect) -> PausedFor:
            state, reason = self.require(connection, vm_id).state()
            return self._paused_for(vm_id, reason) if STATES.get(state) == "paused" else ""

        return self.call("looking at a VM", read, lane="look")

    def reset(self, vm_id: UUID) -> None:
        """Press a VM's reset button."""

        def reset(connection: libvirt.virConnect) -> None:
            domain = self.require(connection, vm_id)
            try:
                domain.reset(0)
            except libvirt.libvirtError as no:
                raise HostRefused("not_reset", f"VM {domain.name()} cannot be reset: {said(no)}") from no

        self.call("resetting a VM", reset)

    def runs(self, vm_id: UUID) -> bool:
        """Whether libvirt has this VM running or paused."""
        found = self.call("looking for a VM", lambda connection: self.find(connection, vm_id), lane="look")
        return found is not None

    # -- what is there ---------------------------------------------------------------------------
    def samples(self) -> list[Sample]:
        """All VMs of ours, in one pass that waits for neither disks, guests nor a QEMU's monitor."""

        def read(connection: libvirt.virConnect) -> list[Sample]:
            active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            answers = [self._sample(domain) for domain in active]
            return [sample for sample in answers if sample is not None]

        return self.call("listing the VMs", read, 10.0, lane="look")

    def facts(self, vm_id: UUID) -> DomainFacts | None:
        """A running VM's facts from its XML; None when it does not run."""

        def read(connection: libvirt.virConnect) -> DomainFacts | None:
            domain = self.find(connection, vm_id)
            return None if domain is None else read_domain(domain.XMLDesc(0))

        return self.call("looking at a VM", read, lane="look")

    def users_of(self, path: str) -> list[str]:
        """The names of the VMs, ours or not, that have this file open for writing. `path` has no links in it."""

        def read(connection: libvirt.virConnect) -> list[str]:
            active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            found = [self._read_facts(domain) for domain in active]
            return [facts.name for facts in found if facts and path in map(os.path.realpath, facts.disks)]

        return self.call("looking for a disk's user", read, lane="look")

    def version(self) -> str:
        """Which hypervisor this is, in words."""

        def read(connection: libvirt.virConnect) -> str:
            library = _dotted(connection.getLibVersion())
            return f"{connection.getType()} {_dotted(connection.getVersion())}, libvirt {library}"

        if not self._version:
            self._version = self.call("asking for the version", read, lane="look")
        return self._version

    # -- displays --------------------------------------------------------------------------------
    def set_ticket(self, vm_id: UUID, ticket: TicketSpec, now: Callable[[], datetime]) -> None:
        """Set a display's password, unless a newer ticket has been there. The time of issue is kept in the
        domain's metadata: it lasts as long as the VM, whatever restarts meanwhile."""

        def put(connection: libvirt.virConnect) -> None:
            domain = self.require(connection, vm_id)
            issued = self._issued(domain)
            if ticket.issued_ms < issued.get(ticket.protocol, 0):
                return
            valid_to = (now() + timedelta(seconds=ticket.valid_s)).strftime("%Y-%m-%dT%H:%M:%S")
            xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
            display = ticket_xml(xml, ticket.protocol, ticket.password.value, valid_to)
            if display is None:
                sentence = f"VM {domain.name()} has no {ticket.protocol.upper()} display."
                raise HostRefused("no_display", sentence)
            try:
                # First the time, then the password: cut off in between, this very ticket may be set again,
                # but an older one may not.
                marks = tickets_xml({**issued, ticket.protocol: ticket.issued_ms})
                domain.setMetadata(
                    libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                    marks,
                    "leasehold",
                    METADATA,
                    libvirt.VIR_DOMAIN_AFFECT_LIVE,
                )
                domain.updateDeviceFlags(display, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError as no:
                sentence = f"VM {domain.name()} took no display password: {said(no)}"
                raise HostRefused(unsupported(no) or "ticket_failed", sentence) from no

        with self._lock:
            lock = self._ticket_locks.setdefault(vm_id, threading.Lock())
        with lock:
            self.call("setting a display password", put)

    def screenshot(self, vm_id: UUID) -> bytes | None:
        """The picture on a VM's screen as QEMU writes it (PNG or PPM); None when there is none."""

        def shoot(connection: libvirt.virConnect) -> bytes | None:
            domain = self.find(connection, vm_id)
            if domain is None:
                return None
            stream, picture = connection.newStream(0), bytearray()
            try:
                domain.screenshot(stream, 0, 0)
                stream.recvAll(lambda _, data, into: into.extend(data), picture)
                stream.finish()
            except libvirt.libvirtError as no:
                log.info("no picture of VM %s: %s", domain.name(), no)
                return None
            return bytes(picture)

        return self.call("taking a picture", shoot, 8.0, lane="screens")

    # -- the guest's inside ----------------------------------------------------------------------
    def ask_guest(self, vm_id: UUID, command: str, **arguments: Any) -> Any:
        """What the guest agent answers to a command; raises `GuestSilent`, or `GuestRefused` with its words."""
        question = json.dumps({"execute": command} | ({"arguments": arguments} if arguments else {}))

        def ask(connection: libvirt.virConnect) -> Any:
            domain = self.find(connection, vm_id)
            if domain is None:
                raise GuestSilent("the VM does not run")
            try:
                answer = libvirt_qemu.qemuAgentCommand(domain, question, GUEST_S, 0)
            except libvirt.libvirtError as no:
                if code := unsupported(no):
                    raise HostRefused(code, f"This hypervisor has no guest agents: {said(no)}") from no
                words = no.get_error_message() or ""
                if "unable to execute QEMU agent" in words:  # it did answer
                    raise GuestRefused(words) from no
                raise GuestSilent(words) from no
            try:
                return json.loads(answer)["return"]
            except (ValueError, KeyError, TypeError) as nonsense:
                raise GuestSilent(f"it answers nonsense: {nonsense}") from nonsense

        return self.call("asking a guest", ask, 4 * GUEST_S, lane="guests")

    # -- inside ----------------------------------------------------------------------------------
    def _ask_domain(self, what: str, vm_id: UUID, ask: Callable[[libvirt.virDomain, bool], None]) -> bool:
        """Whether the domain, if it runs, could be asked; `ask` is told whether it is the test driver's."""

        def work(connection: libvirt.virConnect) -> bool:
            if (domain := self.find(connection, vm_id)) is None:
                return True
            try:
                ask(domain, connection.getType() == "TEST")
            except libvirt.libvirtError as no:
                log.info("VM %s cannot be asked to %s: %s", domain.name(), what, no)
                return False
            return True

        return self.call(f"asking a VM to {what}", work)

    def _was_reset(self, vm_id: UUID) -> None:
        self.runs_seen.booted_anew(vm_id)
        self._changed()

    def _paused_for(self, vm_id: UUID, reason: int) -> PausedFor:
        why = PAUSES.get(reason, "other")
        return "enospc" if why == "ioerror" and self.runs_seen.storage_full(vm_id) else why

    def _lived(self, domain: libvirt.virDomain, event: int, detail: int) -> None:
        """A VM began or ended; what it does now is read again from libvirt."""
        vm_id = UUID(domain.UUIDString())
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            self.runs_seen.began(vm_id)
        elif event == libvirt.VIR_DOMAIN_EVENT_CRASHED:
            self.runs_seen.ended(vm_id, "crashed")
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self.runs_seen.ended(vm_id, ENDS.get(detail, "host"))
        self._changed()

    def call(
        self, what: str, work: Callable[[libvirt.virConnect], T], seconds: float = CALL_S, lane: Lane = "work"
    ) -> T:
        """What `work` answers over this lane's connection, or a refusal in words; `what` says what was being done."""
        connection = self._open(lane)
        try:
            return within(seconds, lambda: work(connection))
        except Overdue as late:
            raise HostRefused("hypervisor_silent", f"libvirt is silent while {what}: {late}.") from late
        except libvirt.libvirtError as no:
            if is_lost(connection, no):
                self._drop(lane, connection)
                raise HypervisorDown(
                    "hypervisor_down", f"The connection to libvirt broke while {what}."
                ) from no
            if no.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:  # it went while it was looked at
                raise HostRefused("vm_not_running", "The VM does not run on this host any more.") from no
            raise HostRefused("hypervisor_error", f"libvirt failed while {what}: {said(no)}") from no
        except HostRefused as refused:
            if isinstance(refused.__cause__, libvirt.libvirtError) and is_lost(
                connection, refused.__cause__
            ):
                self._drop(lane, connection)
                raise HypervisorDown(
                    "hypervisor_down", f"The connection to libvirt broke while {what}."
                ) from refused
            raise

    def _open(self, lane: Lane) -> libvirt.virConnect:
        with self._lane_locks[lane]:
            known = self._connections.get(lane)
            if known is not None and known.isAlive():
                return known
            try:
                connection = self._connections[lane] = within(OPEN_S, lambda: self._connect(lane))
            except (libvirt.libvirtError, Overdue) as no:
                sentence = f"libvirt does not answer at {self.uri}: {no}. Is libvirtd running?"
                raise HypervisorDown("hypervisor_down", sentence) from no
            if lane == "look":
                self._facts.clear()
                self._version = ""
            return connection

    def _connect(self, lane: Lane) -> libvirt.virConnect:
        connection = libvirt.open(self.uri)
        try:
            connection.setKeepAlive(5, 3)
        except libvirt.libvirtError as no:
            log.debug("no keepalive: %s", no)  # drivers inside this process need none
        if lane != "look":
            return connection
        # Mostly a reason to wake is all that is wanted of events: what is there now is read again from libvirt.
        for event, heard in {
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: lambda _, domain, event, detail, __: self._lived(domain, event, detail),
            libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: lambda *_: self._changed(),
            libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: lambda _, domain, __: self._was_reset(UUID(domain.UUIDString())),
            libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: lambda _, domain, __, ___, ____, reason, _____: (
                self.runs_seen.io_error(UUID(domain.UUIDString()), reason == "enospc")
            ),
        }.items():
            try:
                connection.domainEventRegisterAny(None, event, heard, None)
            except libvirt.libvirtError as no:
                log.debug("no event %s: %s", event, no)
        return connection

    def _drop(self, lane: Lane, connection: libvirt.virConnect) -> None:
        with self._lane_locks[lane]:
            if self._connections.get(lane) is connection:
                del self._connections[lane]

    def find(self, connection: libvirt.virConnect, vm_id: UUID) -> libvirt.virDomain | None:
        """The domain, if it runs; one that is only defined does not count."""
        try:
            domain = connection.lookupByUUIDString(str(vm_id))
            return domain if domain.isActive() else None
        except libvirt.libvirtError as no:
            if no.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def require(self, connection: libvirt.virConnect, vm_id: UUID) -> libvirt.virDomain:
        """The domain, or a refusal when it does not run."""
        if (domain := self.find(connection, vm_id)) is None:
            raise HostRefused("vm_not_running", "The VM does not run on this host.", vm_id=str(vm_id))
        return domain

    def forget_facts(self, vm_id: UUID) -> None:
        """What a VM has has changed while it runs."""
        for key in [key for key in list(self._facts) if key[0] == vm_id]:
            self._facts.pop(key, None)

    def _read_facts(self, domain: libvirt.virDomain) -> DomainFacts | None:
        """Read once a run, and again after `forget_facts`."""
        key = (UUID(domain.UUIDString()), domain.ID())
        if key not in self._facts:
            try:
                self._facts[key] = read_domain(domain.XMLDesc(0))
            except libvirt.libvirtError as no:
                if no.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise
            for old in [one for one in list(self._facts) if one[0] == key[0] and one != key]:
                self._facts.pop(old, None)
        return self._facts[key]

    def _sample(self, domain: libvirt.virDomain) -> Sample | None:
        facts = self._read_facts(domain)
        if facts is None or not facts.ours:
            return None
        try:
            state, _, memory_kib, _, cpu_ns = domain.info()
            why = self._paused_for(facts.vm_id, domain.state()[1]) if STATES.get(state) == "paused" else ""
        except libvirt.libvirtError as no:
            if no.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise
        now = STATES.get(state, "running")
        if now == "off":
            return None
        boots = self.runs_seen.boots(facts.vm_id)
        return Sample(facts.vm_id, facts.name, now, memory_kib // 1024, cpu_ns / 1e9, why, boots)

    def _issued(self, domain: libvirt.virDomain) -> dict[str, int]:
        try:
            return read_tickets(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA))
        except libvirt.libvirtError as no:
            if no.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                return {}
            raise


def _run_events() -> None:
    """Start libvirt's event loop, once a process and before the first connection, or there is no keepalive."""
    global _events_run
    with _events_lock:
        if _events_run:
            return
        libvirt.registerErrorHandler(
            lambda *_: None, None
        )  # errors are raised; no need to print them as well
        libvirt.virEventRegisterDefaultImpl()
        libvirt.virEventAddTimeout(1000, lambda *_: None, None)  # so that the loop never sleeps for good

        def loop() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        threading.Thread(target=loop, name="libvirt-events", daemon=True).start()
        _events_run = True


def is_lost(connection: libvirt.virConnect, no: libvirt.libvirtError) -> bool:
    """Whether it was the connection that broke, so that nothing is known."""
    if no.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
        return True
    try:
        return not connection.isAlive()
    except libvirt.libvirtError:
        return True


def unsupported(no: libvirt.libvirtError) -> str | None:
    """The code `unsupported` when this driver of libvirt cannot do such a thing at all."""
    return "unsupported" if no.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT else None


def _start_refusal(name: str, no: libvirt.libvirtError) -> HostRefused:
    return refusal(f"VM {name} could not be started", no, "start_failed")


def refusal(what: str, no: libvirt.libvirtError, otherwise: str) -> HostRefused:
    """libvirt's many ways to say no, as a code and a sentence with its reason."""
    words = no.get_error_message() or str(no)
    codes = {
        'Failed to get "write" lock': "volume_in_use",
        "Failed to get shared": "volume_in_use",
        "No such file or directory": "disk_missing",
        "Permission denied": "no_permission",
        "No space left": "storage_full",
        "Cannot allocate memory": "no_memory",
        "cannot set up guest memory": "no_memory",
        "Cannot get interface MTU": "no_bridge",
        "No more available PCI": "no_slot",
        "already exists with uuid": "name_taken",
        "KVM": "no_kvm",
    }
    code = next((code for those, code in codes.items() if those in words), otherwise)
    return HostRefused(code, f"{what}: {said(no)}")


def said(no: libvirt.libvirtError) -> str:
    """libvirt's words, as the end of a sentence."""
    return (no.get_error_message() or "it gives no reason").strip().rstrip(".") + "."


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
