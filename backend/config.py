"""`Settings`: one frozen dataclass read from a TOML file and the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What the processes of the manager's side must know before they can ask the database.

    Every field may stand in the TOML file named by LEASEHOLD_CONFIG, and is overridden by an environment
    variable of its name in capitals after LEASEHOLD_ (LEASEHOLD_DATABASE_URL).
    """

    database_url: str = ""
    secret_key_file: str = ""  # 32 random bytes: everything derived (tickets, cookies, stored passwords)
    public_url: str = "https://localhost:8443"  # how people reach the portal
    web_listen: str = "127.0.0.1:8443"
    screens_seen_by: str = ""  # roles, by commas, that see live pictures of other people's screens besides system_admin
    trusted_proxies: str = ""  # addresses and networks, by commas, whose X-Forwarded-For and -Proto are believed
    gateway_public: str = "localhost:8444"  # how people's browsers and viewers reach the gateway
    gateway_listen: str = "127.0.0.1:8444"  # several with commas; native clients try only the first address of a name
    gateway_name: str = "gateway"
    tls_cert_file: str = ""  # the web's and the gateway's own certificate
    tls_key_file: str = field(default="", repr=False)
    ca_file: str = ""  # the CA behind tls_cert_file: what people's browsers and viewers are told to trust
    ca_key_file: str = field(default="", repr=False)  # for the manager, only as long as it has hosts to renew that this CA signed
    hosts_ca_file: str = ""  # the hosts' CA: signs hosts, managers and gateways, and nobody else trusts it
    hosts_ca_key_file: str = field(default="", repr=False)  # the manager alone may read it
    client_cert_file: str = ""  # how this process shows itself to agents: a certificate of the hosts' CA
    client_key_file: str = field(default="", repr=False)
    agent_package: str = ""  # the wheel that hosts' agents are upgraded with; for the manager
    agent_requirements: str = ""  # with hashes, what that wheel needs on a host that is installed over SSH; none: pip decides
    agent_installer: str = ""  # the shell program that installs a host; none: the one that comes with Leasehold, for Debian
    fence_quiet_s: int = 60  # after the manager's start, in which no host is fenced
    database_pool: int = 10
    task_workers: int = 8
    log_level: str = "INFO"

    def hosts_ca(self) -> str:
        """The hosts' CA's certificate file; says what to do when there is none."""
        if not self.hosts_ca_file:
            raise SystemExit("Set hosts_ca_file: hosts have a CA of their own, which “leasehold-managerd hosts-ca” makes.")
        return self.hosts_ca_file

    def secret_key(self) -> bytes:
        """The manager's key; refuses one that others may read or that is too short to be one."""
        path = Path(self.secret_key_file)
        if path.stat().st_mode & 0o077:
            raise SystemExit(f"{path} may be read by others: chmod 600 {path}")
        key = path.read_bytes()
        if len(key) < 32:
            raise SystemExit(f"{path} holds {len(key)} bytes; at least 32 random bytes are needed.")
        return key


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from LEASEHOLD_CONFIG (a TOML file, optional) and LEASEHOLD_* variables."""
    values: dict[str, object] = {}
    if path := environ.get("LEASEHOLD_CONFIG"):
        values = tomllib.loads(Path(path).read_text())
    known = {f.name: f for f in fields(Settings)}
    if unknown := sorted(set(values) - set(known)):
        raise SystemExit(f"{environ['LEASEHOLD_CONFIG']}: unknown setting {', '.join(unknown)}.")
    for name, f in known.items():
        if (given := environ.get(f"LEASEHOLD_{name.upper()}")) is not None:
            values[name] = int(given) if f.type == "int" else given
    return Settings(**values)  # type: ignore[arg-type]
