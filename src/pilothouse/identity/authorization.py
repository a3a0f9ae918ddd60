"""Live rights of open streams: the current principal, and callbacks when its rights change or end.

A :class:`Grant` is the cached state of one token; all requests and open streams of the token share it, so
that a change of role or projects takes effect everywhere immediately.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from pilothouse.access.model import Principal, Role, narrower
from pilothouse.edge.authentication import End

log = structlog.get_logger("identity.authorization")


class Grant:
    """A verified token: its principal as of ``checked_at`` (ms), and the open streams that use it.

    ``stored``: whether it can be looked up in the database by its id (not the token of an agent).
    """

    __slots__ = ("authorizations", "checked_at", "principal", "stored", "token_role")

    def __init__(self, principal: Principal, token_role: Role | None, stored: bool, checked_at: int) -> None:
        self.principal = principal
        self.token_role = token_role
        self.stored = stored
        self.checked_at = checked_at
        self.authorizations: set[TokenAuthorization] = set()

    def adopt(self, role: Role, projects: frozenset[str]) -> None:
        """Apply a changed role or memberships of the user."""
        self.principal = replace(self.principal, role=narrower(role, self.token_role), projects=projects)
        for authorization in list(self.authorizations):
            authorization._changed()

    def end(self, why: End) -> None:
        """End all streams of this token."""
        for authorization in list(self.authorizations):
            authorization._end(why)


class TokenAuthorization:
    """The rights of one open stream; made by :meth:`Identity.authorize`. Lives on the event loop.

    Check entries with :meth:`sees`, end the stream (4401) when :meth:`ended` returns, and always
    :meth:`close` it.
    """

    __slots__ = ("_callbacks", "_grant", "_lost", "_on_change", "_release", "reason")

    def __init__(self, grant: Grant, release: Callable[[Grant], None]) -> None:
        self._grant = grant
        self._release = release
        self._lost: asyncio.Event | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._on_change: Callable[[], None] | None = None
        self.reason: End | None = None
        grant.authorizations.add(self)

    @property
    def principal(self) -> Principal:
        """The current principal."""
        return self._grant.principal

    def sees(self, scope: str) -> bool:
        """Whether this reader may currently see entries of this scope."""
        return self.reason is None and self._grant.principal.sees(scope)

    @property
    def lost(self) -> asyncio.Event:
        """The reason, set within 5 s of the token's expiry or revocation."""
        if self._lost is None:
            self._lost = asyncio.Event()
            if self.reason is not None:
                self._lost.set()
        return self._lost

    async def ended(self) -> End:
        """Wait for the end of the token; returns the reason."""
        await self.lost.wait()
        assert self.reason is not None
        return self.reason

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back at the end (immediately if it has ended); not after :meth:`close`."""
        if self.reason is None:
            self._callbacks.append(callback)
        else:
            callback()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back when the caller's role or projects have changed; one callback per authorization."""
        self._on_change = callback

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def close(self) -> None:
        """Stop all callbacks; the stream has ended."""
        self._callbacks.clear()
        self._on_change = None
        if self in self._grant.authorizations:
            self._grant.authorizations.discard(self)
            self._release(self._grant)

    def _end(self, why: End) -> None:
        self.reason = why
        if self._lost is not None:
            self._lost.set()
        callbacks = list(self._callbacks)
        self.close()
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("authorization.callback_failed")
