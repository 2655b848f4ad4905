"""A throw-away certificate authority for tests: certificates whose OU says manager, gateway or host."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Certificate(NamedTuple):
    """Three files, in the order that `client_context` and `server_context` take them."""

    ca_file: Path
    cert_file: Path
    key_file: Path


def a_request() -> str:
    """A host's signing request with a new key, as PEM text."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


class Pki:
    """One CA in a folder; certificates are good for 127.0.0.1, localhost and a host of any id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Leasehold test CA")])
        self.certificate = self._sign(self.name, self.key.public_key(), ca=True)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, role: str, name: str = "here") -> Certificate:
        """A key and a certificate for this role."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role), x509.NameAttribute(NameOID.COMMON_NAME, name),
        ])
        certificate = self._sign(subject, key.public_key(), ca=False)
        cert_file, key_file = self.folder / f"{role}-{name}.pem", self.folder / f"{role}-{name}-key.pem"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        key_file.chmod(0o600)
        return Certificate(self.ca_file, cert_file, key_file)

    def sign_request(self, pem: bytes, role: str, address: str) -> bytes:
        """What the manager does with a host's CSR: the key is the host's, the subject is ours."""
        request = x509.load_pem_x509_csr(pem)
        assert request.is_signature_valid
        subject = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role), x509.NameAttribute(NameOID.COMMON_NAME, address),
        ])
        signed = self._sign(subject, request.public_key(), ca=False)
        return signed.public_bytes(serialization.Encoding.PEM)

    def _sign(self, subject: x509.Name, public_key: object, *, ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public_key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            names = [
                x509.DNSName("localhost"), x509.DNSName("*.host.leasehold"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())
