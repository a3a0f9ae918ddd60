"""Connections to the receivers of webhooks: to addresses that were checked alone, and with a bound on what they say.

Imported when the first webhook is sent, since httpcore is a large import.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpcore

PIECE = 1024
"""Bytes of an answer that are parsed at once: a receiver can fill them with some 60 answers of status 100."""
MAX_ANSWER = 32 << 10
"""Bytes that are read of one answer, its head included."""

Checked = Callable[[str, int], Awaitable[list[str]]]
"""The allowed addresses of a host and port."""


class AnswerTooLong(httpcore.ReadError):
    """The answer has more than :data:`MAX_ANSWER` bytes."""


class CheckedBackend(httpcore.AnyIOBackend):
    """Connects to addresses that were checked, never to a name, which could be resolved to another one."""

    def __init__(self, checked: Checked) -> None:
        self._checked = checked

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """The first address that answers."""
        failed: Exception = httpcore.ConnectError("it has no address")
        for address in await self._checked(host, port):
            try:
                return Bounded(
                    await super().connect_tcp(address, port, timeout, local_address, socket_options)
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


class Bounded(httpcore.AsyncNetworkStream):
    """A connection of which few bytes are read at once, and not more than :data:`MAX_ANSWER`."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = MAX_ANSWER

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises :class:`AnswerTooLong`."""
        await asyncio.sleep(0)  # what TLS has decrypted already is given without a wait
        data = await self._stream.read(min(max_bytes, PIECE), timeout)
        self._left -= len(data)
        if self._left < 0:
            raise AnswerTooLong
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As is."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """As is."""
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """The same for what is decrypted."""
        return Bounded(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """As is."""
        return self._stream.get_extra_info(info)
