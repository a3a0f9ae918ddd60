"""The authentication hook of the edge, implemented by identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from sqlalchemy import Connection

from pilothouse.access.model import Principal

End = Literal["expired", "revoked"]


class Authorization(Protocol):
    """A live view of a caller's rights while a stream is open. Lives on the event loop; must be closed."""

    reason: End | None
    """The reason why the caller's token is no longer valid, if so."""

    @property
    def principal(self) -> Principal:
        """The caller with their current role and projects."""

    def sees(self, scope: str) -> bool:
        """Whether the caller may currently see entries of this scope."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back within 5 s of the token's expiry or revocation; immediately if it is already invalid."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back when the caller's role or projects have changed; one callback per authorization."""

    def close(self) -> None:
        """Stop all callbacks; the stream has ended."""


class Authentication(Protocol):
    """Identifies callers by their tokens."""

    async def authenticate(self, token: str, address: str = "", request_id: str = "") -> Principal:
        """The principal of this token; address and request id are for the audit trail.

        Raises ``AUTH_TOKEN_MISSING``, ``AUTH_TOKEN_INVALID`` or ``AUTH_TOKEN_EXPIRED``.
        """

    def current(self, conn: Connection, principal: Principal, now: int) -> Principal:
        """The principal with the rights that it has in this transaction. Raises ``AUTH_TOKEN_INVALID`` or
        ``AUTH_TOKEN_EXPIRED``."""

    def authorize(self, principal: Principal) -> Authorization:
        """A live view of this caller's rights while a stream is open."""
