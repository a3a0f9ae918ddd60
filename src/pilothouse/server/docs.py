"""``/docs``: the API's operations, shown by Swagger UI from files of the package; works without internet."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from pilothouse.access.errors import Refusal
from pilothouse.edge.web import public

router = APIRouter(include_in_schema=False, dependencies=[public()])

_FOLDER = Path(__file__).with_name("swagger_ui")
_TYPES = {
    "favicon-32x32.png": "image/png",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
_START = """"use strict";
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#operations",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "none",
  filter: true,
  validatorUrl: null,  // no badge of another host
});
"""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pilothouse API</title>
<link rel="icon" type="image/png" href="docs/{version}/favicon-32x32.png">
<link rel="stylesheet" href="docs/{version}/swagger-ui.css">
<p><a href="docs/streams">Streams (WebSocket and Server-Sent Events)</a> ·
<a href="openapi.json">openapi.json</a> · <a href="asyncapi.json">asyncapi.json</a></p>
<div id="operations"></div>
<script src="docs/{version}/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
FOR_A_YEAR = "public, max-age=31536000, immutable"


@functools.cache
def swagger_version() -> str:
    """The version of the files that are part of the package."""
    found = re.match(r"# Swagger UI (\S+)", (_FOLDER / "README.md").read_text())
    assert found is not None
    return found[1]


@router.get("/docs")
async def page() -> Response:
    """The page; it and its scripts load nothing from another host."""
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    return Response(_PAGE.format(version=swagger_version()), headers=headers, media_type="text/html")


@router.get("/docs/start.js")
async def start() -> Response:
    """What starts it: an inline script would need an exception in the policy."""
    return Response(_START, headers={"Cache-Control": "no-cache"}, media_type="text/javascript")


@router.get("/docs/{version}/{name}")
async def asset(version: str, name: str) -> Response:
    """A file of Swagger UI; another version has another path."""
    if name not in _TYPES or version != swagger_version():
        raise Refusal.of("NOT_FOUND", "Not Found")
    return FileResponse(_FOLDER / name, headers={"Cache-Control": FOR_A_YEAR}, media_type=_TYPES[name])
