"""The client: one object with an attribute per resource."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

import httpx

from pilothouse.client.access import Auth, Logins, RegistrationTokens, Tokens
from pilothouse.client.agents import Agents
from pilothouse.client.api import Api
from pilothouse.client.artifacts import Artifacts
from pilothouse.client.events import IDLE_TIMEOUT, Event, EventReader, OnConnect, OnGap, OnReconnect
from pilothouse.client.gates import Gates
from pilothouse.client.pipelines import Blobs, Checkouts, Pipelines
from pilothouse.client.projects import Projects
from pilothouse.client.runs import Runs
from pilothouse.client.secrets import Secrets
from pilothouse.client.settings import ServerSettings
from pilothouse.client.tenants import Tenants
from pilothouse.client.triggers import Triggers
from pilothouse.client.users import Users
from pilothouse.wire import entries


class PilotClient:
    """The client of a Pilothouse server.

    ``server``: ``http(s)://host:port``; ``timeout`` in seconds, per request; ``on_wait`` is called with the
    reason when a request waits (rate limits, a busy server), once per reason; ``product`` is sent as the user agent,
    with this package's version. Every call raises ApiProblem (refused) or Unreachable (no answer). ::

        async with PilotClient("http://127.0.0.1:8080", token) as client:
            async for event in client.watch_run(run_id):
                print(event.type)
    """

    def __init__(
        self,
        server: str,
        token: str = "",
        timeout: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        on_wait: Callable[[str], None] | None = None,
        product: str = "pilothouse",
    ) -> None:
        self._api = Api(server, token, timeout, transport, on_wait, product)
        self.auth = Auth(self._api)
        self.users = Users(self._api)
        self.logins = Logins(self._api)
        self.tokens = Tokens(self._api)
        self.registration_tokens = RegistrationTokens(self._api)
        self.agents = Agents(self._api)
        self.runs = Runs(self._api)
        self.gates = Gates(self._api)
        self.artifacts = Artifacts(self._api)
        self.pipelines = Pipelines(self._api)
        self.triggers = Triggers(self._api)
        self.projects = Projects(self._api)
        self.tenants = Tenants(self._api)
        self.blobs = Blobs(self._api)
        self.checkouts = Checkouts(self._api)
        self.secrets = Secrets(self._api)
        self.settings = ServerSettings(self._api)

    @property
    def server(self) -> str:
        """The server's address, normalized."""
        return self._api.server

    @property
    def last_answer(self) -> str:
        """The request that was answered last, ``GET /api/v1/agents``; empty before."""
        return self._api.last_answer

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def events(
        self,
        *,
        stream: str | None = None,
        type: str | None = None,
        cursor: str | None = None,
        on_reconnect: OnReconnect | None = None,
        on_connect: OnConnect | None = None,
        on_gap: OnGap | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> AsyncGenerator[Event, None]:
        """Follow the journal, one ``stream`` of it (``run/<id>``), or one ``type`` (``step.*``).

        Does not end; reconnects without missing or repeating entries. ``cursor``: that of the last received
        event, ``start`` or ``now``; ``None``: the start of a stream, otherwise now. ``on_reconnect`` is
        called with the reason before each reconnect, ``on_connect`` after each connect. If entries after the
        cursor are no longer retained, ``on_gap`` is called and the reader continues with the oldest retained
        entry; without it ApiProblem ``CURSOR_EXPIRED`` is raised.
        """
        reader = EventReader(
            self._api,
            stream=stream,
            type=type,
            cursor=cursor,
            on_reconnect=on_reconnect,
            on_connect=on_connect,
            on_gap=on_gap,
            idle_timeout=idle_timeout,
        )
        return reader.events()

    async def watch_run(
        self,
        run_id: str,
        *,
        cursor: str | None = None,
        on_reconnect: OnReconnect | None = None,
        on_connect: OnConnect | None = None,
        on_gap: OnGap | None = None,
    ) -> AsyncGenerator[Event, None]:
        """A run's events from its start (or ``cursor``) to ``run.completed``, inclusive."""
        stream = entries.run_stream(run_id)
        events = self.events(
            stream=stream, cursor=cursor, on_reconnect=on_reconnect, on_connect=on_connect, on_gap=on_gap
        )
        async with aclosing(events):
            async for event in events:
                yield event
                if event.type == entries.RUN_COMPLETED:
                    return
