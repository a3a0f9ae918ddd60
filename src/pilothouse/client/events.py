"""Follows the journal without gaps or duplicates (``GET /api/v1/events``, decisions.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import orjson

from pilothouse.client.api import PATIENCE, RETRIES, Api, words
from pilothouse.client.errors import ApiProblem
from pilothouse.client.sse import SseDecoder, SseMessage
from pilothouse.wire.backoff import Backoff

IDLE_TIMEOUT = 45.0
"""Seconds without data after which a connection is dead; servers send a comment every 30 s."""

OnReconnect = Callable[[str], None]
"""Called with the reason before each reconnect."""

OnConnect = Callable[[], None]
"""Called after each successful connect."""

OnGap = Callable[[ApiProblem], None]
"""Called if entries after the cursor are no longer retained; the reader continues with the oldest one."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the journal (wire/entries.py).

    ``cursor`` is the position after it; ``source`` its stream.
    """

    cursor: str
    type: str
    subject: str
    time: datetime
    data: dict[str, Any]
    source: str = ""

    @classmethod
    def parse(cls, message: SseMessage) -> Event:
        """Parse the CloudEvent of an SSE message."""
        event = orjson.loads(message.data)
        return cls(
            cursor=message.id,
            type=event["type"],
            subject=event.get("subject", ""),
            time=datetime.fromisoformat(event["time"]),
            data=event.get("data") or {},
            source=event.get("source", "").removeprefix("/"),
        )


class EventReader:
    """Reads until it is closed; reconnects automatically with its cursor.

    Permanent refusals (401, 403, 404) end it, and so does a failure of the first connection.
    ``cursor``: a cursor, ``start`` or ``now``; ``None``: the start of a stream, otherwise now.
    """

    def __init__(
        self,
        api: Api,
        *,
        stream: str | None = None,
        type: str | None = None,
        cursor: str | None = None,
        on_reconnect: OnReconnect | None = None,
        on_connect: OnConnect | None = None,
        on_gap: OnGap | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        self._api = api
        self._params = {"stream": stream, "type": type}
        self.cursor = cursor
        self._place: str | None = None  # from the server; takes precedence over the first one
        self._on_reconnect = on_reconnect or (lambda _reason: None)
        self._on_connect = on_connect or (lambda: None)
        self._on_gap = on_gap
        self._idle_timeout = idle_timeout
        self._backoff = Backoff(0.1, 5.0)
        self._opened = False
        self._failures = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events from the cursor on. Raises ApiProblem, Unreachable."""
        while True:
            wait = None
            try:
                async with aclosing(self._connection()) as messages:
                    async for message in messages:
                        self._place = message.id or self._place
                        yield Event.parse(message)
                reason = "the server ended the stream"
            except httpx.TransportError as error:
                reason = self._broken(error)
            except ApiProblem as refusal:
                wait = self._refused(refusal)
                reason = refusal.message
            if self._opened or wait:
                self._on_reconnect(reason)
            await asyncio.sleep(wait if wait is not None else self._backoff.delay())

    async def _connection(self) -> AsyncGenerator[SseMessage, None]:
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        params = dict(self._params)
        if self._place:
            headers["Last-Event-ID"] = self._place
        else:
            params["cursor"] = self.cursor
        decoder = SseDecoder()
        opening = self._api.stream("/events", params=params, headers=headers, read_timeout=self._idle_timeout)
        async with opening as answer:
            _require_event_stream(answer)
            self._opened = True
            self._on_connect()
            async for chunk in answer.aiter_bytes():
                for message in decoder.feed(chunk):
                    self._backoff.reset()
                    yield message

    def _broken(self, error: httpx.TransportError) -> str:
        self._failures += 1
        if not self._opened and self._failures > RETRIES:
            raise self._api.unreachable(error) from error
        if isinstance(error, httpx.ReadTimeout):
            return f"no data for {self._idle_timeout:g} s"
        return words(error)

    def _refused(self, refusal: ApiProblem) -> float | None:
        """Seconds to wait, ``None`` for the default backoff."""
        if refusal.status == 410 and self._on_gap is not None:
            self._on_gap(refusal)
            self._place, self.cursor = None, "start"
            return None
        self._failures += 1
        if not refusal.passing or (not self._opened and self._failures > RETRIES):
            raise refusal
        return None if refusal.retry_after is None else min(refusal.retry_after, PATIENCE)


def _require_event_stream(answer: httpx.Response) -> None:
    kind = answer.headers.get("content-type", "no type")
    if not kind.startswith("text/event-stream"):
        raise ApiProblem(answer.status_code, "UNEXPECTED_ANSWER", f"expected an event stream, got {kind}")
