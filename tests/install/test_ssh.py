"""The door to hosts without an agent, on a real SSH server: proves the host first, and says why it does not get in."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from backend.hosts.ssh import Login, NoShell, presented, private_key, shell
from tests.sshd import PASSWORD, SUDOER, USER, Sshd

OTHER = "SHA256:" + "A" * 43


def root(server: Sshd) -> Login:
    return Login("127.0.0.1", server.port, "root", server.fingerprint, private_key=server.root_key)


def person(server: Sshd) -> Login:
    return Login("127.0.0.1", server.port, USER, server.fingerprint, password=PASSWORD)


def no(login: Login) -> NoShell:
    with pytest.raises(NoShell) as refused, shell(login):
        pass
    assert PASSWORD not in str(refused.value) and PASSWORD not in repr(login) and "PRIVATE" not in repr(login)
    return refused.value


def test_it_shows_the_key_that_the_host_presents(server: Sshd) -> None:
    assert presented("127.0.0.1", server.port) == server.fingerprint


def test_another_key_is_refused_before_anything_is_said(server: Sshd) -> None:
    refused = no(replace(person(server), fingerprint=OTHER))
    assert refused.code == "wrong_host_key" and OTHER in str(refused) and server.fingerprint in str(refused)


def test_who_is_not_let_in(server: Sshd) -> None:
    assert no(replace(person(server), password="wrong")).code == "not_let_in"
    assert no(replace(root(server), user=USER, private_key="rubbish")).code == "bad_key"


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused = no(Login("127.0.0.1", free.getsockname()[1], "root", OTHER, password=PASSWORD))
    assert refused.code == "unreachable" and "127.0.0.1" in str(refused)


def test_something_else_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def hang_up() -> None:
            connection, _ = other.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(NoShell) as refused:
            presented("127.0.0.1", port)
        thread.join(30)
    assert refused.value.code == "unreachable"


def test_root_runs_commands_and_hands_files_over(server: Sshd) -> None:
    with shell(root(server)) as host:
        assert host.as_root("id -u").out == "0\n"
        content = bytes(range(256)) * 4096
        said = host.as_root("cat | wc -c; echo no >&2; exit 3", content)
        assert (said.code, said.out.strip(), said.err) == (3, str(len(content)), "no\n")


def test_a_user_who_may_not_become_root(server: Sshd) -> None:
    with shell(person(server)) as host:
        assert host.run("id -un").out == f"{USER}\n"
        with pytest.raises(NoShell) as refused:
            host.as_root("id -u")
    assert refused.value.code == "not_root" and PASSWORD not in str(refused.value)


def test_a_user_who_becomes_root_with_the_password(server: Sshd) -> None:
    with shell(replace(person(server), user=SUDOER)) as host:
        assert host.as_root("sh -s", b"id -u; cat", within_s=120).out == "0\n"
        assert host.as_root("cat", b"the first line\nthe second\n").out == "the first line\nthe second\n"


def written(key: Any, locked: bytes = b"") -> str:
    lock = serialization.BestAvailableEncryption(locked) if locked else serialization.NoEncryption()
    return str(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, lock).decode())


def test_keys() -> None:
    assert private_key(written(ed25519.Ed25519PrivateKey.generate()).replace("\n", "\r\n")).get_name() == "ssh-ed25519"
    assert private_key(written(ec.generate_private_key(ec.SECP256R1()))).get_name() == "ecdsa-sha2-nistp256"
    assert private_key(written(rsa.generate_private_key(65537, 2048))).get_name() == "ssh-rsa"
    for wrong, word in (("", "no private key"), ("ssh-ed25519 AAAA", "no private key"),
                        (written(ed25519.Ed25519PrivateKey.generate(), b"locked"), "passphrase")):
        with pytest.raises(NoShell, match=word):
            private_key(wrong)
