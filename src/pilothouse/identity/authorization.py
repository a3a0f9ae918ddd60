"""Live rights of open streams: who reads, and a callback when that right has ended.

A :class:`Grant` is what the server knows of one token at this moment; all requests and open streams of that token
share it, so that a change of role or project shows everywhere at once and costs one assignment.
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
    """One verified token: its principal as of ``checked_at`` (ms), and the open streams that use it.

    ``stored``: whether the database can be asked about it by its id (an agent's cannot).
    """

    __slots__ = ("authorizations", "checked_at", "principal", "stored", "token_role")

    def __init__(self, principal: Principal, token_role: Role | None, stored: bool, checked_at: int) -> None:
        self.principal = principal
        self.token_role = token_role
        self.stored = stored
        self.checked_at = checked_at
        self.authorizations: set[TokenAuthorization] = set()

    def adopt(self, role: Role, projects: frozenset[str]) -> None:
        """The user's role or memberships have changed."""
        self.principal = replace(self.principal, role=narrower(role, self.token_role), projects=projects)
        for authorization in list(self.authorizations):
            authorization._changed()

    def end(self, why: End) -> None:
        """End every stream of this token."""
        for authorization in list(self.authorizations):
            authorization._end(why)


class TokenAuthorization:
    """The rights of one open stream; made by :meth:`Identity.authorize`. Lives on the event loop.

    Test entries with :meth:`sees`, end the stream (4401) when :meth:`ended` returns, always :meth:`close` it.
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
        """Who reads, as of now."""
        return self._grant.principal

    def sees(self, scope: str) -> bool:
        """Whether entries of this scope may still be shown to this reader."""
        return self.reason is None and self._grant.principal.sees(scope)

    @property
    def lost(self) -> asyncio.Event:
        """Set within 5 s of the token's expiry or revocation."""
        if self._lost is None:
            self._lost = asyncio.Event()
            if self.reason is not None:
                self._lost.set()
        return self._lost

    async def ended(self) -> End:
        """Wait for the end; says why."""
        await self.lost.wait()
        assert self.reason is not None
        return self.reason

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back at the end (at once if that is past); not after :meth:`close`."""
        if self.reason is None:
            self._callbacks.append(callback)
        else:
            callback()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever the caller's role or projects have changed; one callback each."""
        self._on_change = callback

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def close(self) -> None:
        """The stream has ended: no more callbacks."""
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
