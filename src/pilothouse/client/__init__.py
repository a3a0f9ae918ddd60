"""The typed async client of Pilothouse: ``PilotClient`` and its result types."""

from __future__ import annotations

from pilothouse.client.address import BadAddress, server_address
from pilothouse.client.client import PilotClient
from pilothouse.client.credential import clean_token
from pilothouse.client.errors import ApiProblem, BadToken, ClientError, Unreachable
from pilothouse.client.events import Event
from pilothouse.client.paging import Page

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
