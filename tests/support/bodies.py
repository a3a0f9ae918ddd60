"""What REST bodies look like by the contract pages."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
UNKNOWN = "01980f3e-5c2a-7c1e-9b7a-0d4e5f60718a"
ENVELOPED = tuple(
    f"/api/v1/{family}"
    for family in (
        "pipelines",
        "projects",
        "uploads",
        "roles",
        "tenants",
        "settings",
        "secrets",
        "identity",
    )
)


def plain_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """An error body of the StreamSpace page."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), answer.text
    assert {"error", "message", "code", "timestamp", "request_id"} <= set(body)
    assert isinstance(body["error"], str)
    assert isinstance(body["message"], str)
    assert isinstance(body.get("details", {}), dict)
    assert TIME.fullmatch(body["timestamp"])
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def enveloped_error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """An error body of the Arcentra families."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["code"]) == (status, status), answer.text
    assert isinstance(body["errMsg"], str)
    assert body["errMsg"]
    assert body["path"] == answer.request.url.path
    assert isinstance(body["timestamp"], int)
    assert abs(body["timestamp"] - time.time()) < 60
    assert "msg" not in body
    return body


def success(answer: httpx.Response, status: int = 200) -> Any:
    """The detail of a success of the Arcentra families."""
    body = answer.json()
    assert (answer.status_code, body["code"], body["msg"]) == (status, status, "success"), answer.text
    assert set(body) <= {"code", "msg", "detail", "timestamp"}
    assert isinstance(body["timestamp"], int)
    _only_camel_case(body.get("detail"))
    return body.get("detail")


def _only_camel_case(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            assert "_" not in key, key
            if key not in ("variables", "metadata", "args", "env", "spec"):
                _only_camel_case(inner)
    elif isinstance(value, list):
        for inner in value:
            _only_camel_case(inner)
