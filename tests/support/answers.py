"""Every answer of a server that a test receives is checked against the OpenAPI document of this release.

:func:`watch` is called once, for all tests. Answers of other HTTP servers and to unknown paths are left alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import orjson

from pilothouse.access.errors import CODES
from pilothouse.edge.openapi import CODES_KEY
from pilothouse.server.document import openapi

OURS = "x-request-id"
"""A header that all answers of our servers have."""


class UndocumentedAnswer(AssertionError):
    """An answer is not what the document says."""


def watch() -> None:
    """Check what all clients of ``httpx`` receive from now on, in this process."""
    send, send_async = httpx.Client.send, httpx.AsyncClient.send

    @functools.wraps(send)
    def checked(self: httpx.Client, request: httpx.Request, **more: Any) -> httpx.Response:
        answer = send(self, request, **more)
        check(answer)
        return answer

    @functools.wraps(send_async)
    async def checked_async(self: httpx.AsyncClient, request: httpx.Request, **more: Any) -> httpx.Response:
        answer = await send_async(self, request, **more)
        check(answer)
        return answer

    httpx.Client.send = checked  # type: ignore[method-assign]
    httpx.AsyncClient.send = checked_async  # type: ignore[method-assign]


def check(answer: httpx.Response) -> None:
    """Raise :class:`UndocumentedAnswer` for a status, code or body that the document does not have."""
    if OURS not in answer.headers or answer.request.method in ("HEAD", "OPTIONS"):
        return
    found = operation(answer.request.method, answer.request.url.path)
    if found is None or (answer.status_code >= 500 and answer.status_code != 503):
        return  # a path that is not in the document, or a fault that the test itself is about
    name, documented = found
    response = documented["responses"].get(str(answer.status_code))
    if response is None:
        raise UndocumentedAnswer(
            f"{name}: status {answer.status_code} is not documented: {answer.text[:500]}"
        )
    if not answer.is_closed and not answer.is_stream_consumed:
        return  # the test reads it as a stream
    media = answer.headers.get("content-type", "").partition(";")[0]
    if media not in response.get("content", {}):
        if response.get("content") or answer.content:
            raise UndocumentedAnswer(f"{name}: {answer.status_code} with content of type {media!r}")
        return
    if media == "application/json":
        _check_body(name, answer, response)


def _check_body(name: str, answer: httpx.Response, response: dict[str, Any]) -> None:
    body = orjson.loads(answer.content)
    wrong = next(iter(_validator(name, answer.status_code).iter_errors(body)), None)
    if wrong is not None:
        place = "/".join(map(str, wrong.instance_path))
        raise UndocumentedAnswer(f"{name}: {answer.status_code} at {place!r}: {wrong.message[:500]}")
    if CODES_KEY in response:
        code = body.get("errorCode") or body.get("code")
        if code in CODES and code not in response[CODES_KEY]:
            raise UndocumentedAnswer(
                f"{name}: {answer.status_code} {code} is not documented: {answer.text[:300]}"
            )


@functools.cache
def document() -> dict[str, Any]:
    """The document of this release."""
    return openapi()


def operation(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """The operation that serves a request: its name (``GET /api/v1/…``) and what the document says of it."""
    for pattern, template in _paths():
        if pattern.fullmatch(path):
            found = document()["paths"][template].get(method.lower())
            return None if found is None else (f"{method} {template}", found)
    return None


@functools.cache
def _paths() -> list[tuple[re.Pattern[str], str]]:
    # Literal parts win over parameters, as in the order in which the routes are tried.
    templates = sorted(
        document()["paths"], key=lambda path: [part.startswith("{") for part in path.split("/")]
    )
    return [(re.compile(re.sub(r"\\{[^/]+\\}", "[^/]+", re.escape(path))), path) for path in templates]


@functools.cache
def _validator(name: str, status: int) -> Any:
    method, path = name.split(" ")
    schema = document()["paths"][path][method.lower()]["responses"][str(status)]["content"][
        "application/json"
    ]
    whole = {"components": document()["components"], **schema["schema"]}
    return jsonschema_rs.Draft202012Validator(closed(whole), validate_formats=True)


def closed(schema: Any) -> Any:
    """The schema, but objects have no other keys than those that it names: an undocumented key is a mistake of ours."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(part) for key, part in schema.items() if key not in ("example", "examples")}
    if isinstance(inner.get("properties"), dict) and "additionalProperties" not in inner:
        inner["additionalProperties"] = False
    return inner


def examples() -> Iterator[tuple[str, Any, Any]]:
    """Each example of an answer: where it is, the example, and what validates it."""
    for path, operations in document()["paths"].items():
        for method, found in operations.items():
            for status, response in found["responses"].items():
                content = response.get("content", {}).get("application/json", {})
                if "example" in content:
                    name = f"{method.upper()} {path}"
                    yield f"{name} {status}", content["example"], _validator(name, int(status))


@functools.cache
def bodies() -> dict[tuple[str, str], Any]:
    """The example of each operation's JSON body."""
    found = {}
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            schema = (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            )
            if schema is not None:
                named = [each for each in schema.get("anyOf", [schema]) if "$ref" in each]
                model = document()["components"]["schemas"][named[0]["$ref"].rpartition("/")[2]]
                found[method.upper(), path] = model.get("example")
    return found
