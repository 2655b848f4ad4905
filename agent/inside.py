"""Acting inside a guest through its agent: our own hook where there is one, else the programs of its system."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agent.guests import user_names
from agent.virt import GuestRefused, GuestSilent
from hostapi.types import GuestAction
from hostapi.verbs import HostRefused

log = logging.getLogger("inside")
HOOKS = "/usr/share/leasehold/hooks"  # in a Linux guest: programs named like the actions; the text is their input
PATIENCE_S, LOOK_S = 30.0, 0.2
WORDS: Mapping[GuestAction, str] = {
    "message": "show a message",
    "lock": "lock its screens",
    "log_out": "log people out",
}
Ask = Callable[..., Any]
Argv = Sequence[str]


class _NotThere(Exception):
    """The guest has no such program."""


def act(ask: Ask, name: str, action: GuestAction, text: str) -> None:
    """Do it by the first way that the guest knows. `ask` is `Hypervisor.ask_guest` for this VM, called `name`."""
    try:
        ask("guest-ping")
        system = str(_answer(ask, "guest-get-osinfo", {}).get("id", ""))
        for way in ways(system, action, user_names(_answer(ask, "guest-get-users", []))):
            try:
                for argv in way:
                    _run(ask, name, argv, text)
            except _NotThere:
                continue
            return
    except GuestRefused as no:
        raise HostRefused("guest_refused", f"The guest of VM {name} will not {WORDS[action]}: {no}") from no
    except GuestSilent as silent:
        sentence = f"The guest of VM {name} cannot be asked: its guest agent does not answer."
        raise HostRefused("guest_silent", sentence) from silent
    sentence = f"The guest of VM {name} cannot {WORDS[action]}: it has no program for it."
    raise HostRefused("guest_cannot", sentence)


def set_clock(ask: Ask, name: str, unix_ns: int) -> bool:
    """Tell a guest what time it is, for a VM that was saved believes that no time has passed; answers whether it took it."""
    try:
        ask("guest-set-time", time=unix_ns)
    except (GuestRefused, GuestSilent, HostRefused) as no:
        log.warning("The clock of VM %s may be slow by the time that it was suspended: it could not be set: %s", name, no)
        return False
    return True


def ways(system: str, action: GuestAction, users: Iterable[str]) -> list[list[Argv]]:
    """The ways to do it in such a system, the best first: each is programs with their arguments, run one after another.
    The text is never among them: it is handed over as input, so that nothing in it can be taken for an option."""
    if system == "mswindows":
        # The agent runs in a session of its own, in which LockWorkStation locks nothing: leaving the console does.
        programs = {"message": ("msg.exe", "*"), "lock": ("tsdiscon.exe", "console"), "log_out": ("logoff.exe", "console")}
        return [[programs[action]]]
    usual: dict[GuestAction, list[Argv]] = {
        "message": [("wall",)],
        "lock": [("loginctl", "lock-sessions")],
        "log_out": [("loginctl", "terminate-user", "--", user) for user in users],
    }
    return [[(f"{HOOKS}/{action}",)], usual[action]]


def _answer(ask: Ask, command: str, otherwise: Any) -> Any:
    try:
        answer = ask(command)
    except GuestRefused:
        return otherwise
    return answer if isinstance(answer, type(otherwise)) else otherwise


def _run(ask: Ask, name: str, argv: Argv, text: str) -> None:
    """Run a program inside to its end, without a shell."""
    given = {"input-data": base64.b64encode(text.encode()).decode(), "capture-output": True}
    try:
        started = ask("guest-exec", path=argv[0], arg=list(argv[1:]), **given)
    except GuestRefused as no:
        if "No such file" in str(no):
            raise _NotThere from no
        raise
    end = time.monotonic() + PATIENCE_S
    while not (status := ask("guest-exec-status", pid=started["pid"])).get("exited"):
        if time.monotonic() >= end:
            sentence = f"{argv[0]} inside VM {name} had not ended after {PATIENCE_S:.0f} seconds."
            raise HostRefused("guest_slow", sentence)
        time.sleep(LOOK_S)
    if code := status.get("exitcode", 1):
        said = base64.b64decode(str(status.get("err-data", ""))).decode(errors="replace").strip()[:200]
        sentence = f"{argv[0]} inside VM {name} failed: {said.rstrip('.') or f'exit code {code}'}."
        raise HostRefused("guest_failed", sentence)
