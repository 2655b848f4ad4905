"""`Parts`: everything the portal is made of, handed to `create_app` by a root or a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from flask import current_app

from backend.clock import Clock, WallClock
from backend.config import Settings
from backend.db import Sessions, new_sessions
from backend.secrets import Keyring


@dataclass(frozen=True)
class Parts:
    """Settings, database, key, clock, and the commands by wire name ("vm.start")."""

    settings: Settings
    sessions: Sessions
    keyring: Keyring
    clock: Clock
    commands: Mapping[str, type] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, commands: Mapping[str, type]) -> Parts:
        """The parts of a real process: its database, its key, the machine's clock."""
        return cls(settings, new_sessions(settings.database_url, settings.database_pool),
                   Keyring(settings.secret_key()), WallClock(), commands)

    @property
    def public_host(self) -> str:
        """Host and port of the address that people use, as browsers send it."""
        return urlsplit(self.settings.public_url).netloc.lower()


def parts() -> Parts:
    """The parts of the app that answers this request."""
    return cast(Parts, current_app.extensions["parts"])
