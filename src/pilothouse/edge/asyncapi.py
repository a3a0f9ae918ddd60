"""The AsyncAPI 3 document, ``/asyncapi.json``: every stream with the messages that go both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pilothouse import __version__
from pilothouse.edge.openapi import REF, schemas_of, title_of
from pilothouse.wire.rest.base import Answer

MEDIA = {"ws": "application/json", "sse": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Channel:
    """A stream at one address.

    ``sends`` and ``receives``: the models of the server's and the client's messages by their type (``type`` of a JSON
    message, event of an SSE message; ``*``: any). ``query``: parameters of the URL and what they mean.
    """

    name: str
    address: str
    transport: Literal["ws", "sse"]
    summary: str
    action: str
    sends: Mapping[str, type[Answer]]
    receives: Mapping[str, type[Answer]] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


def document(channels: Iterable[Channel]) -> dict[str, Any]:
    """The document of these channels."""
    found = sorted(channels, key=lambda channel: channel.name)
    models = {model for channel in found for model in (*channel.sends.values(), *channel.receives.values())}
    operations: dict[str, Any] = {}
    for channel in found:
        operations |= _operations(channel)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Pilothouse streams",
            "version": __version__,
            "description": "Live streams over WebSocket and Server-Sent Events, resumable from a cursor.",
        },
        "defaultContentType": "application/json",
        "channels": {channel.name: _channel(channel) for channel in found},
        "operations": operations,
        "components": {
            "schemas": schemas_of(models),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "httpApiKey", "in": "cookie", "name": "pilot_token"},
            },
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    both = {**channel.sends, **channel.receives}
    described: dict[str, Any] = {
        "address": channel.address,
        "title": channel.name,
        "summary": channel.summary,
        "x-required-action": channel.action,
        "messages": {model.__name__: _message(type, model, channel) for type, model in both.items()},
    }
    if names := re.findall(r"{(\w+)}", channel.address):
        described["parameters"] = {name: {"description": name.replace("_", " ")} for name in names}
    query = {
        "type": "object",
        "properties": {name: {"type": "string", "description": what} for name, what in channel.query.items()},
    }
    binding = "ws" if channel.transport == "ws" else "http"
    if binding == "ws":
        described["bindings"] = {"ws": {"method": "GET", "query": query}}
    else:
        described["x-query"] = query
    return described


def _message(type: str, model: type[Answer], channel: Channel) -> dict[str, Any]:
    return {
        "name": model.__name__,
        "title": type,
        "summary": title_of(model),
        "contentType": MEDIA[channel.transport],
        "payload": {"$ref": REF.format(model=model.__name__)},
        "examples": [{"name": type.replace("*", "any"), "payload": model.example}],
    }


def _operations(channel: Channel) -> dict[str, Any]:
    reference = f"#/channels/{channel.name}"
    security = [
        {"$ref": "#/components/securitySchemes/bearer"},
        {"$ref": "#/components/securitySchemes/cookie"},
    ]
    found = {}
    # In AsyncAPI 3 an action is that of the application described: the server sends what clients receive.
    for action, messages in (("send", channel.sends), ("receive", channel.receives)):
        if messages:
            names = dict.fromkeys(model.__name__ for model in messages.values())
            found[f"{action}{channel.name[0].upper()}{channel.name[1:]}"] = {
                "action": action,
                "channel": {"$ref": reference},
                "summary": channel.summary,
                "security": security,
                "messages": [{"$ref": f"{reference}/messages/{name}"} for name in names],
            }
    return found
