"""Where the command line keeps what it knows: the portal's address, its CA, and the token of who is signed in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    """The portal to ask, the CA to believe, and the token to show; each from the command line, the environment or
    the files of this user, in that order."""

    folder: Path
    url: str = ""
    ca_file: str = ""
    token: str = ""
    device: str = ""  # the token of this machine, when it is enrolled as a thin client

    @property
    def cache(self) -> Path:
        """Where the portal's description is kept between calls."""
        return self.folder / "openapi.json"


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """This user's folder for it."""
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".config")
    return Path(base) / "leasehold"


def load(url: str | None, ca_file: str | None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration for this call. A kept token counts only for the portal that gave it."""
    where = folder(environ)
    kept = _read(where / "config.json")
    chosen = (url or environ.get("LEASEHOLD_URL") or str(kept.get("url", ""))).rstrip("/")
    trusted = ca_file or environ.get("LEASEHOLD_CA_FILE") or (str(kept.get("ca_file", "")) if chosen == kept.get("url") else "")
    token = environ.get("LEASEHOLD_TOKEN") or str(_read(where / "token.json").get(chosen, ""))
    return Config(where, chosen, trusted, token, str(_read(where / "device.json").get(chosen, "")))


def remember(config: Config, token: str) -> None:
    """Keep the address and the token, the latter readable by this user alone."""
    _keep(config, "token.json", token)


def enroll(config: Config, token: str) -> None:
    """Keep the address and the token of this machine, which is a thin client from now on."""
    _keep(config, "device.json", token)


def _keep(config: Config, name: str, token: str) -> None:
    config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_file = str(Path(config.ca_file).absolute()) if config.ca_file else ""
    _write(config.folder / "config.json", {"url": config.url, "ca_file": ca_file})
    _write(config.folder / name, {**_read(config.folder / name), config.url: token})


def forget(config: Config) -> None:
    """Throw the token for this portal away."""
    tokens = _read(config.folder / "token.json")
    if tokens.pop(config.url, None) is not None:
        _write(config.folder / "token.json", tokens)


def _read(path: Path) -> dict[str, object]:
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _write(path: Path, value: object) -> None:
    """Written beside and moved into place, never readable by others even for a moment."""
    fresh = path.with_suffix(f".{os.getpid()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file)
    fresh.replace(path)
