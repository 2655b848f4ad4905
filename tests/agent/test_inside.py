"""Acting inside guests of every kind, and with agents that answer anything at all."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from agent.inside import HOOKS, act, set_clock, ways
from agent.virt import GuestRefused, GuestSilent
from hostapi.verbs import HostRefused


class Inside:
    """A guest's agent: which programs there are, and what was run with which input."""

    def __init__(self, system: str = "debian", programs: tuple[str, ...] = (), **said: Any) -> None:
        self.system, self.programs, self.said, self.ran = system, programs, said, list[tuple[list[str], str]]()

    def __call__(self, command: str, **given: Any) -> Any:
        if command in self.said:
            if isinstance(self.said[command], Exception):
                raise self.said[command]
            return self.said[command]
        match command:
            case "guest-get-osinfo":
                return {"id": self.system}
            case "guest-get-users":
                return [{"user": "anna"}, {"user": "-rf"}]
            case "guest-exec":
                if given["path"] not in self.programs:
                    raise GuestRefused(f"Failed to execute child process “{given['path']}” (No such file or directory)")
                self.ran.append(([given["path"], *given["arg"]], base64.b64decode(given["input-data"]).decode()))
                return {"pid": 7}
            case "guest-exec-status":
                return {"exited": True, "exitcode": 0}
        return {}


TEXT = "-x /SERVER:evil $(reboot) `id` ; \"'ö"


@pytest.mark.parametrize(
    "system, programs, action, ran",
    [
        ("debian", (f"{HOOKS}/message", "wall"), "message", [[f"{HOOKS}/message"]]),
        ("debian", ("wall",), "message", [["wall"]]),
        ("debian", ("loginctl",), "lock", [["loginctl", "lock-sessions"]]),
        ("debian", ("loginctl",), "log_out", [["loginctl", "terminate-user", "--", user] for user in ("-rf", "anna")]),
        ("mswindows", ("msg.exe",), "message", [["msg.exe", "*"]]),
        ("mswindows", ("tsdiscon.exe",), "lock", [["tsdiscon.exe", "console"]]),
        ("mswindows", ("logoff.exe",), "log_out", [["logoff.exe", "console"]]),
    ],
)
def test_each_system_has_its_way_and_text_is_never_an_argument(system: str, programs: Any, action: Any, ran: Any) -> None:
    inside = Inside(system, programs)
    act(inside, "w7", action, TEXT)
    assert inside.ran == [(argv, TEXT) for argv in ran]


@pytest.mark.parametrize(
    "said, code",
    [
        ({"guest-ping": GuestSilent("timed out")}, "guest_silent"),
        ({"guest-exec": GuestRefused("Command guest-exec has been disabled")}, "guest_refused"),
        ({"guest-exec-status": {"exited": True, "exitcode": 3, "err-data": "bm8gdHR5"}}, "guest_failed"),
        ({"guest-exec-status": {"exited": True}}, "guest_failed"),
        ({"guest-exec": GuestRefused("(No such file or directory)")}, "guest_cannot"),
        ({"guest-get-osinfo": GuestRefused("disabled"), "guest-get-users": "nonsense"}, None),
    ],
)
def test_what_goes_wrong_is_told_in_words(said: dict[str, Any], code: str | None) -> None:
    inside = Inside(programs=("wall",), **said)
    if code is None:
        act(inside, "w7", "message", TEXT)
        return
    with pytest.raises(HostRefused, match="w7") as no:
        act(inside, "w7", "message", TEXT)
    assert no.value.failure.code == code


def test_nobody_logged_in_is_nobody_to_log_out() -> None:
    assert ways("debian", "log_out", ()) == [[(f"{HOOKS}/log_out",)], []]


@pytest.mark.parametrize("no", [GuestRefused("no such command"), GuestSilent("silent"), HostRefused("call_hung", "It hangs.")])
def test_a_guest_is_told_the_time_and_one_that_will_not_hear_is_mentioned(no: Exception, caplog: Any) -> None:
    told: dict[str, Any] = {}
    assert set_clock(lambda command, **given: told.update({command: given}), "w7", 1_772_438_400_000_000_000)
    assert told == {"guest-set-time": {"time": 1_772_438_400_000_000_000}} and not caplog.text
    assert not set_clock(Inside(**{"guest-set-time": no}), "w7", 0)
    assert "The clock of VM w7 may be slow" in caplog.text
