"""Additions to FastAPI's OpenAPI document: required actions, error bodies, examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

#: The type of FastAPI's ``responses=``.
Responses = dict[int | str, dict[str, Any]]

PUBLIC = "public"
_MARK = "__pilothouse_action__"
_SCHEMES: list[dict[str, list[str]]] = [{"bearer": []}, {"cookie": []}]

_ERROR = {
    "type": "object",
    "required": ["error", "message", "code", "timestamp", "request_id"],
    "properties": {
        "error": {"type": "string"},
        "message": {"type": "string"},
        "code": {"type": "string"},
        "details": {"type": "object"},
        "timestamp": {"type": "string", "format": "date-time"},
        "request_id": {"type": "string"},
        "retry_after": {"type": "integer", "description": "Seconds; only with RATE_LIMIT_EXCEEDED."},
    },
    "example": {
        "error": "Run not found",
        "message": "No run with id '…' exists",
        "code": "RUN_NOT_FOUND",
        "timestamp": "2026-01-31T10:50:00Z",
        "request_id": "req-abc123",
    },
}
_ENVELOPE_ERROR = {
    "type": "object",
    "required": ["code", "errMsg", "path", "timestamp"],
    "properties": {
        "code": {"type": "integer", "description": "The HTTP status."},
        "errMsg": {"type": "string"},
        "path": {"type": "string"},
        "timestamp": {"type": "integer", "description": "Unix seconds."},
        "errorCode": {"type": "string"},
        "requestId": {"type": "string"},
        "details": {"type": "object"},
        "retry_after": {"type": "integer"},
    },
    "example": {
        "code": 404,
        "errMsg": "No pipeline with id '…' exists",
        "path": "/api/v1/pipelines/…",
        "timestamp": 1769856600,
        "errorCode": "PIPELINE_NOT_FOUND",
        "requestId": "req-abc123",
    },
}


def example(value: Any, status: int = 200, *, media: str = "application/json") -> Responses:
    """An example of a successful answer, with exactly the keys of a real one."""
    return {status: {"content": {media: {"example": value}}}}


def enveloped_example(detail: Any, status: int = 200) -> Responses:
    """An example in the Arcentra envelope, as its ``detail``."""
    return example({"code": status, "msg": "success", "detail": detail, "timestamp": 1769857800}, status)


def mark(dependency: Callable[..., Any], action: str) -> None:
    """Store the required action on a dependency."""
    setattr(dependency, _MARK, action)


def required_action(route: Any) -> str | None:
    """The action that a route requires, :data:`PUBLIC`, or ``None`` if it declares nothing."""
    dependant = getattr(route, "dependant", None)
    return None if dependant is None else _marked(dependant)


def required_checks(route: Any) -> Iterator[Callable[..., Any]]:
    """The dependencies of a route that were marked: each takes the request and its caller, and may refuse."""
    dependant = getattr(route, "dependant", None)
    waiting = [] if dependant is None else list(dependant.dependencies)
    while waiting:
        dependency = waiting.pop(0)
        if getattr(dependency.call, _MARK, PUBLIC) != PUBLIC:
            yield dependency.call
        waiting.extend(dependency.dependencies)


def required_actions(app: FastAPI) -> Iterator[tuple[str, str, str | None]]:
    """Every route of the app: method (``WEBSOCKET`` for a socket), path, and required action."""
    for route in iter_route_contexts(app.routes):
        if route.path is None:
            continue
        for method in sorted(route.methods or {"WEBSOCKET"}):
            yield method, route.path, required_action(route)


def describe(app: FastAPI, in_envelope: Callable[[str], bool]) -> None:
    """Add ``x-required-action``, security, our error bodies and complete examples to the document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generate(), app, in_envelope)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _complete(document: dict[str, Any], app: FastAPI, in_envelope: Callable[[str], bool]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas |= {"Error": _ERROR, "EnvelopeError": _ENVELOPE_ERROR}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "pilot_token"},
    }
    actions = {(method.lower(), path): action for method, path, action in required_actions(app)}
    paths = document.get("paths", {})
    for path, operations in paths.items():
        schema = "EnvelopeError" if in_envelope(path) else "Error"
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("default", {"description": "An error", "content": content})
            action = actions.get((method, path))
            if action is not None:
                operation["x-required-action"] = action
                operation["security"] = [] if action == PUBLIC else _SCHEMES
    _restore_examples(paths, app)


def _restore_examples(paths: dict[str, Any], app: FastAPI) -> None:
    # FastAPI removes all nulls from its document, also in examples; real answers have these keys.
    for route in iter_route_contexts(app.routes):
        operations = paths.get(route.path_format or "", {})
        for method in route.methods or ():
            operation = operations.get(method.lower())
            if operation is not None:
                _put_back(operation["responses"], route.responses)


def _put_back(described: dict[str, Any], given: Responses) -> None:
    for status, response in given.items():
        for media, content in response.get("content", {}).items():
            if "example" in content:
                described[str(status)]["content"][media]["example"] = content["example"]


def _marked(dependant: Dependant) -> str | None:
    for dependency in dependant.dependencies:
        action = getattr(dependency.call, _MARK, None) or _marked(dependency)
        if action is not None:
            return str(action)
    return None
