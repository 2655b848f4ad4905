"""`Parts`: everything the portal is made of, handed to `create_app` by a root or a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast
from urllib.parse import urlsplit
from uuid import UUID

from flask import current_app

from backend.clock import Clock, WallClock
from backend.config import Settings
from backend.db import Sessions, new_sessions
from backend.secrets import Keyring
from hostapi.client import client_context
from hostapi.doors import host_doors
from hostapi.types import ContentReport


class FileDoor(Protocol):
    """What the portal asks of a host."""

    def part_size(self, domain_path: str, volume_id: UUID) -> int: ...
    def write_part(self, domain_path: str, volume_id: UUID, offset: int, data: bytes) -> int: ...
    def content(self, domain_path: str, volume_id: UUID) -> ContentReport: ...
    def read_content(self, domain_path: str, volume_id: UUID, mark: str, offset: int, count: int) -> bytes: ...


@dataclass(frozen=True)
class Parts:
    """Settings, database, key, clock, and the commands by wire name ("vm.start")."""

    settings: Settings
    sessions: Sessions
    keyring: Keyring
    clock: Clock
    commands: Mapping[str, type] = field(default_factory=dict)
    doors: Callable[[UUID, str, int], FileDoor] | None = None  # how hosts are reached, for files alone

    @classmethod
    def of(cls, settings: Settings, commands: Mapping[str, type]) -> Parts:
        """The parts of a real process: its database, its key, the machine's clock."""
        doors = None
        if settings.client_cert_file:
            doors = host_doors(client_context(settings.hosts_ca(), settings.client_cert_file, settings.client_key_file))
        return cls(settings, new_sessions(settings.database_url, settings.database_pool),
                   Keyring(settings.secret_key()), WallClock(), commands, doors)

    @property
    def public_host(self) -> str:
        """Host and port of the address that people use, as browsers send it."""
        return urlsplit(self.settings.public_url).netloc.lower()


def parts() -> Parts:
    """The parts of the app that answers this request."""
    return cast(Parts, current_app.extensions["parts"])
