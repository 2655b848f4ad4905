"""The certificate authority: what it signs is believed for its role and nothing else."""

from __future__ import annotations

import ipaddress
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from backend.ca import Authority, keep_hosts_authority, key_of_request
from backend.errors import Invalid

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def request(key: object, name: str = "evil") -> str:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "manager")]
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())  # type: ignore[arg-type]
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def test_of_a_request_only_the_key_is_believed() -> None:
    authority, key, id = Authority.for_hosts(NOW), ec.generate_private_key(ec.SECP256R1()), uuid4()
    pem = authority.sign_host(key_of_request(request(key)), id, "alpha", NOW)
    signed = x509.load_pem_x509_certificate(pem.encode())
    signed.verify_directly_issued_by(authority.certificate)
    assert signed.public_key() == key.public_key()
    said = {a.oid: a.value for a in signed.subject}
    assert said[NameOID.COMMON_NAME] == "alpha" and said[NameOID.ORGANIZATIONAL_UNIT_NAME] == "host"
    names = signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(f"{id}.host.leasehold")]
    assert not signed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


BAD = {
    "empty": "",
    "garbled": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    "rsa": request(rsa.generate_private_key(65537, 2048)),
    "another curve": request(ec.generate_private_key(ec.SECP521R1())),
}


@pytest.mark.parametrize("csr", BAD.values(), ids=BAD)
def test_a_bad_request_is_refused_in_words(csr: str) -> None:
    with pytest.raises(Invalid):
        key_of_request(csr)


def test_it_survives_its_files_and_the_key_is_private(tmp_path: Path) -> None:
    made = Authority.create(NOW)
    made.save(tmp_path / "ca.pem", tmp_path / "ca.key")
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    again = Authority.load(tmp_path / "ca.pem", tmp_path / "ca.key")
    x509.load_pem_x509_certificate(again.issue("g", "gateway", ["localhost"], NOW)[1].encode()).verify_directly_issued_by(
        made.certificate
    )


def test_who_trusts_the_hosts_ca_by_mistake_takes_no_web_name_from_it() -> None:
    authority = Authority.for_hosts(NOW)
    store = Store([authority.certificate])

    def believed(names: list[str], wanted: x509.GeneralName) -> bool:
        _, pem = authority.issue("evil", "host", names, NOW)
        verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(wanted)  # type: ignore[arg-type]
        try:
            verifier.verify(x509.load_pem_x509_certificate(pem.encode()), [])
        except VerificationError:
            return False
        return True

    assert not believed(["portal.example.com"], x509.DNSName("portal.example.com"))
    assert not believed(["192.0.2.7"], x509.IPAddress(ipaddress.ip_address("192.0.2.7")))


def test_a_host_certificate_is_due_when_it_is_anothers_misnamed_or_old() -> None:
    authority, other, id = Authority.for_hosts(NOW), Authority.create(NOW), uuid4()
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    good = authority.sign_host(key, id, "alpha", NOW)
    assert not authority.is_due(good, id, NOW)
    assert authority.is_due(good, uuid4(), NOW)
    assert authority.is_due(good, id, NOW + timedelta(days=300))
    assert authority.is_due(authority.sign(key, "alpha", "host", ["alpha", "192.0.2.7"], NOW), id, NOW)
    assert authority.is_due(other.sign_host(key, id, "alpha", NOW), id, NOW)


def test_the_hosts_ca_of_a_folder_is_made_once(tmp_path: Path) -> None:
    first, again = keep_hosts_authority(tmp_path, NOW), keep_hosts_authority(tmp_path, NOW)
    assert first.certificate == again.certificate
    for role in ("manager", "gateway"):
        certificate = x509.load_pem_x509_certificate((tmp_path / f"{role}.pem").read_bytes())
        certificate.verify_directly_issued_by(first.certificate)
        assert stat.S_IMODE((tmp_path / f"{role}-key.pem").stat().st_mode) == 0o600
