"""Errors of gRPC calls: the same codes as over HTTP, as statuses."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import structlog
from uuid_utils import uuid7

from pilothouse.access.errors import Refusal
from pilothouse.edge.grpc import MAX_REQUEST_ID, abort, metadata
from pilothouse.edge.problems import EXPECTED, translate

log = structlog.get_logger("grpc")

REQUEST_ID = "x-request-id"


async def refuse(
    context: Any, error: Exception, counted: Callable[[Refusal], Refusal] = lambda refusal: refusal
) -> None:
    """End the call with the status of this error; an unexpected one is logged, and nothing of its text is sent.

    ``counted``: gives the refusal that the caller gets instead.
    """
    unserved = isinstance(error, NotImplementedError)  # of a generated base class, which sets a status, too
    refusal = Refusal.of("NOT_IMPLEMENTED", "This method is not served") if unserved else translate(error)
    more: tuple[tuple[str, str], ...] = ()
    if not isinstance(error, EXPECTED) and not unserved:
        request_id = metadata(context, REQUEST_ID)[:MAX_REQUEST_ID] or str(uuid7())
        # As plain text: a renderer with local variables would show tokens and passwords.
        trace = "".join(traceback.format_exception(error))
        log.error("grpc.failed", request_id=request_id, code=refusal.code, traceback=trace)
        more = ((REQUEST_ID, request_id),)
    if (context.code() and not unserved) or context.done():
        return  # the servicer has ended the call and raised during cleanup, or the caller is gone
    await abort(context, counted(refusal), more)
