"""Error bodies (decisions.md, "Everywhere", "Arcentra"), and the translation of other exceptions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from pilothouse.access.errors import CODES, Refusal
from pilothouse.edge.exchange import Exchange
from pilothouse.edge.intake import Unwanted
from pilothouse.edge.work import refusal as work_refusal
from pilothouse.journal import CursorError
from pilothouse.storage import StorageError, now_ms
from pilothouse.wire.times import rfc3339
from pilothouse.workers.errors import WorkError

log = structlog.get_logger("http")

_BY_STATUS = {
    401: "AUTH_TOKEN_INVALID",
    403: "AUTH_INSUFFICIENT_PERMISSIONS",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    429: "RATE_LIMIT_EXCEEDED",
    503: "STORAGE_BUSY",
}

EXPECTED = (Refusal, CursorError, StorageError, WorkError)
"""The exceptions of our own packages that are refusals of the request."""

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON body, encoded by orjson."""
    try:
        body = orjson.dumps(content)
    except orjson.JSONEncodeError:  # an unpaired surrogate from user input: escaped
        body = json.dumps(content).encode()
    return Response(body, status, headers, "application/json")


def respond(scope: Scope, error: Refusal) -> Response:
    """The error in the format of this path's family."""
    exchange = Exchange.of(scope)
    now = now_ms()
    if exchange.edge.envelope(scope["path"]):
        body: dict[str, Any] = {
            "code": error.status,
            "errMsg": error.message,
            "path": scope["path"],
            "timestamp": now // 1000,
            "errorCode": error.code,
            "requestId": exchange.request_id,
        }
    else:
        body = {
            "error": error.error,
            "message": error.message,
            "code": error.code,
            "timestamp": rfc3339(now),
            "request_id": exchange.request_id,
        }
    if error.details is not None:
        body["details"] = error.details
    return json_response({**body, **error.extra}, error.status, error.headers)


def translate(error: Exception) -> Refusal:
    """The refusal for an exception of another layer; reveals no internals."""
    match error:
        case Refusal():
            return error
        case RequestValidationError():
            return _invalid(error)
        case Unwanted():
            return error.refusal
        case HTTPException():
            return _http(error)
        case CursorError():
            return Refusal.of(error.code if error.code in CODES else "CURSOR_INVALID", str(error))
        case WorkError():
            return work_refusal(error)
        case StorageError() | OperationalError():
            busy = Refusal.of("STORAGE_BUSY", "The database cannot accept this now; try again shortly")
            busy.headers["Retry-After"] = "1"
            return busy
        case IntegrityError():
            return Refusal.of("CONFLICT", "Something else was changed at the same time; try again")
        case UnicodeEncodeError() | TypeError() if _no_unicode(error):
            return Refusal.of("VALIDATION_FAILED", "A text is not valid Unicode")
        case DataError():
            return Refusal.of("VALIDATION_FAILED", "A value cannot be stored")
        case _:
            return Refusal.of("INTERNAL_ERROR", "Something went wrong on the server; the request id names it")


def install_handlers(app: FastAPI) -> None:
    """Answer expected exceptions with an error body; the gate answers unexpected ones."""

    async def handle(connection: HTTPConnection, error: Exception) -> Response:
        if isinstance(error, StorageError | OperationalError):
            log.warning(
                "http.storage_failed", error=str(error), request_id=Exchange.of(connection.scope).request_id
            )
        if isinstance(error, HTTPException) and error.status_code == 405:
            error.headers = {"Allow": ", ".join(_allowed(app, connection.scope["path"]))}
        return respond(connection.scope, translate(error))

    async def handle_type_error(connection: HTTPConnection, error: Exception) -> Response:
        if not _no_unicode(error):
            raise error
        return await handle(connection, error)

    invalid = (RequestValidationError, HTTPException, UnicodeEncodeError)
    for kind in (*EXPECTED, *invalid, OperationalError, IntegrityError, DataError):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(TypeError, handle_type_error)


def _no_unicode(error: Exception) -> bool:
    """Whether a text has half of a surrogate pair, for which orjson raises a TypeError like any other."""
    return isinstance(error, UnicodeEncodeError) or "surrogates not allowed" in str(error)


def _allowed(app: FastAPI, path: str) -> list[str]:
    # Each method of a path is a separate route; the one that refuses only knows its own method.
    def fits(method: str) -> bool:
        asked = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        return any(route.matches(dict(asked))[0] is Match.FULL for route in app.routes)

    return [method for method in _METHODS if fits(method)]


def _invalid(error: RequestValidationError) -> Refusal:
    # The input is never repeated, since it may be a password.
    errors: Sequence[Any] = error.errors()[:MAX_ERRORS]
    if isinstance(error.body, bytes) and tuple(errors[0]["loc"]) == (
        "body",
    ):  # FastAPI did not treat it as JSON
        return Refusal.of(
            "VALIDATION_FAILED",
            "The header Content-Type: application/json is missing or has another value",
            field="Content-Type",
        )
    found = [{"field": _field(e["loc"]), "message": _sentence(e)} for e in errors]
    first = found[0]
    if any(e["type"] == "missing" for e in errors):
        code = "MISSING_REQUIRED_FIELD"
        first = next(f for f, e in zip(found, errors, strict=True) if e["type"] == "missing")
    else:
        code = "VALIDATION_FAILED" if errors[0]["loc"][0] == "body" else "INVALID_PARAMETER"
    whole = first["field"] == "body"
    message = first["message"] if whole else f"{first['field']}: {first['message']}"
    return Refusal.of(code, message, field=first["field"], errors=found)


def _field(loc: Sequence[Any]) -> str:
    if loc[0] == "body" and len(loc) == 2 and isinstance(loc[1], int):
        return "body"  # the position in a body that is not JSON
    return ".".join(str(part)[:MAX_SHOWN] for part in loc[1:]) or str(loc[0])


MAX_ERRORS = 20
"""So many wrong fields are described."""
MAX_SHOWN = 100
"""Characters of a key that the caller has chosen."""


def _sentence(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return "The body is not valid JSON"
    return str(error["msg"]).removeprefix("Value error, ")


def _http(error: HTTPException) -> Refusal:
    code = _BY_STATUS.get(error.status_code)
    if code is None:
        code = "VALIDATION_FAILED" if error.status_code < 500 else "INTERNAL_ERROR"
    return Refusal(str(error.detail), code=code, status=error.status_code, headers=error.headers)
