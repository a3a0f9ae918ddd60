"""The agent's HTTP client for its own server, opened when it is first needed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from pilothouse.agent.errors import SettingsRefused
from pilothouse.agent.settings import AgentSettings
from pilothouse.wire.proxies import BadProxy, Proxy, proxy_for

if TYPE_CHECKING:
    import httpx

TIMEOUT = 30.0  # seconds without a byte
LATER = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses after which the request is repeated

log = structlog.get_logger("agent.http")


class ServerHttp:
    """`token`: returns the agent's current token, which is only sent to the agent's server.

    Raises SettingsRefused if `grpc_ca` cannot be read.
    """

    def __init__(self, settings: AgentSettings, token: Callable[[], str | None]) -> None:
        self._server = settings.server.rstrip("/")
        self._token = token
        self.proxy = proxy_of(settings)
        self._ca = settings.grpc_ca
        if self._ca is not None:
            trusted(self._ca)
        self._opening = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None

    def url(self, path: str) -> str:
        """The address of a path of the server."""
        return self._server + path

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        return {"Authorization": f"Bearer {self._token()}", "Accept-Encoding": "identity"}

    async def client(self) -> httpx.AsyncClient:
        """The client, opened if it is not yet."""
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._open)
            return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def reason(self, error: Exception) -> str:
        """Why a request failed, with the proxy that was used."""
        return type(error).__name__ + (f" through {self.proxy}" if self.proxy else "")

    def _open(self) -> httpx.AsyncClient:
        import httpx  # an agent that never fetches anything does without it, and without the system's certificates

        proxy = self.proxy.url if self.proxy else None
        return httpx.AsyncClient(timeout=TIMEOUT, verify=trusted(self._ca), trust_env=False, proxy=proxy)


def proxy_of(settings: AgentSettings) -> Proxy | None:
    """The proxy used for the server; like gRPC, an unusable proxy is ignored."""
    try:
        return proxy_for(settings.server)
    except BadProxy as error:
        log.warning("agent.proxy_ignored", reason=str(error))
        return None


def trusted(ca: Path | None) -> ssl.SSLContext:
    """The certificates of the system, or those of a file. Raises SettingsRefused."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SettingsRefused(f"cannot use the certificates in {ca}: {error.strerror}") from None
