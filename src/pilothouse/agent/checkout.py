"""Downloads a run's checkout from the server's blob store: its archive and git packs."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import structlog

from pilothouse.agent.errors import SettingsRefused, StepImpossible
from pilothouse.agent.settings import AgentSettings
from pilothouse.wire.agent.v1 import agent_pb2 as pb
from pilothouse.wire.backoff import Backoff
from pilothouse.wire.proxies import BadProxy, Proxy, proxy_for

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
        self._proxy = proxy = proxy_of(settings)
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT, verify=_trusted(settings), trust_env=False, proxy=proxy.url if proxy else None
        )

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
        backoff = Backoff()
        while True:
            try:
                reason = await self._try(wanted, target, what)
            except httpx.TransportError as error:
                reason = type(error).__name__ + (f" through {self._proxy}" if self._proxy else "")
            if not reason:
                return
            log.info("agent.checkout_failed", reason=reason)
            await backoff.sleep()

    async def close(self) -> None:
        await self._client.aclose()

    async def _try(self, wanted: pb.Checkout | pb.CheckoutPack, target: Path, what: str) -> str:
        """Make one attempt; returns the reason to retry, or ``""`` on success."""
        headers = {"Authorization": f"Bearer {self._token()}", "Accept-Encoding": "identity"}
        async with self._client.stream("GET", self._server + wanted.url, headers=headers) as response:
            if response.status_code in _LATER:
                return f"status {response.status_code}"
            if response.status_code != httpx.codes.OK:
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


def _trusted(settings: AgentSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.grpc_ca)
    except OSError as error:
        raise SettingsRefused(
            f"cannot use the certificates in {settings.grpc_ca}: {error.strerror}"
        ) from None
