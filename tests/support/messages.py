"""Every message of a stream that a test receives is checked against the AsyncAPI document of this release.

:func:`watch` is called once, for all WebSocket clients of the tests; readers of Server-Sent Events call
:func:`check_event`. Messages of other servers and at unknown paths are left alone.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import jsonschema_rs
import orjson
from websockets.asyncio.client import ClientConnection

from pilothouse.edge.asyncapi import document
from pilothouse.engine.sockets import arcentra, stella
from pilothouse.server import events
from support.answers import closed


class UndocumentedMessage(AssertionError):
    """A message is not what the document says."""


def watch() -> None:
    """Check what all WebSocket clients receive from now on, in this process."""
    receive = ClientConnection.recv

    @functools.wraps(receive)
    async def checked(self: ClientConnection, *args: Any, **more: Any) -> Any:
        message = await receive(self, *args, **more)
        path = self.request.path.partition("?")[0] if self.request else ""
        name = _channel(path, "ws")
        if name is not None:
            check(name, orjson.loads(message))
        return message

    ClientConnection.recv = checked  # type: ignore[method-assign]


def check_event(event: str, data: str) -> None:
    """The same for a Server-Sent Event: of the journal, or of a run."""
    message = orjson.loads(data)
    check("journal" if "specversion" in message else "runEvents", message, event)


def check(channel: str, message: Any, event: str = "") -> None:
    """Raise :class:`UndocumentedMessage` for a message that the document does not have."""
    titles = _messages(channel)
    kind = str(message.get("type", "")) if "specversion" not in message else "*"
    if kind not in titles:
        raise UndocumentedMessage(f"{channel}: no message {kind!r}: {str(message)[:300]}")
    if event and kind != "*" and event != kind:
        raise UndocumentedMessage(f"{channel}: event {event!r} with a message of type {kind!r}")
    wrong = next(iter(validator(titles[kind]).iter_errors(message)), None)
    if wrong is not None:
        place = "/".join(map(str, wrong.instance_path))
        raise UndocumentedMessage(f"{channel} {kind} at {place!r}: {wrong.message[:500]}")


@functools.cache
def asyncapi() -> dict[str, Any]:
    """The document of this release."""
    return document((*events.CHANNELS, *stella.CHANNELS, *arcentra.CHANNELS))


@functools.cache
def _messages(channel: str) -> dict[str, str]:
    """The models that the server sends on a channel, by type of message."""
    channels = {each.name: each for each in (*events.CHANNELS, *stella.CHANNELS, *arcentra.CHANNELS)}
    return {type: model.__name__ for type, model in channels[channel].sends.items()}


def _channel(path: str, transport: str) -> str | None:
    for each in (*events.CHANNELS, *stella.CHANNELS, *arcentra.CHANNELS):
        pattern = re.sub(r"\\{[^/]+\\}", "[^/]+", re.escape(each.address))
        if each.transport == transport and re.fullmatch(pattern, path):
            return each.name
    return None


@functools.cache
def validator(model: str) -> Any:
    """What validates messages of this model."""
    reference = {"$ref": f"#/components/schemas/{model}"}
    whole = closed({"components": asyncapi()["components"], **reference})
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
