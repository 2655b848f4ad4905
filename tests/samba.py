"""A real Active Directory domain for tests: a Samba domain controller on loopback addresses of its own.

It is provisioned in a private folder, runs its LDAP service alone, and listens on two addresses of 127/8 that
nobody else uses, so that any number of them live side by side without namespaces. Needs root (port 389) and
Debian's samba, samba-ad-provision and samba-dsdb-modules.
"""

from __future__ import annotations

import ipaddress
import os
import random
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ldap3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ldap3.utils.dn import escape_rdn

NORMAL, DISABLED = 0x200, 0x202  # userAccountControl
YESTERDAY = str(int((datetime.now(UTC) - timedelta(days=1) - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds()) * 10**7)
CONF = """[global]
    realm = {realm}
    workgroup = {netbios}
    netbios name = DC1
    server role = active directory domain controller
    server services = ldap
    interfaces = {address}/8 {other}/8
    bind interfaces only = yes
    disable netbios = yes
    private dir = {folder}/private
    state directory = {folder}/state
    cache directory = {folder}/cache
    lock directory = {folder}/lock
    pid directory = {folder}/run
    ncalrpc dir = {folder}/run/ncalrpc
    winbindd socket directory = {folder}/run/winbindd
    ntp signd socket directory = {folder}/run/ntp
    binddns dir = {folder}/bind-dns
    tls enabled = yes
    tls keyfile = {folder}/tls.key
    tls certfile = {folder}/tls.crt
    tls cafile = {folder}/ca.crt
    ldap server require strong auth = yes
"""


class SambaDomain:
    """`start()` makes the domain at its first call and runs the controller; `stop()` stops it and keeps the domain.

    `servers` is how it is reached by LDAPS, `starttls_servers` by StartTLS; `misnamed` is the same controller at an
    address that is not in its certificate, and at `dead` nobody listens. `bind_user` and `bind_password` are the
    service account's.
    """

    def __init__(self, folder: Path, realm: str = "corp.example", netbios: str = "CORP") -> None:
        self.folder, self.realm, self.netbios = Path(folder), realm, netbios
        self.base = ",".join(f"DC={part}" for part in realm.split("."))
        self.admin_password = "Adm1n-Pass-word"
        self.bind_user, self.bind_password = f"reader@{realm}", "Read-0nly-please"
        self.address, self.other = _free_pair()
        self.servers, self.starttls_servers = (f"ldaps://{self.address}",), (f"ldap://{self.address}",)
        self.misnamed, self.dead = f"ldaps://{self.other}", f"ldaps://{self.address}:1"
        self.ca_pem, _ = certificates(self.folder, f"dc1.{realm}", self.address)
        self._conf = self.folder / "smb.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: Any = None

    # -- the controller --------------------------------------------------------------------------
    def start(self, model: str = "single") -> SambaDomain:
        """Run the controller until it answers. `model` is Samba's: single, or prefork for many clients at once."""
        new = not self._conf.exists()
        if new:
            self._provision()
        with open(self.folder / "samba.log", "ab") as log:
            self._process = subprocess.Popen(
                ["samba", "-i", "-M", model, f"--configfile={self._conf}", "--debug-stdout"],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)  # it ends when our end of the pipe does
        self._wait()
        if new:
            self.add_user("reader", self.bind_password)
        return self

    def stop(self) -> None:
        """Stop the controller. `start` runs it again, with all its people."""
        if self._admin is not None:
            self._admin.socket.close()
            self._admin = None
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def log(self) -> str:
        """What Samba said."""
        return (self.folder / "samba.log").read_text(errors="replace")

    # -- its people ------------------------------------------------------------------------------
    def add_user(
        self, account: str, password: str, *, cn: str = "", upn: str = "", given: str = "", surname: str = "",
        groups: Sequence[str] = (), disabled: bool = False, must_change: bool = False, **attributes: str,
    ) -> str:
        """Add a person, by default with the UPN account@realm, to these groups (DNs); answers their DN."""
        dn = f"CN={escape_rdn(cn or account)},CN=Users,{self.base}"
        upn = upn or f"{account}@{self.realm}"
        wanted = {"sAMAccountName": account, "userPrincipalName": upn, "givenName": given, "sn": surname,
                  "displayName": f"{given} {surname}".strip(), "mail": upn, "userAccountControl": str(DISABLED), **attributes}
        self._do("add", dn, ["top", "person", "organizationalPerson", "user"], {k: v for k, v in wanted.items() if v})
        self.modify(dn, unicodePwd=f'"{password}"'.encode("utf-16-le"))
        if not disabled:
            self.modify(dn, userAccountControl=str(NORMAL))
        if must_change:
            self.modify(dn, pwdLastSet="0")
        for group in groups:
            self.join(group, dn)
        return dn

    def add_group(self, cn: str, account: str = "", *members: str) -> str:
        """Add a security group of these people or groups (DNs); answers its DN."""
        dn = f"CN={escape_rdn(cn)},CN=Users,{self.base}"
        self._do("add", dn, ["top", "group"], {"sAMAccountName": account or cn, "groupType": "-2147483646"})
        for member in members:
            self.join(dn, member)
        return dn

    def join(self, group: str, member: str) -> None:
        """Make the second one (a DN) a member of the first."""
        self._do("modify", group, {"member": [(ldap3.MODIFY_ADD, [member])]})

    def leave(self, group: str, member: str) -> None:
        """Take the second one out of the first."""
        self._do("modify", group, {"member": [(ldap3.MODIFY_DELETE, [member])]})

    def modify(self, dn: str, **attributes: str | bytes) -> None:
        """Set attributes of anything."""
        self._do("modify", dn, {k: [(ldap3.MODIFY_REPLACE, [v])] for k, v in attributes.items()})

    def delete(self, dn: str) -> None:
        """Remove a person or group."""
        self._do("delete", dn)

    def lock_after(self, failures: int) -> None:
        """Lock accounts for half an hour after so many wrong passwords; 0 switches that off."""
        length = str(-30 * 60 * 10**7)
        self.modify(self.base, lockoutThreshold=str(failures), lockoutDuration=length, lockOutObservationWindow=length)

    def add_upn_suffix(self, suffix: str) -> None:
        """Let people's names end in another suffix than the domain's name."""
        self._do("modify", f"CN=Partitions,CN=Configuration,{self.base}", {"uPNSuffixes": [(ldap3.MODIFY_ADD, [suffix])]})

    # -- how -------------------------------------------------------------------------------------
    def _do(self, what: str, dn: str, *args: Any) -> None:
        if self._admin is None:
            trust = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_data=self.ca_pem)
            server = ldap3.Server(self.address, 636, use_ssl=True, tls=trust, get_info=ldap3.NONE, connect_timeout=10)
            self._admin = ldap3.Connection(server, f"Administrator@{self.realm}", self.admin_password, raise_exceptions=True,
                                           auto_bind=ldap3.AUTO_BIND_NO_TLS, check_names=False)
        getattr(self._admin, what)(dn, *args)

    def _provision(self) -> None:
        empty = self.folder / "none.conf"  # not this machine's own /etc/samba/smb.conf
        empty.touch()
        done = subprocess.run(
            ["samba-tool", "domain", "provision", f"--configfile={empty}", f"--targetdir={self.folder}", "--server-role=dc",
             f"--realm={self.realm.upper()}", f"--domain={self.netbios}", f"--adminpass={self.admin_password}",
             "--dns-backend=NONE", "--host-name=dc1", f"--host-ip={self.address}", f"--option=interfaces={self.address}/8"],
            capture_output=True, text=True, cwd=self.folder)
        if done.returncode:
            raise RuntimeError(f"samba-tool domain provision failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        for name in ("run", "lock", "cache"):
            (self.folder / name).mkdir(exist_ok=True)
        self._conf.write_text(CONF.format(realm=self.realm.upper(), netbios=self.netbios, address=self.address,
                                          other=self.other, folder=self.folder))

    def _wait(self, limit_s: float = 120) -> None:
        """Until the controller answers a TLS handshake, or has ended instead."""
        context = ssl.create_default_context(cadata=self.ca_pem)
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection((self.address, 636), 5) as plain:
                with context.wrap_socket(plain, server_hostname=self.address):
                    return
            if self._process is None or self._process.poll() is not None:
                break
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"The domain controller does not answer:\n{self.log()[-4000:]}")


def _free_pair() -> tuple[str, str]:
    """Two neighboring loopback addresses on whose LDAP ports nobody listens."""
    for _ in range(100):
        first = ipaddress.IPv4Address("127.16.0.2") + 2 * random.randrange(6_000_000)
        pair = str(first), str(first + 1)
        if all(_is_free(address, port) for address in pair for port in (389, 636, 3268, 3269)):
            return pair
    raise RuntimeError("No free loopback address was found for a domain controller.")


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except PermissionError as e:
            raise RuntimeError("A domain controller needs port 389: run as root.") from e
        except OSError:
            return False
    return True


def certificates(folder: Path, name: str, address: str) -> tuple[str, str]:
    """Make a CA and the controller's key and certificate in the folder; answers both certificates as PEM."""
    now = datetime.now(UTC)

    def made(subject: str, issuer: str, key: Any, signer: Any, *extensions: tuple[Any, bool]) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder().serial_number(x509.random_serial_number())
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30)).public_key(key.public_key())
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = made("Test domain CA", "Test domain CA", ca_key, ca_key, (x509.BasicConstraints(True, 0), True),
              (x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False))
    own = made(name, "Test domain CA", key, ca_key, (x509.BasicConstraints(False, None), True),
               (x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]), False),
               (x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False))
    pem = serialization.Encoding.PEM
    ca_pem, own_pem = ca.public_bytes(pem).decode(), own.public_bytes(pem).decode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.crt").write_text(ca_pem)
    (folder / "tls.crt").write_text(own_pem)
    secret = folder / "tls.key"
    secret.touch(mode=0o600)
    secret.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()))
    return ca_pem, own_pem
