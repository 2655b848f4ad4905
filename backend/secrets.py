"""Everything derived from the manager's one key: ticket tokens, display passwords, sealed text."""

from __future__ import annotations

import base64
import hashlib
import hmac
from uuid import UUID

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Keyring:
    """Derives secrets by name from one key, so that no row has to hold them."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def derive(self, purpose: str, length: int = 32) -> bytes:
        """`length` bytes for this purpose (HKDF-SHA256, RFC 5869)."""
        return HKDF(hashes.SHA256(), length, salt=None, info=purpose.encode()).derive(self._key)

    def mac(self, purpose: str, message: bytes) -> bytes:
        """HMAC-SHA256 of the message under the key for this purpose."""
        return hmac.new(self.derive(purpose), message, hashlib.sha256).digest()

    def reveal(self, name: str) -> str:
        """The secret of this name, for a `hostapi.types.Secret` about to cross the wire.

        `sealed:<text>` is what `seal` was given. `display:<ticket id>` is a display password of 8 characters: VNC counts
        no more (RFC 6143, 7.2.2)."""
        if name.startswith("sealed:"):
            return self.unseal(name.removeprefix("sealed:"))
        return base64.b32encode(self.mac("reveal", name.encode())).decode()[:8]

    def display_password(self, ticket_id: UUID) -> str:
        """The password a VM's display is given for this ticket."""
        return self.reveal(f"display:{ticket_id}")

    def seal(self, text: str) -> str:
        """Encrypt a secret that must be stored (a directory's service password)."""
        return self._fernet().encrypt(text.encode()).decode()

    def unseal(self, sealed: str) -> str:
        """The text that `seal` was given."""
        return self._fernet().decrypt(sealed.encode()).decode()

    def _fernet(self) -> Fernet:
        return Fernet(base64.urlsafe_b64encode(self.derive("seal")))
