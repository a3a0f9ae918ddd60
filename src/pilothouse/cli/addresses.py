"""Derive the address to connect to from a listen address."""

from __future__ import annotations

from urllib.parse import urlsplit

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def reachable(url: str) -> str:
    """The URL with a wildcard host (``0.0.0.0``, ``::``) replaced by the loopback address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{reachable_host(parts.netloc)}"


def reachable_host(address: str) -> str:
    """Same as :func:`reachable` for ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    return f"{_EVERYWHERE.get(host, host)}:{port}"
