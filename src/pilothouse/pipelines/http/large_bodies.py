"""Routes whose body may hold a spec: one of very many values is parsed in the worker pool, not on the event loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from pilothouse.access.errors import Refusal
from pilothouse.edge.web import Exchange
from pilothouse.pipelines.compiler import LIMITS
from pilothouse.pipelines.jobs import DONE, split_job
from pilothouse.wire.json_bounds import MAX_VALUES, most_values
from pilothouse.wire.specs import EncodedSpec
from pilothouse.workers.pool import Pool

BODY_LIMIT = 2 << 20
"""Bytes: a spec has up to 1 MiB, and is longer as a JSON text."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class SpecRoute(APIRoute):
    """For routers whose bodies may have a ``spec``; a large one becomes an :class:`EncodedSpec`."""

    def get_route_handler(self) -> Handler:
        """Overrides FastAPI's."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handler(request: Request) -> Response:
            body = await request.body()
            if most_values(body) > MAX_VALUES:
                request = _Split(request, body, await _split(request, body))
            return await handle(request)

        return handler


class _Split(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, body: bytes, parsed: dict[str, Any]) -> None:
        super().__init__(request.scope, request.receive)
        self._given = body, parsed

    async def body(self) -> bytes:
        """The body as it was sent."""
        return self._given[0]

    async def json(self) -> Any:
        """The parsed body."""
        return self._given[1]


async def _split(request: Request, body: bytes) -> dict[str, Any]:
    exchange = Exchange.of(request.scope)
    caller = await exchange.caller()
    pool = exchange.edge.services[Pool]
    assert isinstance(pool, Pool)
    done, rest, *spec = await pool.run(split_job, body, caller=caller.key, limits=LIMITS)
    assert isinstance(rest, bytes)
    if done != DONE:
        raise Refusal.of("VALIDATION_FAILED", rest.decode(), field="body")
    parsed: dict[str, Any] = json.loads(rest)
    form, source = spec
    if isinstance(form, str) and isinstance(source, bytes) and form:
        parsed["spec"] = EncodedSpec(form, source)
    return parsed
