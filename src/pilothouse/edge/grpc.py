"""gRPC: authentication, authorization and errors. The details of a status begin with the stable code."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import grpc.aio

from pilothouse.access.errors import Refusal
from pilothouse.access.errors import require as require_right
from pilothouse.access.model import Principal
from pilothouse.edge.authentication import Authentication
from pilothouse.edge.limits import RateLimits

Context = grpc.aio.ServicerContext[Any, Any]

_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    410: grpc.StatusCode.OUT_OF_RANGE,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    426: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


def metadata(context: Context, name: str) -> str:
    """The value of a call's metadata key; ``""`` if it is missing or not a text."""
    found = (value for key, value in context.invocation_metadata() or () if key == name)
    value = next(found, "")
    return value if isinstance(value, str) else ""


async def caller(
    context: Context, authentication: Authentication, limits: RateLimits | None = None
) -> Principal:
    """The user or agent of metadata ``authorization: Bearer``; calls of users are counted in ``limits``.

    Aborts with UNAUTHENTICATED or RESOURCE_EXHAUSTED.
    """
    address, request_id = peer_address(context.peer()), ""
    token = ""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            token = token.strip() if scheme.lower() == "bearer" else "not-a-bearer"
        elif key == "x-request-id" and isinstance(value, str):
            request_id = value[:128]
    try:
        principal = await authentication.authenticate(token, address, request_id)
        if limits is not None and principal.kind == "user":
            count = limits.request(principal, address)
            if count is not None:
                count.check()
    except Refusal as error:
        await abort(context, error)
    return principal


async def require(context: Context, principal: Principal, action: str, project: str | None = None) -> None:
    """Abort with PERMISSION_DENIED unless the principal may do this (in this project)."""
    try:
        require_right(principal, action, project)
    except Refusal as error:
        await abort(context, error)


async def abort(context: Context, error: Refusal) -> NoReturn:
    """Abort the call with the status of this error; details are ``CODE: message``."""
    trailing = [("pilot-code", error.code)]
    if (seconds := error.headers.get("Retry-After")) is not None:
        trailing.append(("retry-after", seconds))
    status = _STATUS.get(error.status, grpc.StatusCode.INTERNAL)
    await context.abort(status, f"{error.code}: {error.message}", tuple(trailing))
    raise AssertionError("abort does not return")


def peer_address(peer: str) -> str:
    """The address of a call's peer, without its port; ``""`` if it has none."""
    # "ipv4:192.0.2.7:4711", "ipv6:[2001:db8::1]:4711", "unix:…"
    family, _, rest = peer.partition(":")
    return rest.rpartition(":")[0].strip("[]") if family in ("ipv4", "ipv6") else ""
