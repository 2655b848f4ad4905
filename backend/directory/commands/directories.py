"""Add, edit and remove an Active Directory domain.

The password of the service account comes sealed (`Keyring.seal`): whoever builds the command seals it first,
for a command's fields are written into its task's row. What the domain says of itself (short name, UPN
suffixes, base DN) comes from `ActiveDirectory.test`, asked before and outside the transaction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import sqlalchemy as sa

from backend.changes import touch
from backend.db import Tx, get
from backend.directory.commands.people import live_leases
from backend.directory.ldap import trust
from backend.directory.models import Directory, Group, User
from backend.directory.names import INTERNAL
from backend.directory.rights import require_other_admin
from backend.errors import Impossible, Invalid
from backend.events import record
from backend.tasks.command import Actor, Plain

_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")


@dataclass(frozen=True)
class AddDirectory(Plain):
    """Let people of an Active Directory domain sign in."""

    directory_name: str  # corp.example
    servers: tuple[str, ...]  # ldaps://dc1.corp.example, …
    bind_user: str
    bind_password_sealed: str
    ca_pem: str = ""
    starttls: bool = False
    system_ca: bool = False
    base_dn: str = ""
    netbios: str = ""
    upn_suffixes: tuple[str, ...] = ()
    name, permission = "directory.add", "directory.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "directory", None

    def title(self, tx: Tx) -> str:
        return f"Add directory {self.directory_name}"

    def check(self, tx: Tx) -> None:
        if not _DOMAIN.fullmatch(self.directory_name):
            raise Invalid("bad_name", f"“{self.directory_name}” is no domain's name: write it in lower case with its dots, "
                          "as in corp.example.", fields=["directory_name"])
        if tx.scalar(sa.select(Directory.id).where(Directory.name == self.directory_name)):
            raise Invalid("name_taken", f"There is already a directory named {self.directory_name}.", fields=["directory_name"])
        _check(self.servers, self.starttls, self.ca_pem, self.system_ca, self.bind_user, self.bind_password_sealed)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> dict[str, Any]:
        directory = Directory(name=self.directory_name, type="ad", config=_config(self))
        tx.add(directory)
        tx.flush()
        record(tx, "directory.added", directory, actor=actor.name)
        touch(tx, "directory", directory.id)
        return {"id": str(directory.id)}


@dataclass(frozen=True)
class EditDirectory(Plain):
    """Change how an Active Directory domain is reached; what is None stays as it is. The service account's password goes to
    no other server, and on no other CA's word, than it was given for: then it must be given again."""

    directory_id: UUID
    servers: tuple[str, ...] | None = None
    bind_user: str | None = None
    bind_password_sealed: str | None = None
    ca_pem: str | None = None
    starttls: bool | None = None
    system_ca: bool | None = None
    base_dn: str | None = None
    netbios: str | None = None
    upn_suffixes: tuple[str, ...] | None = None
    name, permission = "directory.edit", "directory.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "directory", self.directory_id

    def title(self, tx: Tx) -> str:
        return f"Edit directory {get(tx, Directory, self.directory_id).name}"

    def check(self, tx: Tx) -> None:
        before = _domain(tx, self.directory_id).config
        config = {**before, **_config(self)}
        _check(tuple(config["servers"]), config["starttls"], config["ca_pem"], config["system_ca"], config["bind_user"],
               config["bind_password_sealed"])
        elsewhere = set(config["servers"]) - set(before["servers"]) or any(
            config[name] != before[name] for name in ("starttls", "ca_pem", "system_ca"))
        if elsewhere and self.bind_password_sealed is None:
            raise Invalid("password_needed", f"Give the password of {config['bind_user']} again: it would go to other servers, "
                          "or be trusted to another CA, than it was given for.", fields=["bind_password"])

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        directory = get(tx, Directory, self.directory_id, lock=True)
        changed = _config(self)
        directory.config = {**directory.config, **changed}
        record(tx, "directory.edited", directory, actor=actor.name,
               what=", ".join(sorted(key.removesuffix("_sealed").replace("_", " ") for key in changed)) or "nothing")
        touch(tx, "directory", directory.id)


@dataclass(frozen=True)
class RemoveDirectory(Plain):
    """Forget an Active Directory domain with its people, groups and their permissions here."""

    directory_id: UUID
    name, permission = "directory.remove", "directory.edit"

    def target(self, tx: Tx) -> tuple[str, UUID | None]:
        return "directory", self.directory_id

    def title(self, tx: Tx) -> str:
        return f"Remove directory {get(tx, Directory, self.directory_id).name}"

    def check(self, tx: Tx) -> None:
        directory = _domain(tx, self.directory_id)
        require_other_admin(tx, but_directory=directory.id)
        if holders := live_leases(tx, User.directory_id == directory.id):
            raise Impossible("in_use", f"{holders} desktop(s) are held by people of {directory.name}. "
                             "Take their leases back first.", leases=holders)

    def run(self, tx: Tx, actor: Actor, now: datetime) -> None:
        directory = get(tx, Directory, self.directory_id, lock=True)
        record(tx, "directory.removed", directory, actor=actor.name)
        touch(tx, "directory", directory.id)
        for cls in (User, Group):
            tx.execute(sa.delete(cls).where(cls.directory_id == directory.id))
        tx.delete(directory)
        tx.flush()


def _domain(tx: Tx, directory_id: UUID) -> Directory:
    directory = get(tx, Directory, directory_id)
    if directory.name == INTERNAL:
        raise Impossible("internal_directory", "The internal directory is Leasehold's own: it has no servers and stays.")
    return directory


def _config(command: AddDirectory | EditDirectory) -> dict[str, Any]:
    """The command's settings as they stand in the row: those that were given."""
    values = {f.name: getattr(command, f.name) for f in fields(command) if f.name not in ("directory_name", "directory_id")}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}


def _check(servers: tuple[str, ...], starttls: bool, ca_pem: str, system_ca: bool, bind_user: str, sealed: str) -> None:
    if not servers:
        raise Invalid("no_server", "Name at least one domain controller, as in ldaps://dc1.corp.example.", fields=["servers"])
    for url in servers:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("ldap", "ldaps") and parts.hostname and parts.port != 0
        except ValueError:  # half a bracket, a port beyond 65535
            good = False
        if not good or parts.path or parts.query or parts.username or parts.fragment:
            raise Invalid("bad_server", f"“{url}” is no domain controller's address: write it as ldaps://dc1.corp.example.",
                          fields=["servers"])
        if parts.scheme == "ldap" and not starttls:
            raise Invalid("no_tls", f"“{url}” would send passwords unprotected: write ldaps://, or switch StartTLS on.",
                          fields=["servers", "starttls"])
    if not bind_user or not sealed:
        raise Invalid("no_service_account", "Give the account and password with which Leasehold may read the domain.",
                      fields=["bind_user", "bind_password"])
    trust(ca_pem, system_ca)
