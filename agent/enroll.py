"""Enrollment: a one-time token, or an administrator's approval, buys this host a certificate of the hosts' CA; its key
never leaves it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import urllib3
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from urllib3.exceptions import HTTPError

KEY, REQUEST, CERTIFICATE, CA, TOKEN = "key.pem", "request.pem", "cert.pem", "ca.pem", "token"
POLL_S = 2.0


class EnrollFailed(Exception):
    """The host could not be enrolled; `str()` is a sentence that says what to do."""


@dataclass(frozen=True)
class Offer:
    """What the host tells the manager of itself."""

    token: str
    address: str
    port: int
    console_port: int
    hostname: str
    facts: dict[str, Any] = field(default_factory=dict)  # what an administrator sees before approving of it


def enroll(
    state: Path,
    url: str,
    offer: Offer,
    trust: ssl.SSLContext,
    *,
    patience_s: float,
    say: Callable[[str], None],
) -> None:
    """Get the certificate and write key, certificate and CA to the state folder. Cut off and run again, it
    asks with the same key and the same request, which the manager takes as the same question."""
    url = url.rstrip("/")
    http = urllib3.PoolManager(ssl_context=trust, retries=False, timeout=urllib3.Timeout(connect=10, read=30))
    key = _key(state / KEY)
    token = offer.token or _own_token(state / TOKEN)
    body = {
        "token": token,
        "csr": _request(state / REQUEST, key, offer.hostname),
        "address": offer.address,
        "port": offer.port,
        "console_port": offer.console_port,
        "hostname": offer.hostname,
        **({} if offer.token else {"register": True, **offer.facts}),
    }
    if not offer.token:
        say(f"The fingerprint of this host's key is {_fingerprint(key)}: an administrator compares it before approving.")
    headers = {"Content-Type": "application/json"}
    status, answer = _send(http, "POST", f"{url}/api/v1/enroll", msgspec.json.encode(body), headers)
    if status != 202:
        raise EnrollFailed(_why(status, answer))
    wait = "a certificate; waiting for it." if offer.token else "approval; waiting for an administrator, and a certificate."
    say(f"Asked the manager for {wait}")
    answer = _wait(http, f"{url}/api/v1/enroll/{answer['id']}", token, patience_s)
    _require_ours(answer["certificate"], answer["ca"], key)
    _write(state / CA, answer["ca"].encode(), 0o644)
    _write(state / CERTIFICATE, answer["certificate"].encode(), 0o644)
    (state / REQUEST).unlink()  # another enrollment asks anew
    (state / TOKEN).unlink(missing_ok=True)


def install(state: Path, certificate: str, ca: str) -> None:
    """Put another certificate and CA into the state folder of an enrolled host. Cut off at any moment it leaves an agent
    that a manager can still reach: until the certificate is another one, the earlier CA is believed as well."""
    if not (state / KEY).exists():
        raise EnrollFailed("This host was never enrolled, so there is no key for a certificate.")
    key = _key(state / KEY)
    _require_ours(certificate, ca, key)
    _write(state / CA, (state / CA).read_bytes() + b"\n" + ca.encode(), 0o644)
    _write(state / CERTIFICATE, certificate.encode(), 0o644)
    _write(state / CA, ca.encode(), 0o644)


def trust_file(ca_file: Path) -> ssl.SSLContext:
    """Believe a manager whose certificate this CA has signed."""
    return ssl.create_default_context(cafile=str(ca_file))


def trust_fingerprint(url: str, sha256: str) -> ssl.SSLContext:
    """Fetch the manager's CA certificate over a connection that is not believed yet, and believe it when its
    SHA-256 is the one that the administrator copied from the manager."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    http = urllib3.PoolManager(ssl_context=blind, retries=False, timeout=urllib3.Timeout(connect=10, read=30))
    with_warnings_off = {"category": urllib3.exceptions.InsecureRequestWarning}
    urllib3.disable_warnings(**with_warnings_off)  # what is fetched is checked below
    try:
        answer = http.request("GET", f"{url.rstrip('/')}/api/v1/ca")
        pem = msgspec.json.decode(answer.data, type=dict[str, str])["ca"]
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except (HTTPError, ValueError, KeyError, msgspec.DecodeError) as no:
        raise EnrollFailed(f"The manager at {url} does not hand out its CA certificate: {no}") from no
    found = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
    if not hmac.compare_digest(found, sha256.replace(":", "").lower()):
        raise EnrollFailed(
            f"The CA certificate of {url} has the SHA-256 {found}, not the one given: "
            "this is not your manager, or the fingerprint was copied wrongly."
        )
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=certificate.public_bytes(serialization.Encoding.PEM).decode())
    return context


def own_address(url: str) -> str:
    """The address of this host that it reaches the manager from."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting UDP sends nothing
        probe.connect((parts.hostname or "localhost", parts.port or 443))
        return str(probe.getsockname()[0])


# -- inside --------------------------------------------------------------------------------------
def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(path, pem, 0o600)
    return key


def _own_token(path: Path) -> str:
    """The secret by which a host that nobody announced asks again; kept until it is enrolled."""
    if not path.exists():
        _write(path, secrets.token_urlsafe(32).encode(), 0o600)
    return path.read_text()


def _fingerprint(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _request(path: Path, key: ec.EllipticCurvePrivateKey, hostname: str) -> str:
    """The signing request, kept until it is signed: its signature would be another one every time it is made.
    Its subject is a courtesy, the manager writes its own."""
    if not path.exists():
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        _write(path, request.public_bytes(serialization.Encoding.PEM), 0o600)
    return path.read_text()


def _wait(http: urllib3.PoolManager, url: str, token: str, patience_s: float) -> dict[str, Any]:
    end = time.monotonic() + patience_s
    while True:
        status, answer = _send(http, "GET", url, None, {"Authorization": f"Bearer {token}"})
        if status == 200:
            return answer
        if status != 202:
            raise EnrollFailed(_why(status, answer))
        if time.monotonic() >= end:
            raise EnrollFailed(
                "The manager has not signed the request yet. Run the same command again later."
            )
        time.sleep(POLL_S)


def _send(
    http: urllib3.PoolManager, method: str, url: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    try:
        answer = http.request(method, url, body=body, headers=headers, redirect=False)
        return answer.status, msgspec.json.decode(answer.data, type=dict)
    except HTTPError as no:
        raise EnrollFailed(f"The manager cannot be reached: {no}") from no
    except msgspec.DecodeError as no:
        raise EnrollFailed(f"What answers at {url} is not a Leasehold manager.") from no


def _why(status: int, answer: dict[str, Any]) -> str:
    error = answer.get("error")
    if isinstance(error, dict) and "message" in error:
        return f"The manager refuses: {error['message']}"
    return f"The manager refuses with status {status}."


def _require_ours(certificate: str, ca: str, key: ec.EllipticCurvePrivateKey) -> None:
    try:
        own = x509.load_pem_x509_certificate(certificate.encode())
        own.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
    except (ValueError, TypeError, InvalidSignature) as no:
        raise EnrollFailed(
            "The certificate that came back is not signed by the CA that came with it."
        ) from no
    if own.public_key() != key.public_key():
        raise EnrollFailed(
            "The certificate that came back is for another key. Ask for a new token and try again."
        )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by more people than it should be."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
