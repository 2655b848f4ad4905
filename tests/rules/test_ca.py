"""The certificate authority: what it signs is believed for its role and nothing else."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from backend.ca import Authority
from backend.errors import Invalid

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def request(key: object, name: str = "evil") -> str:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "manager")]
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())  # type: ignore[arg-type]
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def test_of_a_request_only_the_key_is_believed() -> None:
    authority, key = Authority.create(NOW), ec.generate_private_key(ec.SECP256R1())
    pem = authority.sign_request(request(key), "alpha", "host", ["alpha", "192.0.2.7"], NOW)
    signed = x509.load_pem_x509_certificate(pem.encode())
    signed.verify_directly_issued_by(authority.certificate)
    assert signed.public_key() == key.public_key()
    said = {a.oid: a.value for a in signed.subject}
    assert said[NameOID.COMMON_NAME] == "alpha" and said[NameOID.ORGANIZATIONAL_UNIT_NAME] == "host"
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
        Authority.create(NOW).sign_request(csr, "alpha", "host", ["alpha"], NOW)


def test_it_survives_its_files_and_the_key_is_private(tmp_path: Path) -> None:
    made = Authority.create(NOW)
    made.save(tmp_path / "ca.pem", tmp_path / "ca.key")
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    again = Authority.load(tmp_path / "ca.pem", tmp_path / "ca.key")
    x509.load_pem_x509_certificate(again.issue("g", "gateway", ["localhost"], NOW)[1].encode()).verify_directly_issued_by(
        made.certificate
    )
