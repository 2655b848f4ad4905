"""Power agents: the programs of Debian's fence-agents, their kinds and options, and what they say of another host's power.

What they are told goes over their standard input, never into a command line that others could read, and never into a log."""

from __future__ import annotations

import stat
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from agent.shell import ProgramFailed, converse, run
from hostapi.power import NO_POWER, TYPE, may_be_set
from hostapi.types import FenceSpec, Power, PowerKind, PowerOption, PowerReport, PowerSpec
from hostapi.verbs import HostRefused, Steering

PROGRAMS = Path("/usr/sbin")
ON, OFF = 0, 2  # what a fence agent exits with after `status`
LOOK_S = 1.0
METADATA_S = 30.0


class PowerAgents:
    """The fence agents of this host, whose name is for sentences."""

    def __init__(self, host: str, programs: Path = PROGRAMS) -> None:
        self.host, self.programs = host, programs

    def kinds(self) -> tuple[str, ...]:
        """The kinds that there are programs for."""
        names = (path.name.removeprefix("fence_") for path in sorted(self.programs.glob("fence_*")))
        return tuple(name for name in names if self._find(name) is not None)

    def kind(self, name: str) -> PowerKind:
        """What a kind is, and its options, as its program tells."""
        return _described(name, self._program(name))

    def fence(self, spec: FenceSpec, steering: Steering) -> PowerReport:
        """Have all of these power agents do it, and answer what they say then."""
        end = time.monotonic() + spec.timeout_s
        programs = [self._program(agent.type) for agent in spec.agents]
        words = [_words(agent, self.kind(agent.type)) for agent in spec.agents]
        steering.check_cancelled()
        if not spec.agents:
            raise HostRefused("not_fenced", "There is no power agent to ask.")
        with ThreadPoolExecutor(len(spec.agents), "fence") as pool:
            one = list(zip(spec.agents, programs, words, strict=True))
            if spec.action != "status":
                steering.progress(10, f"Switching {spec.action}")
                list(pool.map(lambda given: _do(*given, spec.action, end), one))
            while True:
                told = list(pool.map(lambda given: _status(*given, end), one))
                power: Power = "off" if all(one == "off" for one in told) else "on"
                done = power == "off" if spec.action == "off" else "off" not in told
                if done or spec.action == "status":
                    return PowerReport(power)
                if time.monotonic() >= end:
                    where = " and ".join(agent.address for agent in spec.agents)
                    sentence = f"The power agent at {where} was told to switch {spec.action}, and says that it did not."
                    raise HostRefused("not_fenced", sentence)
                steering.check_cancelled()
                time.sleep(LOOK_S)

    def _program(self, name: str) -> Path:
        path = self._find(name)
        if path is None:
            sentence = f"Host {self.host} has no fence_{name}: install Debian's package fence-agents there."
            raise HostRefused("no_power_program", sentence)
        return path

    def _find(self, name: str) -> Path | None:
        """The program of this kind, if it is one of the system's own."""
        if not TYPE.fullmatch(name) or name in NO_POWER:
            return None
        path = self.programs / f"fence_{name}"
        try:
            real, about = path.resolve(strict=True), path.stat()
        except OSError:
            return None
        theirs = real.parent == self.programs.resolve() and real.name.startswith("fence_")
        ours = about.st_uid == 0 and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return path if theirs and ours and about.st_mode & stat.S_IXUSR else None


@cache
def _described(name: str, program: Path) -> PowerKind:
    try:
        root = ElementTree.fromstring(run([str(program), "-o", "metadata"], timeout_s=METADATA_S))
    except (ProgramFailed, ElementTree.ParseError) as broken:
        raise HostRefused("no_power_program", f"fence_{name} does not say what it is: {broken}") from broken
    options = [_option(one) for one in root.iter("parameter")]
    return PowerKind(name, root.get("shortdesc", ""), tuple(one for one in options if may_be_set(one.name)))


def _option(one: ElementTree.Element) -> PowerOption:
    content, about = one.find("content"), one.findtext("shortdesc") or ""
    kind = content.get("type", "string") if content is not None else "string"
    default = content.get("default", "") if content is not None else ""
    return PowerOption(one.get("name", ""), kind, default, " ".join(about.split()))


def _words(agent: PowerSpec, kind: PowerKind) -> dict[str, str]:
    """What the program is told besides the action. `HostRefused` for an option that it does not know or may not be given."""
    known = {one.name for one in kind.options}
    if wrong := sorted(name for name in agent.options if name not in known):
        raise HostRefused("bad_option", f"Power agents of the kind {agent.type} know no option “{wrong[0]}”.")
    secured = next((name for name in ("lanplus", "ssl", "secure", "ssh") if name in known), None)
    words = {
        "ip": agent.address,
        **({"ipport": str(agent.port)} if agent.port else {}),
        **({"username": agent.username} if agent.username else {}),
        **({"password": agent.password.value} if agent.password else {}),
        **({secured: "1" if agent.encrypt else "0"} if secured else {}),
        **agent.options,
    }
    if any(character < " " for value in words.values() for character in value):
        raise HostRefused("bad_option", f"What the power agent at {agent.address} is told has line breaks in it.")
    return words


def _do(agent: PowerSpec, program: Path, words: dict[str, str], action: str, end: float) -> None:
    code, said = _ask(agent, program, words, action, end)
    if code != 0:
        raise _failed(agent, said)


def _status(agent: PowerSpec, program: Path, words: dict[str, str], end: float) -> Power:
    code, said = _ask(agent, program, words, "status", end)
    if code not in (ON, OFF):
        raise _failed(agent, said)
    return "on" if code == ON else "off"


def _ask(agent: PowerSpec, program: Path, words: dict[str, str], action: str, end: float) -> tuple[int, str]:
    given = "".join(f"{name}={value}\n" for name, value in {**words, "action": action}.items())
    try:
        code, said = converse([str(program)], given, timeout_s=max(1.0, end - time.monotonic()))
    except ProgramFailed as failed:
        raise _failed(agent, failed.said) from None
    return code, said


def _failed(agent: PowerSpec, said: str) -> HostRefused:
    """Its last words, without the secret should it have said that."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "syntax" not in line.lower()]
    last = lines[-1].partition("ERROR: ")[2] or lines[-1] if lines else "it said nothing"
    if agent.password and agent.password.value:
        last = last.replace(agent.password.value, "***")
    return HostRefused("not_fenced", f"The power agent {agent.type} at {agent.address} failed: {last[:300].rstrip('.')}.")
