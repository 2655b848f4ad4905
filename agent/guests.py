"""What the guest agents say, asked in the background, so that a hung guest holds nobody up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hostapi.types import GuestReport
from hostapi.verbs import HostRefused

log = logging.getLogger("guests")
FRESH_S = 10.0  # how old an answer may be before the guest is asked again
QUICK_S = 2.0  # the same while no answer has been had, so that a boot is noticed soon
MOST_AT_ONCE = 8
MOST_PARTS = 64  # of users, network cards and addresses that are believed


@dataclass
class _Known:
    asked_at: float
    report: GuestReport | None = None
    busy: bool = False


class Guests:
    """The last answer of each VM's guest agent, at most some seconds old.

    `ask` answers a guest agent command or raises; it may take its time, since a thread of its own waits for it."""

    def __init__(self, ask: Callable[[UUID, str], Any]) -> None:
        self._ask = ask
        self._known: dict[UUID, _Known] = {}
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_AT_ONCE)

    def last(self, vm_ids: Iterable[UUID]) -> dict[UUID, GuestReport | None]:
        """The answers at hand for the VMs that run; those that are too old are asked for anew meanwhile."""
        with self._lock:
            running = set(vm_ids)
            for gone in self._known.keys() - running:
                del self._known[gone]
            now = time.monotonic()
            for vm_id in running:
                known = self._known.get(vm_id)
                age_s = QUICK_S if known is None or known.report is None else FRESH_S
                if known is None or (not known.busy and now - known.asked_at > age_s):
                    self._start(vm_id, now)
            return {vm_id: known.report for vm_id, known in self._known.items()}

    def ask_now(self, vm_id: UUID) -> GuestReport:
        """Ask this guest now, in the caller's thread; raises when it is silent."""
        self._ask(vm_id, "guest-ping")
        report = self._report(vm_id)
        with self._lock:
            self._known[vm_id] = _Known(time.monotonic(), report)
        return report

    def forget(self, vm_id: UUID) -> None:
        """What was heard of this VM's last run does not count for the next one."""
        with self._lock:
            self._known.pop(vm_id, None)

    def _start(self, vm_id: UUID, now: float) -> None:
        if not self._places.acquire(blocking=False):
            return  # as many are being asked as may be at a time; its turn comes with the next report
        known = self._known.setdefault(vm_id, _Known(now))
        known.asked_at, known.busy = now, True
        threading.Thread(
            target=self._refresh, args=(vm_id, known), name=f"guest {vm_id}", daemon=True
        ).start()

    def _refresh(self, vm_id: UUID, known: _Known) -> None:
        try:
            self._ask(vm_id, "guest-ping")
            known.report = self._report(vm_id)
        except Exception as silent:  # noqa: BLE001 -- the edge of a thread; a guest can answer anything at all
            log.debug("guest %s does not answer: %s", vm_id, silent)
            known.report = None
        finally:
            known.busy = False
            self._places.release()

    def _report(self, vm_id: UUID) -> GuestReport:
        host = self._part(vm_id, "guest-get-host-name", {})
        system = self._part(vm_id, "guest-get-osinfo", {})
        cards = self._part(vm_id, "guest-network-get-interfaces", [])
        users = self._part(vm_id, "guest-get-users", [])
        return GuestReport(
            hostname=_text(host.get("host-name")),
            os=_text(system.get("pretty-name") or system.get("name")),
            ips=tuple(_addresses(cards)),
            users=user_names(users),
        )

    def _part(self, vm_id: UUID, command: str, otherwise: Any) -> Any:
        """One command's answer; a guest agent may lack a command, or answer nonsense, and the rest still counts."""
        try:
            answer = self._ask(vm_id, command)
        except HostRefused:
            raise
        except Exception as silent:  # noqa: BLE001 -- the edge: what a guest answers is not ours
            log.debug("guest %s does not answer %s: %s", vm_id, command, silent)
            return otherwise
        return answer if isinstance(answer, type(otherwise)) else otherwise


def user_names(answer: Any) -> tuple[str, ...]:
    """Who is logged in, from what a guest agent answers to guest-get-users."""
    return tuple(sorted({str(user["user"])[:64] for user in _dicts(answer) if user.get("user")}))


def _text(value: Any) -> str | None:
    return str(value)[:200] if value else None


def _dicts(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; what a guest answers may be anything, and any amount of it."""
    return [one for one in value[:MOST_PARTS] if isinstance(one, dict)] if isinstance(value, list) else []


def _addresses(cards: list[Any]) -> Iterable[str]:
    """The addresses by which others reach the guest: neither loopback nor link-local ones."""
    for card in _dicts(cards):
        for address in _dicts(card.get("ip-addresses")):
            ip = str(address.get("ip-address", ""))[:45]
            if ip and not ip.startswith(("127.", "169.254.", "fe80:")) and ip != "::1":
                yield ip
