"""The typed async client of Pilothouse: ``PilotClient`` and its result types."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pilothouse.client.address import BadAddress, server_address
from pilothouse.client.credential import clean_token
from pilothouse.client.errors import ApiProblem, BadToken, ClientError, Unreachable
from pilothouse.client.paging import Page

if TYPE_CHECKING:
    from pilothouse.client.client import PilotClient
    from pilothouse.client.events import Event

__all__ = [
    "ApiProblem",
    "BadAddress",
    "BadToken",
    "ClientError",
    "Event",
    "Page",
    "PilotClient",
    "Unreachable",
    "clean_token",
    "server_address",
]

_WITH_HTTP = {"PilotClient": "client", "Event": "events"}


def __getattr__(name: str) -> Any:
    """Import what needs an HTTP library when it is first used: an agent reads addresses only."""
    if name not in _WITH_HTTP:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WITH_HTTP[name]}"), name)
