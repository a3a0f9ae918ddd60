"""Addresses to dial, from addresses that are listened on."""

from __future__ import annotations

from urllib.parse import urlsplit

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def reachable(url: str) -> str:
    """A URL that leads to this machine where the server listens on all its addresses."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{reachable_host(parts.netloc)}"


def reachable_host(address: str) -> str:
    """The same of ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    return f"{_EVERYWHERE.get(host, host)}:{port}"
