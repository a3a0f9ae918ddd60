"""gRPC: authentication, authorization and errors. The details of a status begin with the stable code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
import grpc.aio

from pilothouse.access.errors import AuthError, Refusal, token_invalid
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
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    410: grpc.StatusCode.OUT_OF_RANGE,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    426: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_BY_CODE = {
    "AGENT_ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "AGENT_REPLACED": grpc.StatusCode.ABORTED,
}

SINGLE = frozenset({"authorization", "x-request-id", "user-agent"})
"""Call metadata that may be given once only, besides ``pilot-…``."""
MAX_REQUEST_ID = 128


def metadata(context: Context, name: str) -> str:
    """The value of a call's metadata key; ``""`` if it is missing or not a text."""
    found = (value for key, value in context.invocation_metadata() or () if key == name)
    value = next(found, "")
    return value if isinstance(value, str) else ""


def check_metadata(context: Context) -> None:
    """Refuse metadata keys that are repeated, where readers could differ in which one they believe.

    Raises ``AUTH_TOKEN_INVALID`` for a repeated ``authorization``, else ``VALIDATION_FAILED``.
    """
    seen: set[str] = set()
    for key, _ in context.invocation_metadata() or ():
        if key in seen and (key in SINGLE or key.startswith("pilot-")):
            if key == "authorization":
                raise AuthError("AUTH_TOKEN_INVALID", "The metadata authorization is given more than once")
            raise Refusal.of("VALIDATION_FAILED", f"The metadata {key} is given more than once")
        seen.add(key)


def bearer(context: Context) -> tuple[str, str]:
    """The token of a call, and the name of the agent that it is said to belong to.

    ``authorization: Bearer <token>`` or ``bearer <agent_id>:<token>``; ``("", "")`` without one. A value of another
    form is a token that is not valid.
    """
    given = metadata(context, "authorization")
    if not given:
        return "", ""
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer":
        return "not-a-bearer", ""
    agent_id, separator, own = token.strip().partition(":")
    return (own, agent_id) if separator else (agent_id, "")


async def authenticated(context: Context, authentication: Authentication) -> Principal:
    """The user or agent that calls.

    Raises ``AUTH_TOKEN_MISSING``, ``AUTH_TOKEN_INVALID``, ``AUTH_TOKEN_EXPIRED``.
    """
    check_metadata(context)
    token, agent_id = bearer(context)
    request_id = metadata(context, "x-request-id")[:MAX_REQUEST_ID]
    principal = await authentication.authenticate(token, peer_address(context), request_id)
    if agent_id and (principal.kind, principal.id) != ("agent", agent_id):
        raise token_invalid()
    return principal


async def caller(
    context: Context, authentication: Authentication, limits: RateLimits | None = None
) -> Principal:
    """The user or agent of metadata ``authorization: Bearer``; calls of users are counted in ``limits``.

    Aborts with UNAUTHENTICATED or RESOURCE_EXHAUSTED.
    """
    try:
        principal = await authenticated(context, authentication)
        if limits is not None and principal.kind == "user":
            count = limits.request(principal, principal.address)
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


async def abort(context: Context, error: Refusal, more: Iterable[tuple[str, str]] = ()) -> NoReturn:
    """Abort the call with the status of this error; details are ``CODE: message``. ``more``: trailing metadata."""
    trailing = [("pilot-code", error.code), *more]
    if (seconds := error.headers.get("Retry-After")) is not None:
        trailing.append(("retry-after", seconds))
    status = _BY_CODE.get(error.code) or _STATUS.get(error.status, grpc.StatusCode.INTERNAL)
    await context.abort(status, f"{error.code}: {error.message}", tuple(trailing))
    raise AssertionError("abort does not return")


def peer_address(context: Context) -> str:
    """The address that the call comes from, without its port; empty if unknown."""
    # "ipv4:192.0.2.7:4711", "ipv6:[2001:db8::1]:4711" (also with "%5B" for "["), "unix:…"
    family, _, rest = unquote(context.peer() or "").partition(":")
    return rest.rpartition(":")[0].strip("[]") if family in ("ipv4", "ipv6") else ""
