"""Downloads a run's checkout from the server's blob store: its archive and git packs."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from pilothouse.agent.errors import SettingsRefused, StepImpossible
from pilothouse.agent.settings import AgentSettings
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.backoff import Backoff
from pilothouse.wire.proxies import BadProxy, Proxy, proxy_for

if TYPE_CHECKING:
    import httpx

TIMEOUT = 30.0  # seconds without a byte
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})

log = structlog.get_logger("agent.checkout")


class CheckoutFetcher:
    """`token`: returns the agent's current token, which is only sent to the agent's server.

    Raises SettingsRefused if `grpc_ca` cannot be read.
    """

    def __init__(self, settings: AgentSettings, token: Callable[[], str | None]) -> None:
        self._server = settings.server.rstrip("/")
        self._token = token
        self._limit = settings.max_checkout
        self._proxy = proxy_of(settings)
        self._ca = settings.grpc_ca
        if self._ca is not None:
            _trusted(self._ca)
        self._opening = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None

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
        client, backoff = await self._opened(), Backoff()
        while True:
            reason = await self._try(client, wanted, target, what)
            if not reason:
                return
            log.info("agent.checkout_failed", reason=reason)
            await backoff.sleep()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _opened(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._open)
            return self._client

    def _open(self) -> httpx.AsyncClient:
        import httpx  # an agent that never fetches a checkout does without it, and without the system's certificates

        proxy = self._proxy.url if self._proxy else None
        return httpx.AsyncClient(timeout=TIMEOUT, verify=_trusted(self._ca), trust_env=False, proxy=proxy)

    async def _try(
        self, client: httpx.AsyncClient, wanted: pb.Checkout | pb.CheckoutPack, target: Path, what: str
    ) -> str:
        """Make one attempt; returns the reason to retry, or ``""`` on success."""
        from httpx import TransportError

        try:
            return await self._receive(client, wanted, target, what)
        except TransportError as error:
            return type(error).__name__ + (f" through {self._proxy}" if self._proxy else "")

    async def _receive(
        self, client: httpx.AsyncClient, wanted: pb.Checkout | pb.CheckoutPack, target: Path, what: str
    ) -> str:
        headers = {"Authorization": f"Bearer {self._token()}", "Accept-Encoding": "identity"}
        async with client.stream("GET", self._server + wanted.url, headers=headers) as response:
            if response.status_code in _LATER:
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


def proxy_of(settings: AgentSettings) -> Proxy | None:
    """The proxy used for the server; like gRPC, an unusable proxy is ignored."""
    try:
        return proxy_for(settings.server)
    except BadProxy as error:
        log.warning("agent.proxy_ignored", reason=str(error))
        return None


def _trusted(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SettingsRefused(f"cannot use the certificates in {ca}: {error.strerror}") from None
