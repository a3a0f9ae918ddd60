"""Downloads a run's checkout from the server's blob store: its archive and git packs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from pilothouse.agent.errors import StepImpossible
from pilothouse.agent.server_http import LATER, ServerHttp
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.backoff import Backoff

if TYPE_CHECKING:
    import httpx

log = structlog.get_logger("agent.checkout")


class CheckoutFetcher:
    """`limit`: bytes of one archive or pack."""

    def __init__(self, server: ServerHttp, limit: int) -> None:
        self._server = server
        self._limit = limit

    async def fetch(
        self, wanted: pb.Checkout | pb.CheckoutPack, target: Path, what: str = "checkout"
    ) -> None:
        """Download to `target` and verify size and SHA-256. Retries until it succeeds.

        Raises StepImpossible for errors that are permanent.
        """
        if not wanted.url.startswith("/") or wanted.url.startswith("//"):
            raise StepImpossible(f"the {what} is not on this agent's server")
        if wanted.size > self._limit:
            raise StepImpossible(
                f"the {what} has {wanted.size} bytes; this agent takes {self._limit} (PILOT_MAX_CHECKOUT)"
            )
        client, backoff = await self._server.client(), Backoff()
        while True:
            reason = await self._try(client, wanted, target, what)
            if not reason:
                return
            log.info("agent.checkout_failed", reason=reason)
            await backoff.sleep()

    async def _try(
        self, client: httpx.AsyncClient, wanted: pb.Checkout | pb.CheckoutPack, target: Path, what: str
    ) -> str:
        """Make one attempt; returns the reason to retry, or ``""`` on success."""
        from httpx import TransportError

        try:
            return await self._receive(client, wanted, target, what)
        except TransportError as error:
            return self._server.reason(error)

    async def _receive(
        self, client: httpx.AsyncClient, wanted: pb.Checkout | pb.CheckoutPack, target: Path, what: str
    ) -> str:
        url = self._server.url(wanted.url)
        async with client.stream("GET", url, headers=self._server.headers) as response:
            if response.status_code in LATER:
                return f"status {response.status_code}"
            if response.status_code != 200:
                raise StepImpossible(f"cannot fetch the {what}: the server answers {response.status_code}")
            size, digest = 0, hashlib.sha256()
            with target.open("wb") as file:
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > wanted.size:
                        raise StepImpossible(f"the {what} is larger than the {wanted.size} bytes announced")
                    digest.update(chunk)
                    file.write(chunk)
        if size != wanted.size:
            raise StepImpossible(f"the {what} has {size} bytes, not {wanted.size}")
        if digest.hexdigest() != wanted.sha256.lower():
            raise StepImpossible(f"the {what}'s SHA-256 is not the one announced")
        return ""
