"""Refusals of gRPC calls: the same codes as over HTTP, as statuses."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from pilothouse import __version__
from pilothouse.access.versions import check_client
from pilothouse.edge.grpc import abort, metadata
from pilothouse.edge.problems import EXPECTED, translate

Handler = Any  # a named tuple that gRPC's type stubs do not declare
USER_AGENT = "user-agent"
Find = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


class Refusals(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Turns a refusal that a servicer raises into a status with its stable code (:func:`abort`).

    Refuses agents of ours that are too old.
    """

    async def intercept_service(self, continuation: Find, details: grpc.HandlerCallDetails) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(details)
        if handler is None:
            return handler
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        method = getattr(handler, kind)
        if not handler.response_streaming:
            return handler._replace(**{kind: _one(method)})
        if inspect.isasyncgenfunction(method):
            return handler._replace(**{kind: _stream(method)})
        return handler  # gRPC's own services, which write to the context


_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def _one(method: Any) -> Any:
    async def call(request: Any, context: Any) -> Any:
        try:
            check_client(metadata(context, USER_AGENT), __version__)
            return await method(request, context)
        except EXPECTED as error:
            await _refuse(context, error)

    return call


def _stream(method: Any) -> Any:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            check_client(metadata(context, USER_AGENT), __version__)
            async with aclosing(method(request, context)) as answers:
                async for answer in answers:
                    yield answer
        except EXPECTED as error:
            await _refuse(context, error)

    return call


async def _refuse(context: Any, error: Exception) -> None:
    if not context.code():  # otherwise the servicer has ended the call and raised during cleanup
        await abort(context, translate(error))
