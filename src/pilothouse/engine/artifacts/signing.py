"""Signed addresses of artifacts: they carry who may use them for what and until when, and no token.

A signature is bound to one use of one artifact by one user or agent, and whoever that is must still have the right
when the address is used. The address of an agent also needs that agent's own token.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlencode

from pilothouse.access.errors import AuthError
from pilothouse.storage.keyring import Key, Keyring, derived

TTL_MS = 15 * 60 * 1000
"""An address can be used for so long."""

Use = Literal["upload", "download"]
_PATHS: dict[Use, str] = {"upload": "parts", "download": "signed"}


class UrlSigner:
    """Signs with the server's key; signatures of former keys are accepted until they expire."""

    def __init__(self, keyring: Keyring, clock: Callable[[], int]) -> None:
        self._keyring = keyring
        self._clock = clock

    def path(self, use: Use, artifact_id: str, subject: str) -> str:
        """The signed address, without the server's; ``subject``: ``user/<id>`` or ``agent/<id>``."""
        expires = (self._clock() + TTL_MS) // 1000
        signature = _signature(self._keyring.current, use, artifact_id, subject, expires)
        query = urlencode({"by": subject, "expires": expires, "signature": signature})
        return f"/api/v1/artifacts/{artifact_id}/{_PATHS[use]}?{query}"

    def check(self, use: Use, artifact_id: str, subject: str, expires: int, signature: str) -> None:
        """Raises :class:`AuthError` ``AUTH_TOKEN_INVALID``, ``AUTH_TOKEN_EXPIRED``."""
        given = signature.encode("utf-8", "replace")
        wanted = [_signature(key, use, artifact_id, subject, expires) for key in self._keyring.keys]
        if not any(hmac.compare_digest(given, each.encode()) for each in wanted):
            raise AuthError("AUTH_TOKEN_INVALID", "The signature of this address is not valid")
        if expires * 1000 <= self._clock():
            raise AuthError("AUTH_TOKEN_EXPIRED", "This address has expired; ask for a new one")


def _signature(key: Key, use: Use, artifact_id: str, subject: str, expires: int) -> str:
    signed = "\n".join((use, artifact_id, subject, str(expires))).encode("utf-8", "surrogatepass")
    return hmac.digest(derived(key.root, "artifact addresses"), signed, "sha256").hex()
