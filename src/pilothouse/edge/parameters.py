"""Bounds of what a request's address holds: path and query parameters, whichever route they are for.

A route may declare a smaller bound for a parameter; the OpenAPI document has these for the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus

from starlette.types import Scope

from pilothouse.access.errors import Refusal

MAX_PATH_PARAMETER = 256
"""Characters of a part of the path, and of a header that is a parameter."""
MAX_QUERY_PARAMETER = 2000
MAX_QUERY_PARAMETERS = 100
_LONGER = {"token": 8192}
"""Tokens, on sockets."""


def check_parameters(scope: Scope) -> None:
    """Refuse an address with a parameter that is too long: ``INVALID_PARAMETER``."""
    if any(len(part) > MAX_PATH_PARAMETER for part in scope["path"].split("/")):
        raise Refusal.of("INVALID_PARAMETER", f"a part of the path has over {MAX_PATH_PARAMETER} characters")
    query = scope["query_string"].decode("latin-1")
    if not query:
        return
    pairs = query.split("&")
    if len(pairs) > MAX_QUERY_PARAMETERS:
        raise Refusal.of(
            "INVALID_PARAMETER", f"the query has over {MAX_QUERY_PARAMETERS} parameters", field="query"
        )
    for pair in pairs:
        name, _, value = pair.partition("=")
        limit = _LONGER.get(name, MAX_QUERY_PARAMETER)
        if len(name) > 100 or (len(value) > limit and len(unquote_plus(value)) > limit):
            message = f"{name[:100]}: it has over {limit} characters"
            raise Refusal.of("INVALID_PARAMETER", message, field=name[:100])


def describe_bounds(operation: dict[str, Any]) -> None:
    """Add the bounds to the parameters of an OpenAPI operation that have none of their own."""
    for parameter in operation.get("parameters", ()):
        limit = MAX_QUERY_PARAMETER if parameter["in"] == "query" else MAX_PATH_PARAMETER
        for schema in _texts(parameter["schema"]):
            schema.setdefault("maxLength", limit)


def _texts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ()), schema):
        if part.get("type") == "string" and not {"enum", "format", "maxLength"} & part.keys():
            yield part
