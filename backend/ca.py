"""Certificate authorities: one signs hosts and who may talk to them, another one what browsers and viewers are shown.

They are two on purpose: people trust the second, and nothing that a host asks for may ever be signed by it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from backend.errors import Invalid
from hostapi.tls import DOMAIN, host_name

CA_DAYS, LEAF_DAYS = 3650, 398  # browsers refuse longer leaves
RENEW_DAYS = 133  # a host's certificate with less than a third of its life left is renewed
HOSTS_CA, HOSTS_CA_KEY = "hosts-ca.pem", "hosts-ca-key.pem"
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Authority:
    """The CA's certificate and key. `sign` answers PEM text."""

    certificate: x509.Certificate
    key: Key

    @classmethod
    def create(cls, now: datetime, name: str = "Leasehold CA", *, only: str = "") -> Authority:
        """A new CA with a P-256 key; `only` the domain that it may sign names of, when it is to be held to one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name, "ca")
        builder = (
            _builder(subject, subject, key.public_key(), now, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if only:  # an address stands for no domain: all of them are shut out
            nowhere = [x509.IPAddress(ipaddress.ip_network(every)) for every in ("0.0.0.0/0", "::/0")]
            builder = builder.add_extension(x509.NameConstraints([x509.DNSName(only)], nowhere), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def for_hosts(cls, now: datetime) -> Authority:
        """A new CA for hosts, managers and gateways; a browser that trusted it by mistake would take no web name from it."""
        return cls.create(now, "Leasehold hosts CA", only=DOMAIN)

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

    def sign_host(self, public_key: ec.EllipticCurvePublicKey, host_id: UUID, name: str, now: datetime) -> str:
        """A host's certificate. Its names are made from its id alone: nothing that an agent says gets into it."""
        return self.sign(public_key, name[:64], "host", [host_name(host_id)], now)

    def is_due(self, certificate_pem: str, host_id: UUID, now: datetime) -> bool:
        """Whether this host's certificate must be replaced: it is another CA's, has another name, or ends soon."""
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return True
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if names.get_values_for_type(x509.DNSName) != [host_name(host_id)]:
            return True
        return certificate.not_valid_after_utc - now < timedelta(days=RENEW_DAYS)

    def issue(self, name: str, role: str, names: Sequence[str], now: datetime) -> tuple[str, str]:
        """A new key and its certificate, both PEM text."""
        key = ec.generate_private_key(ec.SECP256R1())
        return pem_of(key).decode(), self.sign(key.public_key(), name, role, names, now)


def keep_hosts_authority(folder: Path, now: datetime) -> Authority:
    """The hosts' CA of this folder, made when it is not there yet, and fresh certificates of it for manager, gateway, portal."""
    ca_file, key_file = folder / HOSTS_CA, folder / HOSTS_CA_KEY
    if not key_file.exists():
        Authority.for_hosts(now).save(ca_file, key_file)
    authority = Authority.load(ca_file, key_file)
    for role in ("manager", "gateway", "portal"):
        key, certificate = authority.issue(role, role, [f"{role}.{DOMAIN}"], now)
        write_private(folder / f"{role}-key.pem", key.encode())
        (folder / f"{role}.pem").write_text(certificate)
    return authority


def key_of_certificate(certificate_pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate that we have signed."""
    key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


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
