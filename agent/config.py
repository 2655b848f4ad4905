"""The agent's settings: a TOML file in its state folder, written by `enroll`, read by `run`."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import msgspec

FILE = "agent.toml"


@dataclass(frozen=True)
class AgentConfig:
    """What one agent must know of its host."""

    name: str
    libvirt_uri: str = "qemu:///system"
    listen: str = "0.0.0.0"  # managers and gateways are elsewhere; nobody passes without a certificate
    port: int = 7443
    console_port: int = 7444
    storage_roots: tuple[str, ...] = ()
    virt_type: Literal["kvm", "qemu"] = "qemu"
    hooks: str = ""  # the folder of programs that custom actions may run; none: no custom actions
    upgrade: str = ""  # the program that installs another version of the agent; none: its operator does it
    migrate_unsafe: bool = False  # libvirt knows few file systems as shared, and refuses to migrate over others


def load(state: Path) -> AgentConfig:
    """The settings in this state folder; raises `ValueError` with a sentence when they cannot be used."""
    path = state / FILE
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), AgentConfig)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there: enroll this host first (leasehold-agent enroll).") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as wrong:
        raise ValueError(f"{path} cannot be used: {wrong}") from wrong


def save(state: Path, config: AgentConfig) -> None:
    """Write the settings, whole or not at all."""
    # TOML's strings, numbers and arrays of strings are written as JSON writes them.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in asdict(config).items()]
    fresh = state / f"{FILE}.new"
    fresh.write_text("\n".join(lines) + "\n")
    fresh.replace(state / FILE)
