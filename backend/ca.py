"""The manager's certificate authority: signs hosts, and the processes on its own side."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from backend.errors import Invalid

CA_DAYS, LEAF_DAYS = 3650, 398  # browsers refuse longer leaves
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Authority:
    """The CA's certificate and key. `sign` answers PEM text."""

    certificate: x509.Certificate
    key: Key

    @classmethod
    def create(cls, now: datetime, name: str = "Leasehold CA") -> Authority:
        """A new CA with a P-256 key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name, "ca")
        certificate = (
            _builder(subject, subject, key.public_key(), now, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate_file: str | Path, key_file: str | Path) -> Authority:
        """The CA from its two files."""
        key = serialization.load_pem_private_key(Path(key_file).read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(x509.load_pem_x509_certificate(Path(certificate_file).read_bytes()), key)

    def save(self, certificate_file: Path, key_file: Path) -> None:
        """Write both files; the key for its owner alone."""
        certificate_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        write_private(key_file, pem_of(self.key))

    def pem(self) -> str:
        """The CA's certificate as PEM text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, public_key: ec.EllipticCurvePublicKey, name: str, role: str, names: Sequence[str], now: datetime) -> str:
        """A certificate for this key: CN=`name`, OU=`role` (manager, gateway, web, host), good as server and client."""
        certificate = (
            _builder(_subject(name, role), self.certificate.subject, public_key, now, LEAF_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def sign_request(self, csr_pem: str, name: str, role: str, names: Sequence[str], now: datetime) -> str:
        """A certificate for the key of a signing request; of the request, only its key is believed."""
        return self.sign(key_of_request(csr_pem), name, role, names, now)

    def issue(self, name: str, role: str, names: Sequence[str], now: datetime) -> tuple[str, str]:
        """A new key and its certificate, both PEM text."""
        key = ec.generate_private_key(ec.SECP256R1())
        return pem_of(key).decode(), self.sign(key.public_key(), name, role, names, now)


def key_of_request(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request; `Invalid` when it is none, is not signed by its key, or is no P-256 key."""
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
    except ValueError:
        raise Invalid("bad_csr", "This is no certificate signing request in PEM form.", fields=["csr"]) from None
    key = csr.public_key()
    if not csr.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise Invalid("bad_csr", "The signing request must carry a P-256 key and be signed by it.", fields=["csr"])
    return key


def pem_of(key: Key) -> bytes:
    """The private key as PEM."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read, from its first byte on."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(content)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
    )


def _subject(name: str, role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Leasehold"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
