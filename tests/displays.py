"""Just enough VNC and SPICE to see whether a display lets somebody in with a password."""

from __future__ import annotations

import socket
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.serialization import load_der_public_key

try:
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
except ImportError:  # older releases
    from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES


def vnc_lets_in(sock: socket.socket, password: str) -> bool:
    """RFC 6143, 7.1 and 7.2.2: whether VNC authentication with this password succeeds."""
    version = _exactly(sock, 12)
    sock.sendall(version)
    kinds = _exactly(sock, _exactly(sock, 1)[0])
    assert 2 in kinds, f"no VNC authentication offered: {kinds!r}"
    sock.sendall(b"\x02")
    challenge = _exactly(sock, 16)
    # DES takes each byte of the password with its bits in reverse order.
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
    sock.sendall(encryptor.update(challenge) + encryptor.finalize())
    return _exactly(sock, 4) == b"\0\0\0\0"


def spice_lets_in(sock: socket.socket, password: str) -> bool:
    """SPICE's link message on the main channel: whether this ticket is accepted."""
    capabilities = struct.pack("<II", 0b1011, 0)  # AuthSelection, AuthSpice, MiniHeader; no channel capabilities
    message = struct.pack("<IBBIII", 0, 1, 0, 1, 1, 18) + capabilities
    sock.sendall(b"REDQ" + struct.pack("<III", 2, 2, len(message)) + message)
    assert _exactly(sock, 4) == b"REDQ"
    size = struct.unpack("<III", _exactly(sock, 12))[2]
    reply = _exactly(sock, size)
    assert struct.unpack("<I", reply[:4])[0] == 0, "the link was refused"
    key = load_der_public_key(reply[4:166])
    assert isinstance(key, rsa.RSAPublicKey)
    sha1 = hashes.SHA1()
    sock.sendall(struct.pack("<I", 1))
    sock.sendall(key.encrypt(password.encode() + b"\0", padding.OAEP(padding.MGF1(sha1), sha1, None)))
    return _exactly(sock, 4) == b"\0\0\0\0"


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise EOFError(f"closed after {len(data)} of {count} bytes")
        data += part
    return data
