"""Callers for tests without a server."""

from __future__ import annotations

from pilothouse.access.model import Principal, Role

ADMIN = Principal("user", "u-admin", "ada", Role.ADMIN, frozenset(), "t-admin", None)
