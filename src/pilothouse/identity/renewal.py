"""Checks once a second whether the tokens of open streams have expired or were revoked on another server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pilothouse.identity.authorization import Grant
from pilothouse.identity.grants import FRESH_MS, Grants, expired
from pilothouse.storage import StorageError

ROUND_SECONDS = 1.0
log = structlog.get_logger("identity.renewal")

LookUp = Callable[[list[str]], Awaitable[dict[str, Grant]]]
"""Looks up grants by token id; missing tokens are no longer valid."""


class Renewal:
    """One timer for all open streams, which only runs while there are any."""

    def __init__(self, grants: Grants, look_up: LookUp, clock: Callable[[], int]) -> None:
        self._grants = grants
        self._look_up = look_up
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._closed = False

    def arm(self) -> None:
        """Schedule the next round; called when a stream is opened."""
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(ROUND_SECONDS, self._round)

    def close(self) -> None:
        """Stop."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _round(self) -> None:
        self._timer = None
        now = self._clock()
        stale: list[str] = []
        streaming = False
        for grant in self._grants.streaming():
            streaming = True
            if expired(grant.principal, now):
                self._grants.end_token(grant.principal.token_id, "expired")
            elif grant.stored and now - grant.checked_at > FRESH_MS:
                stale.append(grant.principal.token_id)
        if stale and (self._asking is None or self._asking.done()):
            self._asking = asyncio.get_running_loop().create_task(self._refresh(stale))
        if streaming:
            self.arm()

    async def _refresh(self, ids: list[str]) -> None:
        generation = self._grants.generation
        try:
            known = await self._look_up(ids)
        except (SQLAlchemyError, StorageError) as error:
            log.warning("authorization.refresh_failed", error=str(error))
            return
        if generation != self._grants.generation:
            return  # changed during the query, so the answer may be outdated: retried in the next round
        for id in ids:
            self._grants.refresh(id, known.get(id))
