"""The door to a host that has no agent yet: SSH, to a host whose key is proved. Only this module knows the library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import paramiko

logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what fails is said by `NoShell`, not by a traceback in the log
CONNECT_S, ANSWER_S = 10.0, 60.0
MOST_OUTPUT = 256 * 1024


class NoShell(Exception):
    """The host cannot be reached, is not the one that was meant, or does not let this user in; `str()` says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Login:
    """Whom to reach, who comes, and with what. The password is sudo's as well."""

    address: str
    port: int
    user: str
    fingerprint: str
    password: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)


class Said(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


def presented(address: str, port: int) -> str:
    """The fingerprint of the key that the host presents, as `ssh-keygen -l` prints it. Nothing is said to the host."""
    with _transport(address, port) as transport:
        return _fingerprint(transport.get_remote_server_key())


@contextmanager
def shell(login: Login, *, within_s: float = CONNECT_S) -> Iterator[Shell]:
    """A shell on the host, after it has proved its key; the password is not sent before. `within_s` is for each of: reach
    it, agree on keys, sign on."""
    with _transport(login.address, login.port, within_s) as transport:
        found = _fingerprint(transport.get_remote_server_key())
        if not hmac.compare_digest(found, login.fingerprint):
            raise NoShell(
                "wrong_host_key",
                f"The host at {login.address}:{login.port} presents the key {found}, not {login.fingerprint} as expected. "
                "Either it is another host, or its key was made anew: compare it at the host’s own console.",
            )
        _sign_on(transport, login)
        yield Shell(transport, login)


class Shell:
    """What can be done on a host over one connection."""

    def __init__(self, transport: paramiko.Transport, login: Login) -> None:
        self._transport, self._login = transport, login
        self._sudo: str | None = None if login.user != "root" else ""

    def run(self, command: str, stdin: bytes = b"", *, within_s: float = ANSWER_S) -> Said:
        """Run it as the user who signed on."""
        end = time.monotonic() + within_s
        try:
            channel = self._transport.open_session(timeout=CONNECT_S)
            channel.settimeout(within_s)
            channel.exec_command(command)
            channel.sendall(stdin)
            channel.shutdown_write()
            out, err = io.BytesIO(), io.BytesIO()
            while not channel.exit_status_ready() or channel.recv_ready() or channel.recv_stderr_ready():
                if not _take(channel, out, err):
                    time.sleep(0.02)
                if time.monotonic() > end:
                    where = self._login.address
                    raise NoShell("no_answer", f"The host at {where} did not end a command within {within_s:.0f} s.")
            while _take(channel, out, err):
                pass
            code = channel.recv_exit_status()
            channel.close()
        except (paramiko.SSHException, OSError, EOFError) as no:
            raise NoShell("connection_lost", f"The connection to {self._login.address} was lost: {_words(no)}.") from no
        return Said(code, _text(out), _text(err))

    def as_root(self, command: str, stdin: bytes = b"", *, within_s: float = ANSWER_S) -> Said:
        """Run it as root: this user is root, or may be by sudo."""
        if self._sudo is None:
            self._sudo = self._way_to_root()
        typed = f"{self._login.password}\n".encode() if "-S" in self._sudo else b""
        return self.run(self._sudo + command, typed + stdin, within_s=within_s)

    def _way_to_root(self) -> str:
        # -k: what was typed earlier does not count, so that it is certain who reads the first line of the input
        if self.run("sudo -k -n true").code == 0:
            return "sudo -k -n -- "
        asks = "sudo -k -S -p '' -- "
        if self._login.password and self.run(f"{asks}true", f"{self._login.password}\n".encode()).code == 0:
            return asks
        raise NoShell(
            "not_root",
            f"{self._login.user} may not become root on {self._login.address}: sign on as root, or as a user whom sudo "
            "lets run every command, without a password or with the one given.",
        )


@contextmanager
def _transport(address: str, port: int, within_s: float = CONNECT_S) -> Iterator[paramiko.Transport]:
    where = f"{address}:{port}"
    try:
        connection = socket.create_connection((address, port), timeout=within_s)
    except OSError as no:
        raise NoShell("unreachable", f"No SSH server answers at {where}: {_words(no)}.") from no
    with connection:
        try:
            transport = paramiko.Transport(connection)
            transport.auth_timeout = transport.banner_timeout = within_s
            transport.start_client(timeout=within_s)
            transport.get_remote_server_key()  # it says nothing of its own of a time that is over
        except (paramiko.SSHException, OSError, EOFError) as no:
            raise NoShell("unreachable", f"What answers at {where} is no SSH server that can be talked to: {_words(no)}.") from no
        try:
            yield transport
        finally:
            transport.close()


def _sign_on(transport: paramiko.Transport, login: Login) -> None:
    try:
        if login.private_key:
            transport.auth_publickey(login.user, private_key(login.private_key))
        else:
            transport.auth_password(login.user, login.password)
    except paramiko.AuthenticationException as no:
        what = "this private key" if login.private_key else "this password"
        raise NoShell("not_let_in", f"{login.address} does not let {login.user} in with {what}.") from no
    except (paramiko.SSHException, OSError, EOFError) as no:
        raise NoShell("connection_lost", f"The connection to {login.address} was lost: {_words(no)}.") from no
    if not transport.is_authenticated():
        raise NoShell("not_let_in", f"{login.address} wants more of {login.user} than a password or a key: use another user.")


def private_key(text: str) -> paramiko.PKey:
    """The private key in this text; `NoShell` for one that cannot be used."""
    lines = "\n".join(text.strip().splitlines()) + "\n"  # browsers end lines otherwise
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(lines))
        except paramiko.PasswordRequiredException as no:
            raise NoShell("bad_key", "The private key is locked by a passphrase: give one without.") from no
        except (paramiko.SSHException, ValueError):
            continue
    raise NoShell("bad_key", "This is no private key: paste an Ed25519, ECDSA or RSA key as ssh-keygen writes it.")


def _take(channel: paramiko.Channel, out: io.BytesIO, err: io.BytesIO) -> bool:
    taken = False
    for ready, receive, into in ((channel.recv_ready, channel.recv, out), (channel.recv_stderr_ready, channel.recv_stderr, err)):
        if ready():
            taken = True
            piece = receive(32768)
            if into.tell() < MOST_OUTPUT:
                into.write(piece)
    return taken


def _fingerprint(key: paramiko.PKey) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def _text(what: io.BytesIO) -> str:
    return what.getvalue().decode(errors="replace")


def _words(no: Exception) -> str:
    return (getattr(no, "strerror", None) or str(no) or type(no).__name__).rstrip(".")
