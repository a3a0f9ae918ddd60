"""What the edge asks of whoever knows the users: the authentication hook, which identity implements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from pilothouse.access.model import Principal

End = Literal["expired", "revoked"]


class Authorization(Protocol):
    """A live view of one caller's rights while a stream is open. Lives on the event loop; always closed with it."""

    reason: End | None
    """Why the caller's token is no longer valid, once it is not."""

    @property
    def principal(self) -> Principal:
        """The caller, with role and projects as of now."""

    def sees(self, scope: str) -> bool:
        """Whether entries of this scope may still be shown to the caller."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back within 5 s of the token's expiry or revocation; at once if that is past."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever the caller's role or projects have changed; one callback per authorization."""

    def close(self) -> None:
        """The stream has ended: no more callbacks."""


class Authentication(Protocol):
    """Recognizes callers by their tokens."""

    async def authenticate(self, token: str, address: str = "", request_id: str = "") -> Principal:
        """Whose token this is; address and request id are kept for the audit trail.

        Raises ``AUTH_TOKEN_MISSING``, ``AUTH_TOKEN_INVALID`` or ``AUTH_TOKEN_EXPIRED``.
        """

    def authorize(self, principal: Principal) -> Authorization:
        """Follow the rights of this caller while a stream is open."""
