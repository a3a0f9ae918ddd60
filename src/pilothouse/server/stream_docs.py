"""``/docs/streams``: the AsyncAPI document as a page without scripts, each stream with a command that follows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from pilothouse.edge.asyncapi import Channel, document
from pilothouse.edge.web import public
from pilothouse.server.asyncapi import AsyncApiService
from pilothouse.server.docs import swagger_version

router = APIRouter(include_in_schema=False, dependencies=[public()])

_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pilothouse streams</title>
<link rel="icon" type="image/png" href="{version}/favicon-32x32.png">
<link rel="stylesheet" href="streams.css">
<h1>Streams</h1>
<p><a href="../docs">Operations</a> · <a href="../asyncapi.json">asyncapi.json</a></p>
<p>The commands work in bash where <code>PILOT_SERVER</code> and <code>PILOT_TOKEN</code> are exported
(<code>pilot token create</code> makes a token), and what they name of a run: <code>RUN_ID</code>,
<code>PIPELINE_ID</code>, <code>JOB_ID</code>, <code>STEP_RUN_ID</code>.</p>
"""
_SOCKET = """python3 - <<'END'
import json, os
from websockets.sync.client import connect

address = (os.environ["PILOT_SERVER"].replace("http", "ws", 1) + "{address}").format(**os.environ)
with connect(address, additional_headers={{"Authorization": "Bearer " + os.environ["PILOT_TOKEN"]}}) as stream:
{send}    for message in stream:
        print(message, flush=True)
END"""
_SUBSCRIBE = """    names = {"pipelineId": "PIPELINE_ID", "jobId": "JOB_ID", "stepRunId": "STEP_RUN_ID"}
    params = {key: os.environ[name] for key, name in names.items()}
    stream.send(json.dumps({"channel": "channel_log", "action": "subscribe", "params": params}))
"""
_STYLE = """body { font-family: sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
pre { background: #f4f4f4; padding: 0.75rem; overflow-x: auto; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; } td { padding: 0.15rem 1rem 0.15rem 0; vertical-align: top; }
"""


@router.get("/docs/streams")
async def page(service: AsyncApiService) -> Response:
    """Every channel: address, parameters, messages with examples."""
    service.shown = body = service.shown or _page(service.channels)
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    return Response(body, headers=headers, media_type="text/html")


@router.get("/docs/streams.css")
async def style() -> Response:
    """Its style."""
    return Response(_STYLE, headers={"Cache-Control": "no-cache"}, media_type="text/css")


def _page(channels: tuple[Channel, ...]) -> str:
    found = document(channels)
    return _HEAD.format(version=swagger_version()) + "".join(
        _channel(name, each) for name, each in found["channels"].items()
    )


def _channel(name: str, channel: dict[str, Any]) -> str:
    over = "WebSocket" if "bindings" in channel else "Server-Sent Events"
    parts = [
        f'<h2 id="{escape(name)}">{escape(name)}</h2>\n<p>{escape(channel["summary"])}.</p>\n<table>',
        f"<tr><td>address<td><code>{escape(channel['address'])}</code>",
        f"<tr><td>over<td>{over}",
        f"<tr><td>requires<td><code>{escape(channel['x-required-action'])}</code>",
        *(f"<tr><td><code>?{escape(key)}=</code><td>{escape(what)}" for key, what in _query(channel)),
        f"</table>\n<pre>{escape(command(name, channel))}</pre>\n",
        *_messages(channel),
    ]
    return "\n".join(parts)


def command(name: str, channel: dict[str, Any]) -> str:
    """A shell command that follows the channel."""
    if "bindings" not in channel:
        address = channel["address"].replace("{run_id}", "$RUN_ID")
        return f'curl -N -H @- "$PILOT_SERVER{address}" <<< "Authorization: Bearer $PILOT_TOKEN"'
    address = channel["address"].replace("{run_id}", "{RUN_ID}")
    return _SOCKET.format(address=address, send=_SUBSCRIBE if name == "stepChannels" else "")


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _query(channel: dict[str, Any]) -> Iterator[tuple[str, str]]:
    query = channel.get("bindings", {}).get("ws", {}).get("query") or channel.get("x-query", {})
    for key, schema in query.get("properties", {}).items():
        yield key, schema["description"]


def _messages(channel: dict[str, Any]) -> Iterator[str]:
    for message in channel["messages"].values():
        example = json.dumps(message["examples"][0]["payload"], indent=2, ensure_ascii=False)
        yield f"<h3>{escape(message['name'])}</h3>\n<p>{_prose(message['summary'])}</p>\n<pre>{escape(example)}</pre>"
