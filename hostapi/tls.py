"""Mutual TLS between manager, gateway and hosts; a certificate's OU says which of them its holder is."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

Role = Literal["manager", "gateway", "host"]
DOMAIN = "leasehold"  # the one domain that the hosts' CA may sign names of; no name in the world ends so


def host_name(host_id: UUID) -> str:
    """The name in a host's certificate. It is made from the host's id, so an address that another host has taken over,
    or a DNS that lies, leads nobody to the wrong one."""
    return f"{host_id}.host.{DOMAIN}"


def client_context(ca_file: str | Path, cert_file: str | Path, key_file: str | Path) -> ssl.SSLContext:
    """For the side that calls: shows its certificate, believes only the hosts' CA and checks the host's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _ours(context, ca_file, cert_file, key_file)


def server_context(ca_file: str | Path, cert_file: str | Path, key_file: str | Path) -> ssl.SSLContext:
    """For the side that answers: nobody without a certificate of the hosts' CA gets past the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _ours(context, ca_file, cert_file, key_file)


def roles(peer: Mapping[str, Any] | None) -> set[str]:
    """The roles in a verified peer's certificate, as `SSLSocket.getpeercert()` answers it."""
    subject = (peer or {}).get("subject", ())
    return {value for rdn in subject for name, value in rdn if name == "organizationalUnitName"}


def dns_names(peer: Mapping[str, Any] | None) -> set[str]:
    """The names in a verified peer's certificate."""
    return {value for kind, value in (peer or {}).get("subjectAltName", ()) if kind == "DNS"}


def _ours(
    context: ssl.SSLContext, ca_file: str | Path, cert_file: str | Path, key_file: str | Path
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=str(ca_file))
    context.load_cert_chain(str(cert_file), str(key_file))
    return context
